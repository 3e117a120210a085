"""White cells of a photograph by a segmenter's `detect`: brought to the scale it works at, its boxes brought back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cellfeat.errors import CellfeatError, blamed
from cellfeat.illumination import lit
from cellfeat.images import resize

if TYPE_CHECKING:
    from cellfeat.registry import Registry

MOST_PIXELS = 50_000_000  # of a photograph as a detector sees it; 4,000 x 3,000 px are 12 million
MOST_ENLARGED = 8.0  # times; a cell of so few px shows nothing that a detector could go by
LEAST_DIAMETER = 4.0  # px of a typical white cell; in smaller ones nothing is to be told
ROW = 0.5  # of the typical box's height: centres as near as this in y are one row


def detectors(registry: Registry | None = None) -> list[str]:
    """The names of the segmenters that find cells in whole photographs, of a registry or of what is installed."""
    from cellfeat.registry import installed

    offers = (installed() if registry is None else registry).offers
    return sorted({one.name for one in offers if one.slot == "segmenter" and one.facts().detects})


def detected(segmenter: Any, name: str, image: np.ndarray, diameter: float | None = None) -> np.ndarray:
    """(K, 4) float32 boxes (x1, y1, x2, y2) of the white cells, in px of the photograph, in reading order.

    Args:
        segmenter: an object of the slot. name: its name, for messages.
        image: (H, W, 3) uint8 RGB. What no light reached, as around a round eyepiece field, is shown to the segmenter
            in the colour of the empty field.
        diameter: of a typical white cell (a neutrophil) in the photograph, px. A segmenter with a `cell_diameter` needs
            it: the photograph is resized for it by the quotient of both. Others are shown the photograph as it is.

    Boxes are clipped to the photograph, and what is then empty is left out. Rows go down, x to the right in each.

    Raises:
        CellfeatError: for a segmenter that does not detect, a diameter that is absent or cannot be, a photograph that
            would have more than 50 million px, and boxes that are none.
    """
    find = getattr(segmenter, "detect", None)
    if find is None:
        able = ", ".join(detectors()) or "none"
        raise CellfeatError(
            f"the segmenter {name!r} finds no cells in whole photographs (it has no `detect`); those installed that "
            f"do: {able}"
        )
    seen = _scaled(lit(image), name, getattr(segmenter, "cell_diameter", None), diameter)
    with blamed(f"segmenter {name!r}", name):
        boxes = _checked(find(_tensor(seen)), name)
    height, width = image.shape[:2]
    boxes *= np.tile((width / seen.shape[1], height / seen.shape[0]), 2)
    boxes = boxes.clip(0, (width, height, width, height)).astype(np.float32)
    return in_reading_order(boxes[(boxes[:, :2] < boxes[:, 2:]).all(axis=1)])


def in_reading_order(boxes: np.ndarray) -> np.ndarray:
    """(K, 4) boxes by rows, then by x. A row holds those whose middle is near that of its topmost one."""
    boxes = boxes[np.lexsort(boxes.T)]  # whatever order they came in, it decides nothing
    if not len(boxes):
        return boxes
    middle = (boxes[:, 1] + boxes[:, 3]) / 2
    near, rows, top = ROW * float(np.median(boxes[:, 3] - boxes[:, 1])), np.zeros(len(boxes), int), -np.inf
    row = -1
    for number in np.argsort(middle, kind="stable"):
        if middle[number] > top + near:
            row, top = row + 1, float(middle[number])
        rows[number] = row
    return boxes[np.lexsort((boxes[:, 0], rows))]


def _scaled(image: np.ndarray, name: str, works_at: float | None, diameter: float | None) -> np.ndarray:
    """The photograph as the segmenter wants it."""
    height, width = image.shape[:2]
    factor = 1.0 if works_at is None else _factor(name, works_at, diameter)
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    if size[0] * size[1] > MOST_PIXELS:
        at = "" if works_at is None else f" at the scale of {name!r}, {factor:.2g} times its own"
        raise CellfeatError(
            f"a photograph {width} x {height} px would have {size[0] * size[1] / 1e6:.0f} million px{at}; possible are "
            f"{MOST_PIXELS / 1e6:.0f} million. Cut it into fields"
            + ("" if works_at is None else ", or correct the size of a typical white cell")
        )
    return resize(image, size, "area" if factor < 1 else "bilinear")


def _factor(name: str, works_at: float, diameter: float | None) -> float:
    """How many times its own size a photograph is shown."""
    if diameter is None:
        raise CellfeatError(
            f"the segmenter {name!r} works where a typical white cell is {works_at:g} px wide, so it must be told how "
            "wide one is in the photograph, in px"
        )
    if not LEAST_DIAMETER <= diameter < np.inf:
        raise CellfeatError(
            f"a typical white cell {diameter:g} px wide cannot be; possible are {LEAST_DIAMETER:g} px and more"
        )
    factor = works_at / diameter
    if factor > MOST_ENLARGED:
        raise CellfeatError(
            f"a typical white cell {diameter:g} px wide is too small for the segmenter {name!r}, which works at "
            f"{works_at:g} px: photographs are enlarged {MOST_ENLARGED:g} times at most. Take a photograph of a higher "
            "magnification"
        )
    return factor


def _tensor(image: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _checked(answer: Any, name: str) -> np.ndarray:
    """The answer of `detect` as (K, 4) float64; a tensor of any device will do."""
    import torch

    boxes = answer.detach().cpu().numpy() if isinstance(answer, torch.Tensor) else answer
    boxes = np.array(boxes, dtype=np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        what = f"of the shape {boxes.shape}" if np.isfinite(boxes).all() else "that are no finite numbers"
        raise CellfeatError(
            f"the segmenter {name!r} gave boxes {what}, must be (boxes, 4) px. Tell the plugin's author: `cellfeat "
            f"plugins check {name}`"
        )
    return boxes
