"""White cells of a whole photograph: found by their nuclei, outlined by flooding a window around each."""

from __future__ import annotations

import numpy as np

from cellfeat import images
from cellfeat_classical.azure import azure, nuclear_mask
from cellfeat_classical.classical import WORKING_SIDE, cell_and_nucleus
from cellfeat_classical.lobes import nuclear_groups
from cellfeat_classical.nucleus import optical_density
from cellfeat_classical.regions import convex_hull, grown

CELL_DIAMETER = WORKING_SIDE / 2  # px of a typical neutrophil: half of the window in which it is outlined
EDGE = WORKING_SIDE / 22  # px by which a marker is wider than its nucleus
LEAST_SIDE = 16  # px; a smaller picture holds no cell
STAINED = 0.04  # optical density from which a pixel is no empty field
DARKER = 1.4  # times what nine tenths of the rest of what is stained lose of red light; less is a stack of red cells
LEAST_CELL, MOST_CELL = 0.4, 2.2  # sides of a box in typical diameters; the border may cut it to less
SHARED = 0.6  # of the smaller of two boxes: then both are one cell


def detect_cells(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (K, 4) float32 boxes x1, y1, x2, y2 px of white cells about CELL_DIAMETER px wide."""
    if min(image.shape[:2]) < LEAST_SIDE:
        return np.zeros((0, 4), dtype=np.float32)
    field = images.illumination(image)
    density = optical_density(image, field)
    mask = nuclear_mask(azure(density, CELL_DIAMETER), CELL_DIAMETER)
    if not mask.any():
        return np.zeros((0, 4), dtype=np.float32)
    groups = nuclear_groups(mask, density.max(axis=2) > STAINED, CELL_DIAMETER)
    rest = density[..., 0][(density[..., 1] > STAINED) & ~mask]
    least = DARKER * float(np.quantile(rest, 0.9)) if rest.size else 0.0
    boxes = []
    for number in range(1, int(groups.max()) + 1):
        nucleus = groups == number
        spans = max(np.ptp(places) for places in np.nonzero(nucleus))  # a frame or a clot is wider than any nucleus
        if spans < WORKING_SIDE and np.median(density[..., 0][nucleus]) > least:
            boxes += [_box(image, field, density, groups, number)]
    return _single([box for box in boxes if _possible(box, image.shape[:2])])


def _box(image: np.ndarray, field: np.ndarray, density: np.ndarray, groups: np.ndarray, number: int) -> np.ndarray:
    """x1, y1, x2, y2 px of the cell around one nucleus, (4,) float32, inside the photograph.

    Beyond the border the last pixels are repeated, so that a cut cell goes on there.
    """
    import cv2

    ys, xs = np.nonzero(groups == number)
    top = (int(ys.min()) + int(ys.max()) + 1 - WORKING_SIDE) // 2
    left = (int(xs.min()) + int(xs.max()) + 1 - WORKING_SIDE) // 2
    rows = np.clip(np.arange(top, top + WORKING_SIDE), 0, len(image) - 1)
    columns = np.clip(np.arange(left, left + WORKING_SIDE), 0, image.shape[1] - 1)
    view = np.ix_(rows, columns)
    seen = groups[view]
    own = seen == number
    hull = convex_hull(own)
    # beyond the steep edge of their nuclei, as the marker of the cell itself is, or its flood would be the first
    rivals = [grown(convex_hull(seen == other), EDGE) & ~hull for other in np.unique(seen) if other not in (0, number)]
    parts = own, np.logical_or.reduce([np.zeros_like(own), *rivals])
    cell, _ = cell_and_nucleus(image[view], field[view], density[view], seen > 0, lambda *_: parts)
    x, y, width, height = cv2.boundingRect(cell.astype(np.uint8))
    corners = np.array([x + left, y + top, x + left + width, y + top + height], dtype=np.float32)
    return np.clip(corners, 0, np.array([*image.shape[1::-1]] * 2, dtype=np.float32))


def _possible(box: np.ndarray, shape: tuple[int, int]) -> bool:
    """Whether a white cell can have this box: neither too small, unless the border cuts it, nor too large."""
    sides = (box[2:] - box[:2]) / CELL_DIAMETER
    cut = bool((box[:2] <= 0).any() or (box[2:] >= shape[::-1]).any())
    return sides.max() <= MOST_CELL and sides.min() > 0 and (cut or sides.min() >= LEAST_CELL)


def _single(boxes: list[np.ndarray]) -> np.ndarray:
    """One box per cell, (K, 4) float32: of two that share most of the smaller one, the larger is kept."""
    kept: list[np.ndarray] = []
    for box in sorted(boxes, key=lambda box: -float(np.prod(box[2:] - box[:2]))):
        for other in kept:
            sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
            if (sides > 0).all() and np.prod(sides) > SHARED * np.prod(box[2:] - box[:2]):
                break
        else:
            kept.append(box)
    return np.array(kept, dtype=np.float32).reshape(-1, 4)
