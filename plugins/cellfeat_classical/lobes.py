"""Pixels of nuclei to single nuclei: what touches is parted at its necks, lobes of one cell are put together."""

from __future__ import annotations

import numpy as np

from cellfeat_classical.regions import depth, disc

NECK = 0.8  # of the depth of the smaller lobe: a narrower neck parts two lobes
SOLID = 0.93  # of its convex hull: a fuller body has no neck
SPECK = 0.012  # times the squared diameter of a white cell, as all areas here: less is no lobe
LEAST, LEAST_CUT = 0.085, 0.04  # a nucleus; one that the border cuts
WHOLE = 0.14  # two lobes that are both larger are two nuclei, unless they lie within one cell
GAP, SPAN = 0.22, 1.0  # in diameters of a white cell: between lobes of one nucleus, and from end to end of them
WITHIN = 0.97  # the same of two large lobes: the nuclei of two cells that touch reach further


def nuclear_groups(mask: np.ndarray, stained: np.ndarray, diameter: float) -> np.ndarray:
    """(H, W) bool pixels of nuclei and of all that is stained -> (H, W) int32: 0, or the number of the nucleus from 1.

    Platelets and specks, which are smaller than any nucleus, get none. `diameter`: of a typical white cell, px.
    """
    lobes, areas, hulls = _all_lobes(mask, diameter)
    owner = _joined(areas, hulls, stained, diameter)
    border = np.zeros(len(areas), dtype=bool)
    for edge in (lobes[0], lobes[-1], lobes[:, 0], lobes[:, -1]):
        border[edge[edge > 0] - 1] = True
    number = np.zeros(len(areas) + 1, dtype=np.int32)
    count = 0
    for group in dict.fromkeys(owner):
        members = [lobe for lobe, own in enumerate(owner) if own == group]
        least = LEAST_CUT if border[members].any() else LEAST
        if areas[members].sum() >= least * diameter**2:
            count += 1
            number[np.array(members) + 1] = count
    return number[lobes]


def _all_lobes(mask: np.ndarray, diameter: float) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """(H, W) bool -> (H, W) int32 lobes from 1, their L areas in px, and their L outlines' hulls, (P, 2) x, y px."""
    import cv2

    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    lobes = np.zeros(mask.shape, dtype=np.int32)
    areas: list[int] = []
    hulls: list[np.ndarray] = []
    for part, (left, top, width, height, area) in enumerate(stats[1:], start=1):
        if area < SPECK * diameter**2:
            continue
        view = (slice(top, top + height), slice(left, left + width))
        pieces = _parted(parts[view] == part, diameter)
        for piece in range(1, int(pieces.max()) + 1):
            own = pieces == piece
            if own.sum() < SPECK * diameter**2:
                continue
            areas.append(int(own.sum()))
            lobes[view][own] = len(areas)
            points = np.argwhere(own)[:, ::-1] + np.array([left, top])
            hulls.append(cv2.convexHull(points.astype(np.int32))[:, 0])
    return lobes, np.array(areas, dtype=float), hulls


def _parted(body: np.ndarray, diameter: float) -> np.ndarray:
    """(h, w) bool, one body -> (h, w) int32: 0, or the number of the lobe from 1.

    Lobes are the maxima of depth that stand above every neck by 1/NECK: h-maxima of the logarithm of the depth, by
    geodesic reconstruction (Vincent 1993, IEEE Trans. Image Process. 2:176-201); a pixel is the nearest one's.
    """
    import cv2

    outline, _ = cv2.findContours(body.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hull = cv2.contourArea(cv2.convexHull(outline[0]))
    if cv2.contourArea(outline[0]) > SOLID * hull or body.sum() < 2 * SPECK * diameter**2:
        return body.astype(np.int32)
    inner = cv2.GaussianBlur(depth(np.pad(body, 2)), (0, 0), diameter / 56)[2:-2, 2:-2]
    height = np.where(body, np.log(inner + diameter / 56), -10).astype(np.float32)
    step = np.float32(-np.log(NECK))
    base, square = height - step, disc(3)
    while True:
        risen = np.minimum(cv2.dilate(base, square), height)
        if np.array_equal(risen, base):
            break
        base = risen
    tops = (height - base >= step * 0.99) & body
    if not tops.any():
        return body.astype(np.int32)
    _, nearest = cv2.distanceTransformWithLabels((~tops).astype(np.uint8), cv2.DIST_L2, 5)
    return np.where(body, nearest, 0).astype(np.int32)


def _joined(areas: np.ndarray, hulls: list[np.ndarray], stained: np.ndarray, diameter: float) -> list[int]:
    """The group of each lobe: the nearest pairs first, as long as the group is no larger than one nucleus can be."""
    owner = list(range(len(areas)))
    for _, first, second in _near_pairs(hulls, stained, diameter):
        one, other = owner[first], owner[second]
        if one == other:
            continue
        members = [[lobe for lobe, own in enumerate(owner) if own == group] for group in (one, other)]
        sizes = [areas[group].sum() for group in members]
        points = np.concatenate([hulls[lobe] for group in members for lobe in group])
        most = SPAN if min(sizes) < WHOLE * diameter**2 else WITHIN
        if _span(points) <= most * diameter:
            owner = [one if own == other else own for own in owner]
    return owner


def _near_pairs(hulls: list[np.ndarray], stained: np.ndarray, diameter: float) -> list[tuple[float, int, int]]:
    """(gap in px, lobe, lobe) of those with a gap of at most GAP and no empty field across it, nearest first."""
    reach, found = GAP * diameter, []
    boxes = np.array([[*hull.min(axis=0), *hull.max(axis=0)] for hull in hulls]).reshape(-1, 4)
    for first in range(len(hulls)):
        apart = np.maximum(boxes[first + 1 :, :2] - boxes[first, 2:], boxes[first, :2] - boxes[first + 1 :, 2:])
        for second in first + 1 + np.flatnonzero(apart.max(axis=1) <= reach):
            gap, ends = _gap(_dense(hulls[first]), _dense(hulls[second]))
            line = np.linspace(*ends, max(2, int(gap) + 1)).round().astype(int)
            if gap <= reach and stained[line[:, 1], line[:, 0]].mean() > 0.7:
                found.append((gap, first, int(second)))
    return sorted(found)


def _dense(hull: np.ndarray) -> np.ndarray:
    """(P, 2) corners of a hull -> (Q, 2) points about 1 px from one another along it."""
    following = np.roll(hull, -1, axis=0)
    return np.concatenate(
        [
            np.linspace(start, end, max(1, int(np.abs(end - start).max())), endpoint=False)
            for start, end in zip(hull, following, strict=True)
        ]
    )


def _gap(one: np.ndarray, other: np.ndarray) -> tuple[float, tuple[np.ndarray, np.ndarray]]:
    """The least distance of two sets of points (P, 2) and (Q, 2), and the two points."""
    away = np.linalg.norm(one[:, None] - other[None], axis=2)
    first, second = np.unravel_index(int(away.argmin()), away.shape)
    return float(away[first, second]), (one[first], other[second])


def _span(points: np.ndarray) -> float:
    """The largest distance between two of the points (P, 2)."""
    return float(np.linalg.norm(points[:, None] - points[None], axis=2).max())
