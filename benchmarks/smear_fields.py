"""A field without white cells, quilted from the surroundings of real ones.

Pieces of photographs are laid one over the other and cut along the line where they differ least, found by a minimum cut
(Kwatra et al. 2003, "Graphcut textures", ACM Trans. Graph. 22:277-286, by OpenCV); Efros & Freeman (2001, SIGGRAPH
341-346) try several pieces for a place and keep the likest, and so do we. All in optical density, which is 0 on the
empty slide of every photograph.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

CANDIDATES = 4  # pieces that are tried for a place
STEP = 0.55  # from place to place, in sides of the smallest piece
SOFT = 1.0  # px, standard deviation of the blend over a seam
# costs of a cut in squared grey levels: through what one alone has, and along a photograph's edge, which would leave
# half a cell
TIED, AT_AN_EDGE = 1e8, 1e5


def quilt(
    densities: Sequence[np.ndarray], free: Sequence[np.ndarray], size: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Field (H, W, 3) float32 of optical density.

    densities: (h, w, 3) float32 of each photograph. free: (h, w) bool, what of it may be used. size: (width, height).
    """
    width, height = size
    step = max(8, round(STEP * min(min(one.shape[:2]) for one in densities)))
    field, filled = np.zeros((height, width, 3), np.float32), np.zeros((height, width), bool)
    rows, columns = range(step // 2, height + step // 2, step), range(step // 2, width + step // 2, step)
    spots = [(min(y, height - 1), min(x, width - 1)) for y in rows for x in columns]
    for y, x in spots:
        if not filled[y, x] or rng.random() < 0.5:
            _cover(field, filled, (y, x), densities, free, rng)
    while not filled.all():
        left = np.flatnonzero(~filled)
        _cover(field, filled, divmod(int(left[rng.integers(len(left))]), width), densities, free, rng)
    return field


def _cover(
    field: np.ndarray,
    filled: np.ndarray,
    spot: tuple[int, int],
    densities: Sequence[np.ndarray],
    free: Sequence[np.ndarray],
    rng: np.random.Generator,
) -> None:
    """Lay a piece over the spot, in place: the one of a few that differs least from what is there already."""
    best, least = None, np.inf
    for number in rng.integers(len(densities), size=CANDIDATES).tolist():
        turn, flip = int(rng.integers(4)), 1 if rng.random() < 0.5 else -1
        piece, usable = (np.rot90(plane, turn)[::flip] for plane in (densities[number], free[number]))
        corner = _anchored(usable, spot, rng)
        rows, columns, inner = _window(corner, usable.shape, filled.shape)
        shared = filled[rows, columns] & usable[inner]
        off = np.abs(field[rows, columns][shared] - piece[inner][shared])
        cost = float(off.mean()) if off.size else 0.0
        if cost < least:
            best, least = (rows, columns, piece[inner], usable[inner]), cost
    if best:
        _join(field, filled, *best)


def _anchored(usable: np.ndarray, spot: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """Top left corner of a piece such that a usable pixel, rather far from those that are not, lies on the spot."""
    depth = cv2.distanceTransform(np.pad(usable, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    deep = np.flatnonzero(depth >= 0.6 * depth.max())
    y, x = divmod(int(deep[rng.integers(len(deep))]), usable.shape[1])
    return spot[0] - y, spot[1] - x


def _window(
    corner: tuple[int, int], piece: tuple[int, ...], field: tuple[int, ...]
) -> tuple[slice, slice, tuple[slice, slice]]:
    """Rows and columns of the field that a piece covers, and the same in the piece."""
    begins = [max(at, 0) for at in corner]
    ends = [min(at + side, whole) for at, side, whole in zip(corner, piece, field, strict=False)]
    rows, columns = (slice(begin, end) for begin, end in zip(begins, ends, strict=True))
    inner = [slice(begin - at, end - at) for begin, end, at in zip(begins, ends, corner, strict=True)]
    return rows, columns, (inner[0], inner[1])


def _join(
    field: np.ndarray, filled: np.ndarray, rows: slice, columns: slice, piece: np.ndarray, usable: np.ndarray
) -> None:
    """Lay a piece on the field, in place, up to the best seam through what both have."""
    there, there_filled = field[rows, columns], filled[rows, columns]
    chosen = usable & ~there_filled
    if (usable & there_filled).any():
        chosen = _cut(there, there_filled, piece, usable)
    # a seam is blended where both are known, so that it cannot be seen as an edge
    cover = cv2.GaussianBlur(chosen.astype(np.float32), (0, 0), SOFT)
    cover = np.where(there_filled & usable, cover, chosen)[..., None]
    field[rows, columns] = there * (1 - cover) + piece * cover
    filled[rows, columns] = there_filled | chosen


def _cut(there: np.ndarray, filled: np.ndarray, piece: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """(h, w) bool, the pixels that the piece gets."""
    masks = [plane.astype(np.uint8) * 255 for plane in (filled, usable)]
    pictures = [(255 * np.exp(-plane)).astype(np.float32) for plane in (there, piece)]
    finder = cv2.detail_GraphCutSeamFinder("COST_COLOR", TIED, AT_AN_EDGE)
    found = finder.find([cv2.UMat(plane) for plane in pictures], [(0, 0), (0, 0)], [cv2.UMat(mask) for mask in masks])
    new = found[1].get() > 0
    return (new & usable) | (usable & ~filled)
