"""The cells of one photograph: its scale found, its cells detected, each cut out and kept as a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cellfeat.decode import read_rgb
from cellfeat.detecting import detected
from cellfeat.errors import CellfeatError
from cellfeat.illumination import evened, lit
from cellfeat.smear_crops import box_diameter, cropped, cut_by_border, touching
from cellfeat.smear_folder import FoundCell
from cellfeat.smear_photographs import Photograph
from cellfeat.smear_scales import Estimate
from cellfeat.synthetic import NEUTROPHIL_DIAMETER

GIVEN, MEASURED = "given", "the median of the cells that were found"
FAR = 1.6  # factor between estimate and the cells' own median beyond which their classes alone explain nothing
LEAST_DIAMETER = 4  # px; in smaller pictures no cell can be told
OPTIONS = (
    "say how large a typical white cell is in the photograph: --cell-size PX (its diameter), or --um-per-px UM (of the "
    "camera and objective)"
)


class NoScale(CellfeatError):
    """A photograph in which nothing tells how large a cell is, as in an empty field."""


@dataclass(frozen=True)
class Scale:
    """diameter: px of a typical white cell in the photographs, None to estimate it in each. share: of a training
    image's side that such a cell takes."""

    diameter: float | None
    share: float

    @classmethod
    def of(cls, cell_size: float | None, um_per_px: float | None, share: float) -> Scale:
        """From the options; um_per_px: µm, a typical white cell being a neutrophil of 13.5 µm.

        Raises: CellfeatError for both, and for numbers that cannot be.
        """
        if cell_size is not None and um_per_px is not None:
            raise CellfeatError("--cell-size and --um-per-px both say the scale; give one of them")
        if um_per_px is not None and not 0 < um_per_px <= NEUTROPHIL_DIAMETER / LEAST_DIAMETER:
            raise CellfeatError(
                f"--um-per-px {um_per_px:g}: micrometres of one pixel, above 0 and at most "
                f"{NEUTROPHIL_DIAMETER / LEAST_DIAMETER:.2g}, as in 0.1"
            )
        if cell_size is not None and not LEAST_DIAMETER <= cell_size < float("inf"):
            raise CellfeatError(
                f"--cell-size {cell_size:g}: the diameter of a cell in pixels, {LEAST_DIAMETER} or more, as in 180"
            )
        if not 0 < share <= 1:
            raise CellfeatError(f"--cell-share {share:g}: a cell's share of an image's side, above 0 and at most 1")
        return cls(NEUTROPHIL_DIAMETER / um_per_px if um_per_px else cell_size, share)


class Found(NamedTuple):
    """What was found in a photograph. diameter: px, and where it is from; None where there was neither a scale nor a
    cell. side: of the crops, px. enlarged: crops that had to be larger. problem: why it was not searched."""

    photograph: Photograph
    cells: list[FoundCell]
    diameter: float | None
    origin: str
    side: int
    enlarged: int
    problem: str = ""

    def row(self) -> dict[str, Any]:
        """A line of `fields.csv`."""
        one = self.photograph
        return {
            "field": one.name,
            "patient": one.patient,
            "path": one.said,
            "width": one.width,
            "height": one.height,
            "sha256": one.sha256,
            "cells": len(self.cells),
            "touching": sum(cell.touching for cell in self.cells),
            "cut": sum(cell.cut for cell in self.cells),
            "diameter": "" if self.diameter is None else f"{self.diameter:.1f}",
            "scale": self.origin,
            "crop_side": self.side or "",
            "enlarged": self.enlarged,
            "problem": self.problem,
        }


def find_cells(
    one: Photograph,
    segmenter: Any,
    name: str,
    scale: Scale,
    guess: Estimate,
    folder: Path,
    skip_bad: bool = False,
) -> Found:
    """Detect the cells of a photograph and write their crops into a folder of an output.

    name: the segmenter's, for messages. guess: the diameter where `scale` has none. skip_bad: whatever cannot be done
    in this photograph is its `problem`, as the absence of a scale always is.

    Raises: CellfeatError for a cell too large or too small for the photograph, and for boxes that are none.
    """
    image = read_rgb(one.path)
    try:
        boxes, diameter, origin = _boxes(image, one, segmenter, name, scale, guess)
    except CellfeatError as error:
        if skip_bad or isinstance(error, NoScale):
            return Found(one, [], None, "", 0, 0, str(error))
        raise CellfeatError(f"{one.said}: {error}") from None
    if diameter is None or not len(boxes):
        return Found(one, [], diameter, origin, 0, 0)
    cut, near = cut_by_border(boxes, one.width, one.height, diameter), touching(boxes)
    crops = cropped(evened(lit(image)), boxes, diameter / scale.share)
    cells = [
        FoundCell(f"{one.name}/{number:04d}", one.patient, one.name, tuple(box), bool(touches), bool(is_cut))
        for number, (box, touches, is_cut) in enumerate(zip(boxes.tolist(), near, cut, strict=True), 1)
    ]
    _write([folder / cell.crop for cell in cells], crops.pictures)
    return Found(one, cells, diameter, origin, crops.side, int(crops.enlarged.sum()))


def _boxes(
    image: np.ndarray, one: Photograph, segmenter: Any, name: str, scale: Scale, estimate: Estimate
) -> tuple[np.ndarray, float | None, str]:
    """(K, 4) boxes, the diameter in px and where it is from.

    The median of the cells' own diameters depends on what classes they are of, and stands in where nothing else tells
    the scale, or where it is so far from the estimate that this must be wrong; then cells are looked for again.
    """
    if scale.diameter is not None:
        if scale.diameter > max(image.shape[:2]):
            raise CellfeatError(
                f"a cell {scale.diameter:g} px wide, as --cell-size or --um-per-px says, is larger than the photograph "
                f"({one.width} x {one.height} px)"
            )
        return detected(segmenter, name, image, scale.diameter), scale.diameter, GIVEN
    guess = estimate.diameter
    if guess is None and getattr(segmenter, "cell_diameter", None) is not None:
        raise NoScale(f"no scale could be estimated, and {name} finds cells at a known scale alone; {OPTIONS}")
    boxes = detected(segmenter, name, image, guess)
    measured = _measured(boxes, one, guess)
    if guess is None:
        if len(boxes) and measured is None:
            raise NoScale(f"every cell is cut by the border, so that the scale is not known; {OPTIONS}")
        return boxes, measured, MEASURED
    if measured is None or 1 / FAR <= measured / guess <= FAR:
        return boxes, guess, estimate.origin
    boxes = detected(segmenter, name, image, measured)
    return boxes, _measured(boxes, one, measured) or measured, MEASURED


def _measured(boxes: np.ndarray, one: Photograph, guess: float | None) -> float | None:
    cut = cut_by_border(boxes, one.width, one.height, guess or 0.0)
    return box_diameter(boxes, cut, 1) if guess is None else box_diameter(boxes, cut)


def _write(paths: list[Path], pictures: list[np.ndarray]) -> None:
    from PIL import Image

    for path, picture in zip(paths, pictures, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path, format="PNG", compress_level=1)
