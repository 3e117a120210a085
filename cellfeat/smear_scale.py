"""How large a white cell is in a photograph, told by the red cells in it, which are 7.5 µm wide everywhere."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from cellfeat.illumination import illumination, lit, unlit
from cellfeat.synthetic import RED_CELL_DIAMETER

SIDES = (1024, 2560)  # px of the longer side that is looked at; the larger where cells are too small in the smaller
SMALL = 18.0  # px of a white cell: smaller ones are looked at again
LEAST_SIDE, LEAST_AREA, LADDER = 32, 20, 5
LEAST_DENSITY, MOST_DENSITY, NOISE = 0.03, 2.0, 4.0  # of a cell above the empty field, and in deviations of the noise
ROUND, SOLID, LONG = 0.80, 0.92, 1.45  # of a lone cell: area over circle, area over hull, length over width at most
HOLE = 0.85  # of its hull: the pale middle of a red cell fills it, a gap between cells does not
DARK = 2.5  # times the median density in red light of what is stained: nuclei
FEW = 3  # red cells of one size are needed
SPREAD = 0.10  # of the logarithm of a diameter, among red cells of one photograph
NUCLEAR = 0.2  # of a white cell is nucleus at least
SPECK = 8.0  # px
RANDOM = 0.25  # of the deviation is left after a blur; less is noise
LEAST_NUCLEUS = 40  # px
NUCLEUS = 0.66  # diameter of a disc with its area, in diameters of a white cell
WIDER = (1.1, 2.5)  # a white cell than its nucleus
MANY = 4  # red cells need no second opinion
AGREE = 2.0  # by a white cell over by red ones: beyond, the few "red cells" were something smaller


class _Bodies(NamedTuple):
    """Diameters in px, of discs with their areas, of what has the form of one cell."""

    pale: list[float]  # red cells
    nuclear: list[float]  # white cells, or nuclei, or platelets


class _Size(NamedTuple):
    diameter: float
    cells: int


def typical_diameter(image: np.ndarray) -> float | None:
    """Diameter in px of a typical white cell (a neutrophil, 13.5 µm) in a photograph, estimated from it alone.

    Red cells are the most numerous bodies of a smear and 7.5 µm wide: the most frequent diameter among the lone, round
    ones, else among the maxima of depth inside clumps, is theirs. Nuclei, the darkest bodies in red light, check it,
    and stand in where there are no red cells. Of one white cell and few red ones the answer is rough.

    None where it cannot tell: a blank photograph or pure noise, one less than 32 px wide, or one in which fewer than
    three stained bodies have one size and none is dark enough for a nucleus. Then the user must say the scale.

    Args:
        image: (H, W, 3) uint8 RGB.
    """
    if min(image.shape[:2]) < LEAST_SIDE or _noise_alone(image):
        return None
    seen, image = ~unlit(image), lit(image)
    found = None
    for side in SIDES:
        scale = min(1.0, side / max(image.shape[:2]))
        found = _estimate(_resized(image, scale), seen)
        if scale == 1.0 or (found is not None and found >= SMALL):
            return found and found / scale
    return found and found / scale


def _noise_alone(image: np.ndarray) -> bool:
    """Whether pixels have nothing to do with their neighbours: a blur of 2 px leaves a seventh of such noise."""
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY).astype(np.float32)
    return bool(cv2.GaussianBlur(grey, (0, 0), 2.0).std() < RANDOM * grey.std())


def _resized(image: np.ndarray, scale: float) -> np.ndarray:
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA) if scale < 1 else image


def _estimate(image: np.ndarray, seen: np.ndarray) -> float | None:
    """The diameter at the scale at which the photograph comes. seen: bool of any size, where light came."""
    density = np.log((illumination(image) + 1) / (image.astype(np.float32) + 1))
    density = cv2.GaussianBlur(density, (0, 0), 0.8)
    darkest, red = density.max(axis=2), density[..., 0]
    thresholds = _thresholds(
        darkest, cv2.resize(seen.astype(np.uint8), darkest.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    )
    stained = darkest > thresholds[0]
    if not stained.any():
        return None
    dark = stained & (red > DARK * max(float(np.median(red[stained])), LEAST_DENSITY))
    found = [_bodies(_without_pale_middles(darkest > threshold), dark) for threshold in thresholds]
    sizes = [size for size in (_mode(bodies.pale) for bodies in found) if size is not None]
    if not sizes:  # few red cells: what one threshold misses another may find, and a cell found twice counts twice
        every = _mode([diameter for bodies in found for diameter in bodies.pale if diameter > SPECK])
        sizes = [] if every is None else [every]
    best = max(sizes, key=lambda size: size.cells * size.diameter**2, default=None)
    if best is not None and best.cells >= MANY:
        return best.diameter / RED_CELL_DIAMETER
    alone = [diameter for bodies in found for diameter in bodies.nuclear + bodies.pale]
    white = _by_nuclei(stained & (red > _least_of_nuclei(red[stained])), alone)
    if best is None or (white is not None and white > AGREE * best.diameter / RED_CELL_DIAMETER):
        return white
    return best.diameter / RED_CELL_DIAMETER


def _by_nuclei(dark: np.ndarray, alone: list[float]) -> float | None:
    """By the white cells that lie alone, which are wider than a nucleus, else by the area of nuclei; None without."""
    nucleus = _nucleus(dark)
    if nucleus is None:
        return None
    white = [one for one in alone if WIDER[0] < one / nucleus < WIDER[1]]
    return float(np.median(white)) if white else nucleus / NUCLEUS


def _nucleus(dark: np.ndarray) -> float | None:
    """Diameter in px of a disc with the area of a nucleus, whose lobes are put together; None where there is none."""
    count, parts = cv2.connectedComponents(dark.astype(np.uint8), connectivity=4)
    largest = float(np.bincount(parts.ravel(), minlength=count)[1:].max(initial=0))
    if largest < LEAST_NUCLEUS:
        return None
    gap = 2 * round(np.sqrt(largest) / 8) + 1
    near = cv2.dilate(dark.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (gap, gap)))
    count, groups = cv2.connectedComponents(near, connectivity=4)
    areas = np.bincount(groups[dark], minlength=count)[1:]
    return 2 * float(np.sqrt(np.median(areas[areas > areas.max() / 3]) / np.pi))


def _least_of_nuclei(red: np.ndarray) -> float:
    """The density in red light from which a stained pixel is a nucleus': (P,) of all stained ones.

    Most belong to red cells; where they do not, as around one white cell, Otsu's threshold parts two unlike classes.
    """
    grey = np.clip(255 * red / MOST_DENSITY, 0, 255).astype(np.uint8)
    threshold = cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU)[0] / 255 * MOST_DENSITY
    upper = red > threshold
    least = DARK * float(np.median(red))
    if upper.any() and not upper.all() and red[upper].mean() > DARK * max(float(red[~upper].mean()), LEAST_DENSITY):
        least = min(least, threshold)
    return max(least, 2 * LEAST_DENSITY)


def _thresholds(darkest: np.ndarray, seen: np.ndarray) -> list[float]:
    """Densities, from the least that is no noise to Otsu's threshold: which one parts red cells best is not known.

    Where the empty field is noisy, or cells are dark and many, Otsu's lies between red cells and nuclei.
    """
    light = darkest[seen]
    low = light[light <= np.median(light)]  # empty, unless cells cover more than half
    rough = np.abs(darkest - cv2.GaussianBlur(darkest, (0, 0), 3.0))[seen]  # noise alone, unless cells are small
    noise = 1.48 * min(float(np.median(np.abs(low - np.median(low)))), float(np.median(rough)))
    least = max(NOISE * noise, LEAST_DENSITY)
    grey = np.clip(255 * light / MOST_DENSITY, 0, 255).astype(np.uint8)
    highest = cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU)[0] / 255 * MOST_DENSITY
    return np.geomspace(least, max(highest, 1.01 * least), LADDER).tolist()


def _without_pale_middles(stained: np.ndarray) -> np.ndarray:
    """(H, W) bool with the round holes filled; those between cells that touch one another have hollow sides."""
    holes, tree = cv2.findContours(stained.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    solid = stained.astype(np.uint8)
    for outline, (_, _, _, parent) in zip(holes, tree[0], strict=True):
        area = cv2.contourArea(outline)
        if parent >= 0 and area > HOLE * cv2.contourArea(cv2.convexHull(outline)):
            cv2.drawContours(solid, [outline], -1, 1, cv2.FILLED)
    return solid > 0


def _bodies(solid: np.ndarray, dark: np.ndarray) -> _Bodies:
    """The lone, round bodies that the border does not cut; nuclear are those that are dark in NUCLEAR of their area."""
    height, width = solid.shape
    count, parts, stats, _ = cv2.connectedComponentsWithStats(solid.astype(np.uint8), connectivity=4)
    darkness = np.bincount(parts[dark], minlength=count)
    found = _Bodies([], [])
    for part, (left, top, wide, high, area) in enumerate(stats[1:], start=1):
        if area < LEAST_AREA or left == 0 or top == 0 or left + wide == width or top + high == height:
            continue
        view = (parts[top : top + high, left : left + wide] == part).astype(np.uint8)
        outlines, _ = cv2.findContours(view, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        if _lone(outlines[0]):
            nuclear = darkness[part] > NUCLEAR * area
            (found.nuclear if nuclear else found.pale).append(2 * float(np.sqrt(area / np.pi)))
    return found


def _lone(outline: np.ndarray) -> bool:
    """Whether an outline (P, 1, 2) is round enough for one cell."""
    hull = cv2.convexHull(outline)
    _, (one, other), _ = cv2.minAreaRect(outline)
    (_, radius), area = cv2.minEnclosingCircle(outline), cv2.contourArea(outline)
    plump = area > SOLID * cv2.contourArea(hull) and area > ROUND / LONG * np.pi * radius**2
    return bool(plump and max(one, other) <= LONG * max(min(one, other), 1.0))


def _mode(diameters: list[float]) -> _Size | None:
    """The diameter that covers most of the picture, as specks are many but small; None of too few."""
    if len(diameters) < FEW:
        return None
    logs = np.log(diameters)
    weights = np.exp(2 * (logs - logs.max()))
    near = np.exp(-0.5 * ((logs[:, None] - logs[None]) / SPREAD) ** 2)
    best = logs[int((near @ weights).argmax())]
    chosen = np.abs(logs - best) <= 2 * SPREAD
    return _Size(float(np.exp(np.median(logs[chosen]))), int(chosen.sum())) if chosen.sum() >= FEW else None
