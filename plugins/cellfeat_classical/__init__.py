"""What costs nothing: backbone `colour` (histograms), segmenters `otsu` and `classical`; floors for every table."""

from __future__ import annotations

from cellfeat import hookimpl
from cellfeat_classical.classical import Classical
from cellfeat_classical.colour import Colour
from cellfeat_classical.otsu import Otsu


@hookimpl
def cellfeat_backbone() -> dict:
    return {"colour": Colour}


@hookimpl
def cellfeat_segmenter() -> dict:
    return {"otsu": Otsu, "classical": Classical}
