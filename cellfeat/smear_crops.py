"""The cells of a photograph cut out at the scale that a run has learnt from, and what is to be said of their place.

One square size for all cells of a photograph, so that a small lymphocyte stays smaller than a monocyte: side = diameter
of a typical white cell / share of the side that such a cell has in the run's training images.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LEAST_BOXES = 5  # whole cells whose median is a better scale than an estimate from the photograph
MARGIN = 1.1  # of the square around a cell that is larger than the usual one
BORDER = 0.02  # of a typical diameter: a box that comes so near to the border is cut by it
NEAR = 1.05  # cells whose outlines come so near touch
BRIGHTEST = 75  # per cent of the pixels are darker than what counts as background


class Crops(NamedTuple):
    """pictures: K squares, each (s, s, 3) uint8 RGB. side: px of the usual one. enlarged: (K,) bool, larger ones."""

    pictures: list[np.ndarray]
    side: int
    enlarged: np.ndarray


def box_diameter(boxes: np.ndarray, cut: np.ndarray, least: int = LEAST_BOXES) -> float | None:
    """Median diameter, px, of the whole cells of (K, 4) boxes; None where there are fewer than `least`."""
    sides = (boxes[~cut, 2:] - boxes[~cut, :2]).mean(axis=1)
    return float(np.median(sides)) if len(sides) >= least else None


def cut_by_border(boxes: np.ndarray, width: int, height: int, diameter: float) -> np.ndarray:
    """(K,) bool: boxes (x1, y1, x2, y2) px that reach the border of the photograph."""
    near = max(1.0, BORDER * diameter)
    beyond = (boxes[:, :2] <= near).any(axis=1)
    return beyond | (boxes[:, 2] >= width - near) | (boxes[:, 3] >= height - near)


def touching(boxes: np.ndarray) -> np.ndarray:
    """(K,) bool: cells that reach another one, each taken as the ellipse in its (x1, y1, x2, y2) box; two boxes alone
    overlap at their corners where round cells lie far apart."""
    from scipy.spatial import KDTree

    found = np.zeros(len(boxes), bool)
    if not len(boxes):
        return found
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, np.maximum((boxes[:, 2:] - boxes[:, :2]) / 2, 1e-6)
    tree, longest = KDTree(centre), half.max(axis=1)
    for cell in range(len(boxes)):
        # Cells that are no larger than this one can touch it from here; the larger ones look for it in their turn.
        others = np.array(tree.query_ball_point(centre[cell], 2 * NEAR * longest[cell]), int)
        others = others[(others != cell) & (longest[others] <= longest[cell])]
        apart = centre[others] - centre[cell]
        distance = np.hypot(apart[:, 0], apart[:, 1])
        away = apart / np.maximum(distance, 1e-9)[:, None]
        # The ellipses' radii in the direction of the other cell.
        reach = [1 / np.sqrt(((away / one) ** 2).sum(axis=1).clip(1e-18)) for one in (half[cell], half[others])]
        near = others[distance <= NEAR * (reach[0] + reach[1])]
        found[near] = True
        found[cell] |= bool(len(near))
    return found


def cropped(image: np.ndarray, boxes: np.ndarray, side: float) -> Crops:
    """Squares of `side` px around the middle of each (x1, y1, x2, y2) box of an (H, W, 3) uint8 RGB photograph.

    Beyond the border lies the colour of the background: a mirrored picture would show a cut cell with a second nucleus,
    which is what a class is told by. A cell that is larger than the square gets a larger one.
    """
    usual = max(1, round(side))
    longest = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0.0)
    enlarged = longest > usual
    sides = np.where(enlarged, np.ceil(MARGIN * longest), usual).astype(int)
    corner = np.rint((boxes[:, :2] + boxes[:, 2:]) / 2 - sides[:, None] / 2).astype(int)
    colour = background(image)
    return Crops(
        [_square(image, at, one, colour) for at, one in zip(corner.tolist(), sides.tolist(), strict=True)],
        usual,
        enlarged,
    )


def _square(image: np.ndarray, corner: list[int], side: int, colour: np.ndarray) -> np.ndarray:
    left, top = corner
    found = np.empty((side, side, 3), np.uint8)
    found[:] = colour
    height, width = image.shape[:2]
    x1, y1, x2, y2 = max(0, left), max(0, top), min(width, left + side), min(height, top + side)
    found[y1 - top : y2 - top, x1 - left : x2 - left] = image[y1:y2, x1:x2]
    return found


def background(image: np.ndarray) -> np.ndarray:
    """(3,) uint8 RGB, the median colour of the brightest quarter of a photograph: where there are no cells, as white
    and red ones take light away."""
    step = max(1, round((image.shape[0] * image.shape[1] / 250_000) ** 0.5))
    few = image[::step, ::step].reshape(-1, 3)
    light = few.astype(np.int32).sum(axis=1)
    return np.median(few[light >= np.percentile(light, BRIGHTEST)], axis=0).astype(np.uint8)
