"""How large a white cell is in a photograph, told by the red cells in it, which are 7.5 µm wide everywhere."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from cellfeat.illumination import illumination
from cellfeat.synthetic import RED_CELL_DIAMETER

SIDES = (1024, 2560)  # px of the longer side that is looked at; the larger where cells are too small in the smaller
SMALL = 18.0  # px of a white cell: smaller ones are looked at again
LEAST_SIDE = 32
LEAST_DENSITY, NOISE = 0.03, 4.0  # of a cell above the empty field, and in deviations of the noise
ROUND, SOLID, LONG = 0.80, 0.92, 1.45  # of a lone cell: area over circle, area over hull, length over width at most
HOLE = 0.85  # of its hull: the pale middle of a red cell fills it, a gap between cells does not
DARK = 2.5  # times the median density in red light of what is stained: nuclei
FEW = 3  # red cells of one size are needed
SPREAD = 0.10  # of the logarithm of a diameter, among red cells of one photograph
NUCLEUS = 0.66  # diameter of a nucleus, of one disc with its area, in diameters of a white cell
AGREE = (0.55, 2.2)  # by red cells over by nuclei: beyond, the red "cells" are something else


class _Body(NamedTuple):
    """A stained body: diameter of the disc with its area, px, and whether it has a lone cell's form."""

    diameter: float
    lone: bool
    nuclear: bool


def typical_diameter(image: np.ndarray) -> float | None:
    """Diameter in px of a typical white cell (a neutrophil, 13.5 µm) in a photograph, estimated from it alone.

    Red cells are the most numerous bodies of a smear and 7.5 µm wide: the most frequent diameter among the lone, round
    ones, else among the maxima of depth inside clumps, is theirs. Nuclei, the darkest bodies in red light, check it,
    and stand in where there are no red cells. Of one white cell and few red ones the answer is rough.

    None where it cannot tell: a blank photograph, one less than 32 px wide, or one in which fewer than three stained
    bodies have one size and none is dark enough for a nucleus. Then the user must say the scale.

    Args:
        image: (H, W, 3) uint8 RGB.
    """
    if min(image.shape[:2]) < LEAST_SIDE:
        return None
    found = None
    for side in SIDES:
        scale = min(1.0, side / max(image.shape[:2]))
        found = _estimate(_resized(image, scale))
        if scale == 1.0 or (found is not None and found >= SMALL):
            return found and found / scale
    return found and found / scale


def _resized(image: np.ndarray, scale: float) -> np.ndarray:
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA) if scale < 1 else image


def _estimate(image: np.ndarray) -> float | None:
    """The diameter at the scale at which the photograph comes."""
    density = np.log((illumination(image) + 1) / (image.astype(np.float32) + 1))
    density = cv2.GaussianBlur(density, (0, 0), 0.8)
    stained = _stained(density.max(axis=2))
    if not stained.any():
        return None
    red = density[..., 0]
    dark = stained & (red > max(DARK * float(np.median(red[stained])), 2 * LEAST_DENSITY))
    solid = _without_pale_middles(stained)
    bodies = _bodies(solid, dark)
    by_red = _mode([body.diameter for body in bodies if body.lone and not body.nuclear])
    if by_red is None:
        by_red = _mode(_depths(solid & ~_grown(dark)))
    by_nuclei = _nuclei(solid, bodies, dark)
    if by_red is None:
        return by_nuclei
    white = by_red / RED_CELL_DIAMETER
    if by_nuclei is not None and not AGREE[0] <= white / by_nuclei <= AGREE[1]:
        return by_nuclei
    return white


def _stained(darkest: np.ndarray) -> np.ndarray:
    """(H, W) density of the channel that loses most -> (H, W) bool, by Otsu's threshold below the darkest tenth."""
    low = darkest[darkest < np.quantile(darkest, 0.5)]
    noise = 1.48 * float(np.median(np.abs(low - np.median(low)))) if low.size else 0.0
    capped = np.clip(darkest, 0, max(float(np.quantile(darkest, 0.9)), LEAST_DENSITY))
    grey = (255 * capped / capped.max()).astype(np.uint8)
    threshold, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU)
    return darkest > max(threshold / 255 * float(capped.max()), NOISE * noise, LEAST_DENSITY)


def _without_pale_middles(stained: np.ndarray) -> np.ndarray:
    """(H, W) bool with the round holes filled; those between cells that touch one another have hollow sides."""
    holes, tree = cv2.findContours(stained.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    solid = stained.astype(np.uint8)
    for outline, (_, _, _, parent) in zip(holes, tree[0], strict=True):
        area = cv2.contourArea(outline)
        if parent >= 0 and area > HOLE * cv2.contourArea(cv2.convexHull(outline)):
            cv2.drawContours(solid, [outline], -1, 1, cv2.FILLED)
    return solid > 0


def _bodies(solid: np.ndarray, dark: np.ndarray) -> list[_Body]:
    """The bodies that the border does not cut; nuclear are those that are dark in a tenth of their area."""
    height, width = solid.shape
    count, parts, stats, _ = cv2.connectedComponentsWithStats(solid.astype(np.uint8), connectivity=4)
    darkness = np.bincount(parts[dark], minlength=count)
    found = []
    for part, (left, top, wide, high, area) in enumerate(stats[1:], start=1):
        if area < 12 or left == 0 or top == 0 or left + wide == width or top + high == height:
            continue
        view = (parts[top : top + high, left : left + wide] == part).astype(np.uint8)
        outlines, _ = cv2.findContours(view, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        found.append(_Body(2 * float(np.sqrt(area / np.pi)), _lone(outlines[0]), darkness[part] > 0.1 * area))
    return found


def _lone(outline: np.ndarray) -> bool:
    """Whether an outline (P, 1, 2) is round enough for one cell."""
    hull = cv2.convexHull(outline)
    _, (one, other), _ = cv2.minAreaRect(outline)
    (_, radius), area = cv2.minEnclosingCircle(outline), cv2.contourArea(outline)
    plump = area > SOLID * cv2.contourArea(hull) and area > ROUND / LONG * np.pi * radius**2
    return bool(plump and max(one, other) <= LONG * max(min(one, other), 1.0))


def _depths(solid: np.ndarray) -> list[float]:
    """Twice the depth at its maxima, px: diameters of the discs of which clumps are made."""
    inner = cv2.distanceTransform(solid.astype(np.uint8), cv2.DIST_L2, 5)
    smooth = cv2.GaussianBlur(inner, (0, 0), 1.0)
    tops = (smooth >= cv2.dilate(smooth, np.ones((5, 5), np.uint8))) & (inner > 2)
    return (2 * inner[tops]).tolist()


def _mode(diameters: list[float]) -> float | None:
    """The most frequent of the diameters, each counted by its area, as specks are many; None of too few."""
    if len(diameters) < FEW:
        return None
    logs = np.log(diameters)
    weights = np.exp(2 * (logs - logs.max()))
    grid = np.linspace(logs.min(), logs.max(), 200)
    near = np.exp(-0.5 * ((grid[:, None] - logs[None]) / SPREAD) ** 2)
    # the prior of a cell's size is even in its logarithm, so one large body outweighs many small ones but for this
    height = near @ weights
    best = grid[int(height.argmax())]
    chosen = np.abs(logs - best) <= 2 * SPREAD
    return float(np.exp(np.median(logs[chosen]))) if chosen.sum() >= FEW else None


def _nuclei(solid: np.ndarray, bodies: list[_Body], dark: np.ndarray) -> float | None:
    """By white cells that lie alone, else by the areas of nuclei; None where there are none."""
    alone = [body.diameter for body in bodies if body.nuclear and body.lone]
    if alone:
        return float(np.median([one for one in alone if one > 0.6 * max(alone)]))
    count, parts = cv2.connectedComponents(solid.astype(np.uint8), connectivity=4)
    areas = np.bincount(parts[dark], minlength=count)[1:]
    diameters = 2 * np.sqrt(areas[areas > 0.36 * max(areas.max(initial=0), 30)] / np.pi)
    return float(np.median(diameters)) / NUCLEUS if len(diameters) else None


def _grown(mask: np.ndarray) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
