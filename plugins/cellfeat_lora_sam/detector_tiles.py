"""A photograph of any size as overlapping tiles, and the boxes of all tiles as those of the photograph."""

from __future__ import annotations

import numpy as np

from cellfeat_lora_sam.detector_head import TILE

MARGIN = 24  # px along a tile's border where no middle of a cell is believed: half of the cell may be hidden
OVERLAP = 64  # px that neighbours share: more than two margins, or a cell between them could be in neither
SAME = 0.4  # boxes that overlap by this much (intersection over union) are of one cell; touching cells' do so by 0.1
INSIDE = 0.75  # so are boxes of which one covers this share of the other


def starts(length: int) -> list[int]:
    """Where tiles begin along a side of `length` px, at least `TILE`: evenly, the last one ending with the side."""
    count = max(1, -(-(length - OVERLAP) // (TILE - OVERLAP)))
    return [round(start) for start in np.linspace(0, length - TILE, count)]


def padded(image: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """An image (3, H, W) mirrored at its borders, again and again, to `TILE` at least; and the rows and columns before.

    Mirrored, and not filled, because the network standardises a tile by its own colours.
    """
    missing = [max(0, TILE - side) for side in image.shape[1:]]
    if not any(missing):
        return image, (0, 0)
    before = missing[0] // 2, missing[1] // 2
    around = [(0, 0), *((start, total - start) for start, total in zip(before, missing, strict=True))]
    return np.pad(image, around, mode="symmetric"), before


def believed(boxes: np.ndarray, corner: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Which boxes (K, 4) of the tile at `corner` (y, x) of a photograph of `size` (H, W) are no matter of its margin.

    Where the photograph ends there is no neighbour that would see more.
    """
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    kept = np.ones(len(boxes), bool)
    for axis, (start, side) in enumerate(zip(corner[::-1], size[::-1], strict=True)):
        if start > 0:
            kept &= middles[:, axis] >= MARGIN
        if start + TILE < side:
            kept &= middles[:, axis] < TILE - MARGIN
    return kept


def suppressed(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Rows of the boxes (K, 4) to keep, best first: of boxes of one cell, the one with the highest score."""
    order, kept = np.argsort(-scores, kind="stable"), []
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(int(best))
        low, high = np.maximum(boxes[best, :2], boxes[rest, :2]), np.minimum(boxes[best, 2:], boxes[rest, 2:])
        shared = np.prod((high - low).clip(0), axis=1)
        union = areas[best] + areas[rest] - shared
        covered = shared / np.minimum(areas[best], areas[rest]).clip(1e-6)
        order = rest[(shared < SAME * union) & (covered < INSIDE)]
    return np.array(kept, dtype=np.int64)
