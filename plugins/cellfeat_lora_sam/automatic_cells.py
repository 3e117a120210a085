"""Which of all masks of a photograph are white cells: by nucleus, size and outline, each cell once and whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from cellfeat_lora_sam.automatic_masks import Mask
from cellfeat_lora_sam.automatic_stain import Stain

REACH = 0.6  # typical cells: no part of a white cell is further from its nucleus
LEAST, MOST = 0.4, 1.8  # diameter of a disc of the mask's area, in typical cells
LEAST_CUT = 0.35  # the same, where the photograph's border cuts the mask
NUCLEUS = 0.12  # least nucleus, of the area of a typical cell; platelets have less
NUCLEUS_CUT = 0.15  # the same of the mask's own area, where the border cuts it: little may be left
NUCLEUS_LEFT = 0.025  # and of a typical cell's
SOLID = 0.85  # least share of the mask's convex hull
LONG = 2.0  # most length for its width
FULL = 0.7  # least share that is stained
RIM = 0.06  # typical cells: width of the rim around a mask in which a nucleus would go on
CUT_THROUGH = 0.6  # most of that rim that is nuclear: two neighbours may press on a cell
WITHIN = 0.9  # share of a mask that lies in another one: then it is a part of it
SAME_NUCLEUS = 0.9  # of the nuclei of the larger of two masks
CYTOPLASM = 0.15  # least share of a mask that is no nucleus: else it may be a nucleus alone
AROUND = 0.5  # share of the rim of a nucleus that lies in its cell, at least
ROUNDER = 0.04  # of the hull: by so much an outline is better than one with something beside the cell
FULLER = 0.06  # of the mask: by so much more is stained than of one with empty field around the cell
PARTS = 0.7  # share of a mask that cells cover: then it is a cluster of them
CELL = 0.5  # least diameter of such a cell, in typical ones, where it is whole
SHARED = 0.5  # of the smaller of two masks: then both are one cell


class Candidate(NamedTuple):
    """A mask that holds a nucleus.

    area, nuclear, stained: px. diameter: of a typical cell, px. size: in such diameters. solidity: 0..1. cut: by the
    photograph's border. place: in the list that was given.
    """

    mask: Mask
    area: int
    nuclear: int
    stained: int
    diameter: float
    size: float
    solidity: float
    cut: bool
    place: int


def near_nuclei(stain: Stain, diameter: float) -> np.ndarray:
    """(H, W) bool, where white cells may be: within a reach of what is stained as a nucleus."""
    reach = max(1, round(REACH * diameter))
    round_ = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return cv2.dilate(stain.nuclear.astype(np.uint8), round_) > 0


def white_cells(stain: Stain, masks: Sequence[Mask], diameter: float) -> list[int]:
    """The places, in `masks`, of those that are white cells, in rising order.

    stain: of the photograph. diameter: px of a typical white cell in it. Of nested masks of one cell the whole cell is
    kept, nuclei and lobes go with it; a cluster goes where its cells are there.
    """
    found = [_candidate(mask, stain, diameter, place) for place, mask in enumerate(masks)]
    known = sorted((one for one in found if one is not None), key=lambda one: (-one.area, one.place))
    known = [one for one in known if not _is_loose(one, known)]
    known = [one for one in known if not _is_cluster(one, known)]
    kept: list[Candidate] = []
    for one in known:
        if all(overlap(one.mask, other.mask) < SHARED * one.area for other in kept):
            kept.append(one)
    return sorted(one.place for one in kept)


def overlap(one: Mask, other: Mask) -> int:
    """The px that two masks share."""
    left, top = max(one.box[0], other.box[0]), max(one.box[1], other.box[1])
    right, bottom = min(one.box[2], other.box[2]), min(one.box[3], other.box[3])
    if left >= right or top >= bottom:
        return 0
    parts = [
        mask.inside[top - mask.box[1] : bottom - mask.box[1], left - mask.box[0] : right - mask.box[0]]
        for mask in (one, other)
    ]
    return int((parts[0] & parts[1]).sum())


def _candidate(mask: Mask, stain: Stain, diameter: float, place: int) -> Candidate | None:
    """The mask with what is known of it; None for one that is no white cell, nor a part or a cluster of some."""
    left, top, right, bottom = mask.box
    height, width = stain.nuclear.shape
    cut = left <= 0 or top <= 0 or right >= width or bottom >= height
    typical = np.pi * diameter**2 / 4
    area = int(mask.inside.sum())
    size = float(np.sqrt(area / typical))
    if not (LEAST_CUT if cut else LEAST) <= size <= MOST:
        return None
    window = np.s_[top:bottom, left:right]
    nuclear = int((stain.nuclear[window] & mask.inside).sum())
    stained = int((stain.stained[window] & mask.inside).sum())
    least = max(NUCLEUS_CUT * area, NUCLEUS_LEFT * typical) if cut else NUCLEUS * typical
    if nuclear < least or stained < FULL * area:
        return None
    solidity, length = outline(mask.inside)
    if solidity < SOLID or (length > LONG and not cut) or _rim(mask, stain, diameter) > CUT_THROUGH:
        return None
    return Candidate(mask, area, nuclear, stained, diameter, size, solidity, cut, place)


def outline(inside: np.ndarray) -> tuple[float, float]:
    """(h, w) bool -> the share of its convex hull that it fills, and its length for its width."""
    edges = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    points = np.concatenate(edges)
    hull = np.zeros(inside.shape, np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(points), 1)
    sides = [side + 1 for side in cv2.minAreaRect(points)[1]]  # from the middle of a pixel to that of another
    return float(inside.sum() / hull.sum()), max(sides) / min(sides)


def _rim(mask: Mask, stain: Stain, diameter: float) -> float:
    """The share of the rim outside of a mask, inside the photograph, that is nuclear."""
    width = max(1, round(RIM * diameter))
    height, length = stain.nuclear.shape
    left, top = max(0, mask.box[0] - width), max(0, mask.box[1] - width)
    right, bottom = min(length, mask.box[2] + width), min(height, mask.box[3] + width)
    seen = np.zeros((bottom - top, right - left), np.uint8)
    seen[mask.box[1] - top : mask.box[3] - top, mask.box[0] - left : mask.box[2] - left] = mask.inside
    round_ = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
    rim = (cv2.dilate(seen, round_) > 0) & (seen == 0)
    return float(stain.nuclear[top:bottom, left:right][rim].mean()) if rim.any() else 0.0


def _is_loose(one: Candidate, known: Sequence[Candidate]) -> bool:
    """Whether there is a better mask of the same cell, so that this one has something beside it."""
    return any(
        other.area < one.area
        and other.size >= CELL
        and (_is_rounder(other, one) or other.stained / other.area > one.stained / one.area + FULLER)
        and other.nuclear >= SAME_NUCLEUS * one.nuclear
        and overlap(one.mask, other.mask) >= WITHIN * other.area
        for other in known
    )


def _is_rounder(one: Candidate, other: Candidate) -> bool:
    """A nucleus alone is often rounder than its cell, which makes it no better mask: the cell lies around it."""
    return one.solidity > other.solidity + ROUNDER and (
        one.area - one.nuclear >= CYTOPLASM * one.area or _surrounded(one, other.mask) < AROUND
    )


def _surrounded(one: Candidate, other: Mask) -> float:
    """The share of the rim outside of one mask that lies in another one."""
    width = max(1, round(RIM * one.diameter))
    round_ = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
    seen = np.pad(one.mask.inside.astype(np.uint8), width)
    rim = (cv2.dilate(seen, round_) > 0) & (seen == 0)
    left, top = one.mask.box[0] - width, one.mask.box[1] - width
    around = Mask((left, top, left + rim.shape[1], top + rim.shape[0]), rim)
    return overlap(around, other) / int(rim.sum())


def _is_cluster(one: Candidate, known: Sequence[Candidate]) -> bool:
    """Whether others, apart from each other and as large as cells, make up most of this one: at least two, or one
    that leaves room for another cell with a nucleus, such as one that is half hidden."""
    parts: list[Candidate] = []
    for other in known:
        smaller = other.area < WITHIN * one.area and other.size >= (LEAST_CUT if other.cut else CELL)
        inside = smaller and overlap(one.mask, other.mask) >= WITHIN * other.area
        if inside and all(overlap(other.mask, part.mask) < (1 - WITHIN) * other.area for part in parts):
            parts.append(other)
    left = one.area - sum(part.area for part in parts)
    nuclear = one.nuclear - sum(part.nuclear for part in parts)
    typical = np.pi * one.diameter**2 / 4
    hidden = len(parts) == 1 and left >= CELL**2 * typical and nuclear >= NUCLEUS * typical
    return (len(parts) > 1 or hidden) and left <= (1 - PARTS) * one.area
