"""Synthetic cells for pre-training: drawn on the fly, framed and turned, each a function of seed and index."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

CYTOPLASM, NUCLEUS = 128, 255  # grey levels in the drawn masks


class CellBatch(NamedTuple):
    """Images (B, 3, S, S) uint8 RGB; cell and nucleus (B, S/4, S/4) int64 of 0 and 1; label (B,) int64."""

    images: torch.Tensor
    cell: torch.Tensor
    nucleus: torch.Tensor
    label: torch.Tensor


class SyntheticCells(Dataset):
    """Cell `i` of a seed, always the same: an image in the network's frame, its mask at every fourth pixel, its class.

    Args:
        seed, count: which cells, and how many.
        image_size: side of the network's frame, px.
        drawn_size: side of the drawing that is cropped and enlarged, px.
        shares: range of the longer side of the cell's box as a share of the frame's side.
    """

    def __init__(self, seed: int, count: int, image_size: int, drawn_size: int, shares: tuple[float, float]) -> None:
        self.seed, self.count, self.image_size = seed, count, image_size
        self.drawn_size, self.shares = drawn_size, shares

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, int]:
        from cellfeat import synthetic

        rng = np.random.default_rng((self.seed, index))
        label = int(rng.integers(len(synthetic.CLASSES)))
        laboratory = synthetic.random_laboratory(rng)
        cell = synthetic.draw_cell(synthetic.CLASSES[label], laboratory, rng, size=self.drawn_size)
        top, left, side = _window(cell.mask, rng.uniform(*self.shares), rng)
        image = cell.image[top : top + side, left : left + side]
        mask = cell.mask[top : top + side, left : left + side]
        flip, turns = bool(rng.integers(2)), int(rng.integers(4))
        image, mask = (np.rot90(plane[:, ::-1] if flip else plane, turns) for plane in (image, mask))
        how = (cv2.INTER_LINEAR, cv2.INTER_CUBIC)[rng.integers(2)]
        image = cv2.resize(np.ascontiguousarray(image), (self.image_size, self.image_size), interpolation=how)
        small = self.image_size // 4
        mask = cv2.resize(np.ascontiguousarray(mask), (small, small), interpolation=cv2.INTER_NEAREST)
        return image, mask, label


def batches(cells: SyntheticCells, batch_size: int, first: int = 0) -> DataLoader:
    """`CellBatch` after batch from index `first`, drawn ahead in a process of its own."""
    order = range(first, len(cells))
    return DataLoader(
        cells, batch_size, sampler=order, num_workers=1, prefetch_factor=4, collate_fn=_collate, drop_last=True
    )


def _collate(rows: list[tuple[np.ndarray, np.ndarray, int]]) -> CellBatch:
    images = torch.from_numpy(np.stack([image for image, _, _ in rows])).permute(0, 3, 1, 2).contiguous()
    masks = torch.from_numpy(np.stack([mask for _, mask, _ in rows]))
    label = torch.tensor([label for _, _, label in rows])
    return CellBatch(images, (masks > 0).long(), (masks == NUCLEUS).long(), label)


def _window(mask: np.ndarray, share: float, rng: np.random.Generator) -> tuple[int, int, int]:
    """(top, left, side) of a square inside the drawing that holds the cell whole, its box about `share` of the side.

    It is never larger than the drawing: a small cell in a drawing keeps its size rather than being given a border.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = max(np.ptp(rows), np.ptp(columns)) + 1
    side = int(np.clip(round(box / share), box, mask.shape[0]))
    top, left = (_start(axis[0], axis[-1] + 1, side, mask.shape[0], rng) for axis in (rows, columns))
    return top, left, side


def _start(low: int, high: int, side: int, limit: int, rng: np.random.Generator) -> int:
    """Where a window of `side` may begin so that it holds low..high and stays inside 0..limit, near the middle."""
    first, last = max(0, high - side), min(low, limit - side)
    middle = (low + high - side) / 2 + rng.normal(0.0, 0.08 * side)
    return int(np.clip(round(middle), min(first, last), last))
