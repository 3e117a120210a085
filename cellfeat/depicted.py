"""What a method makes of a cell's image, where it makes one: a reconstruction, or the image that it wrote."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cellfeat.pipeline import Pipeline
from cellfeat.slots import Context
from cellfeat.types import Cells

RECONSTRUCTED, WRITTEN = "reconstruction", "written"


class Depiction(NamedTuple):
    """images: (N, 3, s, s) uint8 RGB of the cells, in their order. kind: `RECONSTRUCTED` or `WRITTEN`, by `method`."""

    method: str
    kind: str
    images: np.ndarray


def depicted(pipeline: Pipeline, cells: Cells, context: Context) -> Depiction | None:
    """What the first method of a fitted chain that reconstructs draws; else what the last that writes images wrote."""
    painter = None
    for number, method in enumerate(pipeline.methods):
        if hasattr(method.aligner, "reconstruct"):
            before = pipeline.transformed(cells, context, number)
            return Depiction(method.name, RECONSTRUCTED, method.reconstruct(before, context))
        painter = number if method.aligner.writes == "image" else painter
    if painter is None:
        return None
    before, method = pipeline.transformed(cells, context, painter), pipeline.methods[painter]
    return Depiction(method.name, WRITTEN, np.array(method.transform(before, context)))
