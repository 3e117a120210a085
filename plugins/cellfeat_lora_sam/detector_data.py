"""Tiles with known white cells, to train the detector on: drawn smears, and fields assembled from photographs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from cellfeat_lora_sam.detector_assembled import CutCells, Field, assembled
from cellfeat_lora_sam.detector_head import CELL_DIAMETER, STRIDE, TILE
from cellfeat_lora_sam.detector_tiles import padded

SCALES = (-0.5, 0.4)  # logarithms of the typical cell's diameter over `CELL_DIAMETER`: users guess their scale
EMPTY = 0.15  # of the tiles hold no white cell
USUAL, MOST = 3.0, 24  # white cells in the others: one more than a Poisson number
CROWDED = 0.4  # of the tiles, in which cells are laid against each other
SMALL, SMALLEST = 0.2, 56  # of the tiles are photographs that end inside; px
SHOWN = 0.3  # least share of a box that is left where a photograph ends


class Tile(NamedTuple):
    """image: (3, T, T) uint8 RGB. boxes: (24, 4) float32 px, NaN where there are fewer. counted: (T/4, T/4) bool,
    where it is known whether there is a cell."""

    image: np.ndarray
    boxes: np.ndarray
    counted: np.ndarray


class Tiles(Dataset):
    """`count` tiles from number `first` on, each a matter of (seed, number) alone; cells: for every other tile to be
    assembled from."""

    def __init__(self, seed: int, first: int, count: int, cells: CutCells | None = None) -> None:
        self.seed, self.first, self.count, self.cells = seed, first, count, cells

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tile:
        number = self.first + index
        return tile(np.random.default_rng((self.seed, number)), self.cells if number % 2 else None)


def tile(rng: np.random.Generator, cells: CutCells | None) -> Tile:
    """One tile, assembled where `cells` are given, else drawn."""
    diameter = CELL_DIAMETER * float(np.exp(rng.uniform(*SCALES)))
    count = 0 if rng.random() < EMPTY else 1 + int(rng.poisson(USUAL * (CELL_DIAMETER / diameter)))
    touching = float(rng.random()) if rng.random() < CROWDED else 0.0
    arguments = (rng, diameter, min(count, MOST), touching)
    field = _drawn(*arguments) if cells is None else assembled(cells, *arguments)
    return finished(field, rng)


def _drawn(rng: np.random.Generator, diameter: float, cells: int, touching: float) -> Field:
    from cellfeat import synthetic
    from cellfeat.synthetic_smears import draw_smear

    smear = draw_smear(
        synthetic.random_laboratory(rng), rng, (TILE, TILE), cells, diameter, touching, synthetic.ALL_TYPES
    )
    seen = np.minimum(*(smear.boxes[:, 2:] - smear.boxes[:, :2]).T) >= SHOWN * diameter
    return Field(smear.image, smear.boxes[seen], smear.boxes[~seen])


def finished(field: Field, rng: np.random.Generator) -> Tile:
    """The field as the network will meet it: now and then the photograph ends inside the tile and is mirrored there."""
    image, boxes, unknown = field.image.transpose(2, 0, 1), field.boxes, field.unknown
    low, high = [0, 0], [TILE, TILE]
    if rng.random() < SMALL:
        for axis in range(2):
            side = int(rng.integers(SMALLEST, TILE + 1))
            low[axis] = (TILE - side) // 2
            high[axis] = low[axis] + side
        image, _ = padded(image[:, low[0] : high[0], low[1] : high[1]])
        boxes, ended = _clipped(boxes, low, high)
        unknown = np.concatenate((_clipped(unknown, low, high)[0], ended))
    counted = np.zeros((TILE // STRIDE,) * 2, bool)
    counted[-(-low[0] // STRIDE) : high[0] // STRIDE, -(-low[1] // STRIDE) : high[1] // STRIDE] = True
    for x1, y1, x2, y2 in (unknown / STRIDE).round().astype(int).clip(0):
        counted[y1 : y2 + 1, x1 : x2 + 1] = False
    kept = np.full((MOST, 4), np.nan, np.float32)
    kept[: len(boxes)] = boxes[:MOST]
    return Tile(np.ascontiguousarray(image), kept, counted)


def _clipped(boxes: np.ndarray, low: list[int], high: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes where the picture ends at `low` and `high` (y, x): those of which enough is left, and the other rests."""
    ends = np.array([low[1], low[0]], np.float32), np.array([high[1], high[0]], np.float32)
    inside = np.concatenate((np.maximum(boxes[:, :2], ends[0]), np.minimum(boxes[:, 2:], ends[1])), axis=1)
    left = np.prod((inside[:, 2:] - inside[:, :2]).clip(0), axis=1)
    share = left / np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return inside[share >= SHOWN], inside[(share > 0) & (share < SHOWN)]


def stacked(tiles: list[tuple[np.ndarray, ...]]) -> dict[str, torch.Tensor]:
    """Tiles as tensors of one batch, named as in `Tile`."""
    columns = (np.stack(values) for values in zip(*tiles, strict=True))
    return {name: torch.from_numpy(values) for name, values in zip(Tile._fields, columns, strict=True)}
