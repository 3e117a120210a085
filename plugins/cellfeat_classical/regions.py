"""Binary images of square frames: discs, holes, components, hulls."""

from __future__ import annotations

import numpy as np


def disc(diameter: float) -> np.ndarray:
    """A round structuring element of the odd width nearest to `diameter` px, (W, W) uint8."""
    import cv2

    width = 2 * max(round((diameter - 1) / 2), 0) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))


def grown(mask: np.ndarray, diameter: float) -> np.ndarray:
    """(S, S) bool dilated by a disc."""
    import cv2

    return cv2.dilate(mask.astype(np.uint8), disc(diameter)) > 0


def shrunk(mask: np.ndarray, diameter: float) -> np.ndarray:
    """(S, S) bool eroded by a disc; the frame's border does not erode."""
    import cv2

    return cv2.erode(mask.astype(np.uint8), disc(diameter)) > 0


def opened(mask: np.ndarray, diameter: float) -> np.ndarray:
    """(S, S) bool without what is narrower than the disc."""
    import cv2

    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, disc(diameter)) > 0


def depth(mask: np.ndarray) -> np.ndarray:
    """(S, S) bool -> (S, S) float32: px from each True pixel to the nearest False one."""
    import cv2

    return cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)


def filled(mask: np.ndarray, most: float = np.inf) -> np.ndarray:
    """(S, S) bool with the holes of at most `most` px filled; what touches the frame's border is no hole."""
    import cv2

    _, parts, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    left, top, width, height, area = stats.T
    inside = (left > 0) & (top > 0) & (left + width < mask.shape[1]) & (top + height < mask.shape[0])
    inside &= area <= most
    inside[0] = False  # component 0 is the mask itself
    return mask | inside[parts]


def touching(mask: np.ndarray, marker: np.ndarray) -> np.ndarray:
    """The 4-connected components of a mask that hold a part of the marker, (S, S) bool."""
    import cv2

    count, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    kept = np.zeros(count, dtype=bool)
    kept[parts[marker & mask]] = True
    return kept[parts]


def convex_hull(mask: np.ndarray) -> np.ndarray:
    """The smallest convex region that holds the mask, (S, S) bool."""
    import cv2

    points = np.argwhere(mask)[:, ::-1].astype(np.int32)
    return cv2.fillConvexPoly(np.zeros(mask.shape, np.uint8), cv2.convexHull(points), 1) > 0
