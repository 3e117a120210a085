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
    paste,
    photograph,
)
from cellfeat.synthetic_cells import CellLayers, draw_white_cell
from cellfeat.synthetic_laboratories import Laboratory
from cellfeat.synthetic_types import CellType, choose_form

TRIES = 60  # places that are tried for one white cell
LEAST_DIAMETER = 8  # px; smaller cells have no nucleus to be seen


class SyntheticSmear(NamedTuple):
    """One drawn smear photograph.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        boxes: (K, 4) float32 of (x1, y1, x2, y2) px, of the part of each white cell that is in the picture.
        labels: K classes.
        instances: (H, W) uint16, 0 where there is none of the white cells, else 1 + its place among `boxes`.
        touching: (K,) bool, whether another white cell touches or overlaps it.
        cut: (K,) bool, whether the picture's border cuts it.
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
        ValueError: for an unknown class or laboratory, or a diameter below 8 px.
    """
    for name in classes:
        laboratory = checked_laboratory(name, laboratory)
    if not isinstance(laboratory, Laboratory) or diameter < LEAST_DIAMETER:
        raise ValueError(f"diameter is {diameter} px and classes are {tuple(classes)}; at least 8 px and one class.")
    frame = diameter / laboratory.cell_share  # side in px of the frame that would be cut around one cell
    scale = min(1.0, laboratory.resolution / frame)
    width, height = size
    sampled = (max(2, round(height * scale)), max(2, round(width * scale)))
    drawn = (round(SUPERSAMPLING * sampled[0]), round(SUPERSAMPLING * sampled[1]))
    unit = SUPERSAMPLING * scale * diameter / 2.0  # radius of a typical neutrophil where dyes are laid
    forms = _forms(cells, classes, shares, unit, rng)
    spots = _places([radius for _, _, radius in forms], drawn, touching, rng)
    dyes = np.zeros((4, *drawn), np.float32)
    _scatter_red_cells(dyes, spots, unit * RED_CELL_DIAMETER, laboratory, rng)
    for _ in range(rng.poisson(laboratory.debris * drawn[0] * drawn[1] / (SUPERSAMPLING * scale * frame) ** 2)):
        add_platelet(dyes, unit * rng.uniform(0.10, 0.26), rng)
    instances = np.zeros((height, width), np.uint16)
    labels, boxes, bodies = [], [], []
    for (y, x, _), (label, kind, radius) in zip(spots, forms, strict=False):
        window, body = _lay(dyes, draw_white_cell(kind, radius, rng), (y, x))
        box, region = _visible(window, body, height / drawn[0], width / drawn[1], (height, width))
        if region is None:
            continue
        labels.append(label)
        boxes.append(box)
        bodies.append(region)
    image = photograph(dyes, sampled, (height, width), frame * scale, laboratory, rng)
    touches = _outlines(instances, boxes, bodies)
    found = np.array(boxes, np.float32).reshape(-1, 4)
    cut = (found[:, :2] <= 0).any(axis=1) | (found[:, 2] >= width) | (found[:, 3] >= height)
    return SyntheticSmear(image, found, tuple(labels), instances, touches, cut)


def _forms(
    cells: int, classes: Sequence[str], shares: Sequence[float] | None, unit: float, rng: np.random.Generator
) -> list[tuple[str, CellType, float]]:
    """(class, form, radius in px) of every cell that is wanted."""
    found = []
    for number in rng.choice(len(classes), cells, p=shares).tolist():
        kind, diameter = choose_form(classes[number], rng)
        found.append((classes[number], kind, unit * diameter / NEUTROPHIL_DIAMETER))
    return found


def _places(
    radii: Sequence[float], shape: tuple[int, int], touching: float, rng: np.random.Generator
) -> list[tuple[float, float, float]]:
    """(y, x, radius) of the cells that found room; they may lie across the border, never mostly beyond it."""
    placed: list[tuple[float, float, float]] = []
    for radius in radii:
        against = bool(placed) and rng.random() < touching
        for _ in range(TRIES):
            y, x = (float(rng.uniform(-0.4 * radius, side + 0.4 * radius)) for side in shape)
            if against:
                other = placed[int(rng.integers(len(placed)))]
                angle, away = rng.uniform(0, 2 * np.pi), (radius + other[2]) * rng.uniform(0.82, 1.0)
                y, x = other[0] + float(away * np.sin(angle)), other[1] + float(away * np.cos(angle))
            inside = all(-0.4 * radius <= at <= side + 0.4 * radius for at, side in zip((y, x), shape, strict=True))
            near = 0.8 if against else 1.15
            if inside and all(np.hypot(y - a, x - b) > near * (radius + other) for a, b, other in placed):
                placed.append((y, x, radius))
                break
        else:
            placed.append((np.inf, np.inf, radius))  # no room: laid nowhere
    return placed


def _scatter_red_cells(
    dyes: np.ndarray, white: Sequence[tuple], usual: float, laboratory: Laboratory, rng: np.random.Generator
) -> None:
    """Red cells over the whole field, in place; as many give way to white cells as the laboratory's crowding lets."""
    height, width = dyes.shape[1:]
    wanted = laboratory.red_density * rng.uniform(0.4, 1.3) * (height + 2 * usual) * (width + 2 * usual)
    wanted /= np.pi * usual**2
    tries = int(2.5 * wanted)
    spots = rng.uniform(-usual, (height + usual, width + usual), (tries, 2))
    sizes = usual * rng.normal(1.0, 0.07, tries).clip(0.8, 1.2)
    allowed = np.where(rng.random(tries) < 0.15, 0.6, 0.97)
    beneath = rng.random(tries) < laboratory.crowding
    known = np.full((len(white) + tries, 3), np.inf)
    if white:
        known[: len(white)] = [spot if np.isfinite(spot[0]) else (np.inf, np.inf, 0.0) for spot in white]
    known[len(white) :, 2] = 0.0
    count = len(white)
    for spot, size, near, under in zip(spots, sizes, allowed, beneath, strict=True):
        if count - len(white) > wanted:
            break
        others = known[:count]
        least = np.full(count, near)
        if under:
            least[: len(white)] = 0.75
        if np.all(np.hypot(*(others[:, :2] - spot).T) > least * (others[:, 2] + size)):
            known[count] = (*spot, size)
            count += 1
            add_red_cell(dyes, spot.tolist(), float(size), laboratory, rng)


def _lay(dyes: np.ndarray, cell: CellLayers, centre: tuple[float, float]) -> tuple[tuple[int, int], np.ndarray]:
    """Lay a white cell, in place; gives the top left corner of a window and the cell's body in it, (h, w) float32."""
    if not np.isfinite(centre[0]):
        return (0, 0), np.zeros((0, 0), np.float32)
    patch = cell.body.shape[0]
    corner = (max(0, int(centre[0] - patch / 2) - 1), max(0, int(centre[1] - patch / 2) - 1))
    window = dyes[:, corner[0] : corner[0] + patch + 4, corner[1] : corner[1] + patch + 4]
    body, _ = paste(window, cell, np.array([at - start for at, start in zip(centre, corner, strict=True)]))
    return corner, body


def _visible(
    corner: tuple[int, int], body: np.ndarray, y_scale: float, x_scale: float, shape: tuple[int, int]
) -> tuple[list[float], tuple | None]:
    """The box of a cell in the picture, px, and (top, left, (h, w) bool) of its pixels; None where it is not seen."""
    if not (body > 0.5).any():
        return [], None
    top, left = round(corner[0] * y_scale), round(corner[1] * x_scale)
    size = (max(1, round(body.shape[1] * x_scale)), max(1, round(body.shape[0] * y_scale)))
    seen = cv2.resize(body, size, interpolation=cv2.INTER_LINEAR) > 0.5
    seen = seen[: shape[0] - top, : shape[1] - left]
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if not len(rows):
        return [], None
    box = [left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1]
    return [float(at) for at in box], (top, left, seen)


def _outlines(instances: np.ndarray, boxes: Sequence, bodies: Sequence[tuple]) -> np.ndarray:
    """Fill in the instances, the later cell on top as it was drawn; gives which cells touch another, (K,) bool."""
    touches = np.zeros(len(boxes), bool)
    for number, (top, left, seen) in enumerate(bodies):
        view = instances[top : top + seen.shape[0], left : left + seen.shape[1]]
        near = cv2.dilate(seen.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        others = np.unique(view[near & (view > 0)]).astype(int) - 1
        touches[others] = True
        touches[number] = len(others) > 0
        view[seen] = number + 1
    return touches
