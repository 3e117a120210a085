"""Fields assembled from photographs of single cells without labels: what drawn smears lack, pixels of a camera.

Pieces of photographs from which the cells were cut make the field; cells are laid onto it, by their outlines or with
what surrounds them. Then the whole is seen under another stain and lamp, as in pre-training.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from cellfeat import CellfeatError, Context, images
from cellfeat_lora_sam.detector_head import TILE
from cellfeat_lora_sam.pretrain_pool import LIGHT_QUANTILE, Photographs, Segment, collected, segmented
from cellfeat_lora_sam.pretrain_views import Ranges, Stain, photographed

SIDE = 128  # px of the photographs that are kept: cells are some 60 px wide
CELL_SHARES = (0.03, 0.6)  # of the photograph's area: less or more is no whole cell
PIECES = 12  # photographs that the pieces of one field are cut from
STEP, ROUNDS = 0.6, 2  # from piece to piece, in sides of a piece; how often the field is covered
ROOM = 1.12  # of a cell's diameter: what is cut out around it
RIM = 0.12  # of a piece's side, over which it fades into its neighbours
STRAY = 0.15  # how far the logarithm of a cell's size strays
WITH_SURROUNDINGS = 0.4  # of the cells
SHOWN, UNHIDDEN = 0.3, 0.6  # shares of a cell inside the tile, and of these pixels not below another, to be known
TRIES = 40
LOOKS = Ranges(resolution=(0.4, 1.0))
LEAST_STRENGTH = 0.3  # how far stain and camera stray at least, as a share of these ranges


class CutCells(NamedTuple):
    """N photographs of one cell each.

    images: (N, 128, 128, 3) uint8 RGB. masks: (N, 128, 128) bool. light: (N, 3) float32, colour of the empty slide.
    diameter: the median over the cells, px.
    """

    images: np.ndarray
    masks: np.ndarray
    light: np.ndarray
    diameter: float


class Field(NamedTuple):
    """One tile: image (T, T, 3) uint8 RGB; boxes (K, 4) float32 px; unknown: boxes (U, 4) of what shows too little."""

    image: np.ndarray
    boxes: np.ndarray
    unknown: np.ndarray


def cut_cells(paths: Sequence[Path], size: int, segment: Segment, context: Context) -> dict[str, Tensor]:
    """The photographs whose mask can be trusted, as tensors named as in `CutCells`; size: px at which they are
    segmented.

    Raises:
        CellfeatError: where none can.
    """
    frames = np.stack(collected(Photographs(paths, size), context, "reading images"))
    masks, known = segmented(frames, segment, context)
    shares = (masks > 0).mean(axis=(1, 2))
    rows = np.flatnonzero(known & (shares > CELL_SHARES[0]) & (shares < CELL_SHARES[1]))
    context.note(f"cells of {len(rows)} of {len(frames)} photographs can be cut out")
    if not len(rows):
        raise CellfeatError(f"none of the {len(frames)} photographs has a cell whose outline can be trusted")
    small = np.stack([images.resize(frames[row], SIDE) for row in rows])
    cells = np.stack([images.resize(masks[row], SIDE, "nearest") > 0 for row in rows])
    light = np.quantile(small[:, ::4, ::4].reshape(len(small), -1, 3), LIGHT_QUANTILE, axis=1).astype(np.float32)
    diameter = np.median(np.sqrt(cells.sum(axis=(1, 2)) * 4 / np.pi))
    return {
        "images": torch.from_numpy(small),
        "masks": torch.from_numpy(cells),
        "light": torch.from_numpy(light),
        "diameter": torch.tensor(float(diameter)),
    }


def assembled(source: CutCells, rng: np.random.Generator, diameter: float, cells: int, touching: float) -> Field:
    """A field in which a typical cell is `diameter` px wide; touching: chance that a cell is laid against another."""
    light = source.light[rng.integers(len(source.images))]
    canvas = np.ones((TILE, TILE, 3), np.float32) * light
    _cover(canvas, source, rng, light, round(SIDE * diameter / source.diameter))
    instances, areas = np.zeros((TILE, TILE), np.int32), []
    around = np.sort(rng.random(cells) >= WITH_SURROUNDINGS)  # those with surroundings first: they hide what is there
    placed: list[tuple[float, float, float]] = []
    for bare in around.tolist():
        stray = float(np.exp(rng.uniform(-STRAY, STRAY)))
        side = round(SIDE * diameter / source.diameter * stray)
        piece, mask = _piece(source, int(rng.integers(len(source.images))), rng, light, side)
        radius = float(np.sqrt(mask.sum() / np.pi))
        spot = _spot(placed, radius, touching, rng)
        if spot is None or radius < 2:
            continue
        placed.append((*spot, radius))
        alpha = _soft(mask, max(1, side // 40)) if bare else _window(side)
        corner = round(spot[0] - side / 2), round(spot[1] - side / 2)
        areas.append(mask.sum())
        _lay(canvas, piece, alpha, corner)
        _mark(instances, alpha > 0.5, corner, 0)
        _mark(instances, mask, corner, len(areas))
    boxes, unknown = _boxes(instances, areas)
    return Field(_restained(canvas, light, rng), boxes, unknown)


def _cover(canvas: np.ndarray, source: CutCells, rng: np.random.Generator, light: np.ndarray, side: int) -> None:
    """Cover the field with pieces that hold no cell, in place."""
    chosen = rng.integers(len(source.images), size=PIECES)
    step = max(8, round(STEP * side))
    for _ in range(ROUNDS):
        for y in range(-side // 2, TILE, step):
            for x in range(-side // 2, TILE, step):
                piece, mask = _piece(source, int(rng.choice(chosen)), rng, light, side)
                cut = 1 - _soft(mask, max(2, round((ROOM - 1) * side / 2)))
                jitter = rng.integers(-step // 3, step // 3 + 1, 2)
                _lay(canvas, piece, _window(side) * cut, (y + int(jitter[0]), x + int(jitter[1])))


def _piece(
    source: CutCells, row: int, rng: np.random.Generator, light: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """A photograph turned at random, brought to `side` px and to the field's light; and its cell, (side, side) bool."""
    turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
    image, mask = (np.rot90(values[row], turns) for values in (source.images, source.masks))
    if mirrored:
        image, mask = image[:, ::-1], mask[:, ::-1]
    kind = cv2.INTER_AREA if side < SIDE else cv2.INTER_LINEAR
    small = cv2.resize(np.ascontiguousarray(image), (side, side), interpolation=kind).astype(np.float32)
    cell = cv2.resize(mask.astype(np.uint8) * 255, (side, side), interpolation=kind) > 127
    return small * (light / source.light[row].clip(1)), cell


def _soft(mask: np.ndarray, width: int) -> np.ndarray:
    """(s, s) float32, 1 on the mask, falling to 0 over about `width` px outside it."""
    grown = cv2.dilate(mask.astype(np.float32), np.ones((2 * width + 1, 2 * width + 1), np.uint8))
    return np.maximum(cv2.blur(grown, (2 * width + 1, 2 * width + 1)), mask)


def _window(side: int) -> np.ndarray:
    """(side, side) float32, 1 in the middle, falling to 0 at the rim."""
    ramp = (np.minimum(np.arange(side), np.arange(side)[::-1]) / max(1.0, RIM * side)).clip(0, 1).astype(np.float32)
    return np.minimum.outer(ramp, ramp)


def _overlap(corner: tuple[int, int], side: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a square at `corner` (y, x) meets the tile: in the tile, and in the square; maybe nowhere."""
    low = [min(TILE, max(0, at)) for at in corner]
    high = [max(start, min(TILE, at + side)) for start, at in zip(low, corner, strict=True)]
    tile = [slice(a, b) for a, b in zip(low, high, strict=True)]
    own = [slice(part.start - at, part.stop - at) for part, at in zip(tile, corner, strict=True)]
    return (tile[0], tile[1]), (own[0], own[1])


def _lay(canvas: np.ndarray, piece: np.ndarray, alpha: np.ndarray, corner: tuple[int, int]) -> None:
    tile, own = _overlap(corner, len(piece))
    canvas[tile] += alpha[own][..., None] * (piece[own] - canvas[tile])


def _mark(instances: np.ndarray, mask: np.ndarray, corner: tuple[int, int], number: int) -> None:
    tile, own = _overlap(corner, len(mask))
    instances[tile][mask[own]] = number


def _spot(
    placed: Sequence[tuple[float, float, float]], radius: float, touching: float, rng: np.random.Generator
) -> tuple[float, float] | None:
    """(y, x) of a cell's middle, against another cell or away from all; None where there is no room."""
    against = bool(placed) and rng.random() < touching
    for _ in range(TRIES):
        y, x = (float(at) for at in rng.uniform(-0.4 * radius, TILE + 0.4 * radius, 2))
        if against:
            other = placed[int(rng.integers(len(placed)))]
            angle, away = rng.uniform(0, 2 * np.pi), (radius + other[2]) * rng.uniform(0.85, 1.05)
            y, x = other[0] + float(away * np.sin(angle)), other[1] + float(away * np.cos(angle))
        inside = all(-0.4 * radius <= at <= TILE + 0.4 * radius for at in (y, x))
        near = 0.8 if against else 1.3
        if inside and all(np.hypot(y - a, x - b) > near * (radius + other) for a, b, other in placed):
            return y, x
    return None


def _boxes(instances: np.ndarray, areas: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of cells of which enough is seen, and of what is seen of the others; (K, 4) and (U, 4) float32."""
    known, unknown = [], []
    for number, area in enumerate(areas, 1):
        rows, columns = np.nonzero(instances == number)
        if not len(rows):
            continue
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        whole = len(rows) >= UNHIDDEN * area or (_at_border(box) and len(rows) >= SHOWN * area)
        (known if whole else unknown).append(box)
    return np.array(known, np.float32).reshape(-1, 4), np.array(unknown, np.float32).reshape(-1, 4)


def _at_border(box: tuple[int, int, int, int]) -> bool:
    return min(box[:2]) <= 0 or max(box[2:]) >= TILE


def _restained(canvas: np.ndarray, light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(T, T, 3) float -> uint8, another stain, lamp and camera."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    field = torch.from_numpy(canvas.clip(0, 255)).permute(2, 0, 1)[None]
    strength = float(rng.uniform(LEAST_STRENGTH, 1.0))
    stain = Stain.drawn(1, torch.from_numpy(light)[None], LOOKS, strength, generator)
    seen = photographed(stain.applied(field), LOOKS, strength, generator)
    return seen[0].permute(1, 2, 0).to(torch.uint8).numpy()
