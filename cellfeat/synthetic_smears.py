"""Synthetic smear photographs: many white cells among red ones, with the box, class and outline of each.

Drawn by `synthetic` as single cells are, with the dyes of a whole field laid down before one photograph is taken. For
tests, for the training of detectors and for the demo; no substitute for real photographs in an evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from cellfeat.synthetic import (
    CLASSES,
    NEUTROPHIL_DIAMETER,
    RED_CELL_DIAMETER,
    SUPERSAMPLING,
    add_platelet,
    add_red_cell,
    checked_laboratory,
    crowd,
    paste,
    photograph,
)
from cellfeat.synthetic_cells import CellLayers, draw_white_cell
from cellfeat.synthetic_laboratories import Laboratory
from cellfeat.synthetic_types import CellType, choose_form

TRIES = 60  # places that are tried for one white cell
LEAST_DIAMETER = 8  # px; smaller cells have no nucleus to be seen
Place = tuple[float, float, float]  # y, x, radius
Spot = Place | None
Body = tuple[int, int, np.ndarray]  # top, left, (h, w) bool


class SyntheticSmear(NamedTuple):
    """One drawn smear photograph.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        boxes: (K, 4) float32 of (x1, y1, x2, y2) px, of the part of each white cell that can be seen: in the picture,
            and not below another one.
        labels: K classes.
        instances: (H, W) uint16, 0 where there is none of the white cells, else 1 + its place among `boxes`.
        touching: (K,) bool, whether another white cell touches or overlaps it.
        cut: (K,) bool, whether it reaches the picture's border.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: tuple[str, ...]
    instances: np.ndarray
    touching: np.ndarray
    cut: np.ndarray


def draw_smear(
    laboratory: Laboratory | str,
    rng: np.random.Generator,
    size: tuple[int, int] = (640, 480),
    cells: int = 6,
    diameter: float = 64.0,
    touching: float = 0.0,
    classes: Sequence[str] = CLASSES,
    shares: Sequence[float] | None = None,
) -> SyntheticSmear:
    """Draw a field of a smear.

    Args:
        laboratory: a `Laboratory` or the name of one; its light, stain, optics, red cells and debris are used.
        rng: the only source of chance; the same state gives the same smear.
        size: (width, height) in px.
        cells: white cells wanted; fewer where they find no room.
        diameter: of a typical neutrophil, px.
        touching: probability that a white cell is laid against another one, 0..1.
        classes: of `synthetic.ALL_TYPES`. shares: their probabilities; None: even ones.

    Raises:
        ValueError: for an unknown class or laboratory, no class, a diameter below 8 px, or what is no probability.
    """
    laboratory = _checked(laboratory, classes, cells, diameter, touching)
    frame = diameter / laboratory.cell_share  # side in px of the frame that would be cut around one cell
    scale = min(1.0, laboratory.resolution / frame)
    width, height = size
    sampled = (max(2, round(height * scale)), max(2, round(width * scale)))
    drawn = (round(SUPERSAMPLING * sampled[0]), round(SUPERSAMPLING * sampled[1]))
    unit = SUPERSAMPLING * scale * diameter / 2.0  # radius of a typical neutrophil where dyes are laid
    forms = _forms(cells, classes, shares, unit, rng)
    places = _places([radius for _, _, radius in forms], drawn, touching, rng)
    dyes = np.zeros((4, *drawn), np.float32)
    _scatter_red_cells(dyes, [spot for spot in places if spot], unit * RED_CELL_DIAMETER, laboratory, rng)
    for _ in range(rng.poisson(laboratory.debris * drawn[0] * drawn[1] / (SUPERSAMPLING * scale * frame) ** 2)):
        add_platelet(dyes, unit * rng.uniform(0.10, 0.26), rng)
    labels, bodies = [], []
    for spot, (label, kind, radius) in zip(places, forms, strict=True):
        if spot and (seen := _lay(dyes, draw_white_cell(kind, radius, rng), spot[:2], (height, width))):
            labels.append(label)
            bodies.append(seen)
    image = photograph(dyes, sampled, (height, width), frame * scale, laboratory, rng)
    return known_smear(image, bodies, labels)


def known_smear(image: np.ndarray, bodies: Sequence[Body], labels: Sequence[str]) -> SyntheticSmear:
    """A photograph with what is known of its white cells, the later ones on top; those that are not seen are left out.

    image: (H, W, 3) uint8 RGB. bodies: (top, left, (h, w) bool) of each cell's pixels, px; they may reach beyond it.
    """
    instances, touches = _instances(bodies, image.shape[:2])
    seen, boxes = _boxes(instances, len(bodies))
    places = np.zeros(len(bodies) + 1, np.uint16)
    places[1 + np.flatnonzero(seen)] = np.arange(1, 1 + seen.sum())
    cut = (boxes[:, :2] <= 0).any(axis=1) | (boxes[:, 2] >= image.shape[1]) | (boxes[:, 3] >= image.shape[0])
    named = tuple(label for label, one in zip(labels, seen, strict=True) if one)
    return SyntheticSmear(image, boxes, named, places[instances], touches[seen], cut)


def _checked(
    laboratory: Laboratory | str, classes: Sequence[str], cells: int, diameter: float, touching: float
) -> Laboratory:
    if not classes or cells < 0 or diameter < LEAST_DIAMETER or not 0 <= touching <= 1:
        raise ValueError(
            f"{cells} cells of classes {tuple(classes)}, {diameter} px, touching {touching}; at least one class, 0 "
            f"cells, {LEAST_DIAMETER} px, and a probability."
        )
    for name in classes:
        laboratory = checked_laboratory(name, laboratory)
    return checked_laboratory(classes[0], laboratory)


def _forms(
    cells: int, classes: Sequence[str], shares: Sequence[float] | None, unit: float, rng: np.random.Generator
) -> list[tuple[str, CellType, float]]:
    """(class, form, radius in px) of every cell that is wanted."""
    found = []
    for number in rng.choice(len(classes), cells, p=shares).tolist():
        kind, diameter = choose_form(classes[number], rng)
        found.append((classes[number], kind, unit * diameter / NEUTROPHIL_DIAMETER))
    return found


def _places(radii: Sequence[float], shape: tuple[int, int], touching: float, rng: np.random.Generator) -> list[Spot]:
    """Where each cell found room, None where it did not; some lie across the border, none mostly beyond it."""
    places: list[Spot] = []
    for radius in radii:
        placed = [spot for spot in places if spot]
        against = bool(placed) and rng.random() < touching
        places.append(None)
        for _ in range(TRIES):
            y, x = (float(rng.uniform(-0.4 * radius, side + 0.4 * radius)) for side in shape)
            if against:
                other = placed[int(rng.integers(len(placed)))]
                angle, away = rng.uniform(0, 2 * np.pi), (radius + other[2]) * rng.uniform(0.82, 1.0)
                y, x = other[0] + float(away * np.sin(angle)), other[1] + float(away * np.cos(angle))
            inside = all(-0.4 * radius <= at <= side + 0.4 * radius for at, side in zip((y, x), shape, strict=True))
            near = 0.8 if against else 1.15
            if inside and all(np.hypot(y - a, x - b) > near * (radius + other) for a, b, other in placed):
                places[-1] = (y, x, radius)
                break
    return places


def _scatter_red_cells(
    dyes: np.ndarray, white: Sequence[Place], usual: float, laboratory: Laboratory, rng: np.random.Generator
) -> None:
    """Red cells over the whole field, in place, clear of the white ones but where the laboratory crowds them.

    usual: radius of a red cell, px.
    """
    height, width = dyes.shape[1:]
    wanted = laboratory.red_density * rng.uniform(0.4, 1.3) * (height + 2 * usual) * (width + 2 * usual)
    wanted /= np.pi * usual**2
    tries = int(2.5 * wanted)
    spots = rng.uniform(-usual, (height + usual, width + usual), (tries, 2))
    sizes = usual * rng.normal(1.0, 0.07, tries).clip(0.8, 1.2)
    allowed = np.where(rng.random(tries) < 0.15, 0.6, 0.97)
    abuts = np.zeros(tries, bool)
    for y, x, radius in white if laboratory.crowding else ():
        abuts |= crowd(spots, sizes, np.array([y, x]), radius, laboratory.crowding, rng)
    # the white cells come first, so that red ones which abut can leave them out
    placed = np.array([*white, *[(np.inf, np.inf, 0.0)] * tries]).reshape(-1, 3)
    count = len(white)
    for spot, size, near, abutting in zip(spots, sizes, allowed, abuts, strict=True):
        if count - len(white) > wanted:
            break
        others = placed[len(white) if abutting else 0 : count]
        if np.all(np.hypot(*(others[:, :2] - spot).T) > near * (others[:, 2] + size)):
            placed[count] = (*spot, size)
            count += 1
            add_red_cell(dyes, spot.tolist(), float(size), laboratory, rng)


def _lay(dyes: np.ndarray, cell: CellLayers, centre: tuple[float, float], shape: tuple[int, int]) -> Body | None:
    """Lay a white cell, in place; (top, left, (h, w) bool) of its pixels in the photograph, None where it has none."""
    patch = cell.body.shape[0]
    corner = [max(0, int(at - patch / 2) - 1) for at in centre]
    window = dyes[:, corner[0] : corner[0] + patch + 4, corner[1] : corner[1] + patch + 4]
    body, _ = paste(window, cell, np.array([at - start for at, start in zip(centre, corner, strict=True)]))
    zoom = [side / drawn for side, drawn in zip(shape, dyes.shape[1:], strict=True)]
    top, left = (int(start * by) for start, by in zip(corner, zoom, strict=True))
    height, width = (
        min(int(extent * by) + 2, side - start)
        for extent, by, side, start in zip(body.shape, zoom, shape, (top, left), strict=True)
    )
    # pixel centres of the photograph, where they lie in the window
    y, x = ((start + 0.5) / by - 0.5 - begin for start, by, begin in zip((top, left), zoom, corner, strict=True))
    move = np.array([[1 / zoom[1], 0, x], [0, 1 / zoom[0], y]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    seen = cv2.warpAffine(body, move, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE) > 0.5
    return (top, left, seen) if seen.any() else None


def _instances(bodies: Sequence[Body], shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) uint16, 0 or 1 + the number of the topmost body; and which touch another, (K,) bool."""
    instances, touches = np.zeros((shape[0] + 2, shape[1] + 2), np.uint16), np.zeros(len(bodies), bool)
    for number, (top, left, whole) in enumerate(bodies):
        ends = (max(start + side + 2, 0) for start, side in zip((top, left), whole.shape, strict=True))
        rows, columns = (slice(max(start, 0), end) for start, end in zip((top, left), ends, strict=True))
        view = instances[rows, columns]  # with a pixel around the body
        own = np.pad(whole, 1)[max(-top, 0) :, max(-left, 0) :][: len(view), : view.shape[1]]
        if not own.size:  # beyond the picture
            continue
        near = cv2.dilate(own.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        others = np.unique(view[near & (view > 0)]).astype(int) - 1
        touches[others] = True
        touches[number] = len(others) > 0
        view[own] = number + 1
        instances[[0, -1]] = 0  # what is beyond the picture touches nothing in it
        instances[:, [0, -1]] = 0
    return instances[1:-1, 1:-1], touches


def _boxes(instances: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of the instances are seen, (count,) bool, and the (K, 4) float32 extents of those."""
    from scipy.ndimage import find_objects

    found = find_objects(instances, max_label=count)
    corners = [(place[1].start, place[0].start, place[1].stop, place[0].stop) for place in found if place]
    return np.array([place is not None for place in found], bool), np.array(corners, np.float32).reshape(-1, 4)
