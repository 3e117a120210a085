"""Cells to pre-train on, all in memory: drawn ones with exact masks, photographed ones with masks from a segmenter.

No label of a photographed cell is read: its row holds pixels, a mask that some program made, and numbers measured
in both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cellfeat import CellfeatError, Context, images
from cellfeat_lora_sam.pretrain_descriptors import Descriptors, describe

CYTOPLASM, NUCLEUS = 128, 255  # grey levels of masks
NO_TYPE = -1
LIGHT_QUANTILE = 0.95  # of each channel: what the empty slide looks like in all but the most crowded fields
SEGMENTED_AT_ONCE = 16
FEW_ROWS = 64  # not worth the start of processes


class Segment(NamedTuple):
    """A way to masks.

    masks: images (B, 3, s, s) uint8 -> cell and nucleus (B, s, s) bool, and whether both can be trusted (B,) bool.
    on_cpu: whether processes may share the work.
    """

    masks: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    on_cpu: bool


class Pool(NamedTuple):
    """N cells in square frames of one side s.

    images: (N, s, s, 3) uint8 RGB. masks: (N, s, s) uint8, 0, 128 on cytoplasm, 255 on the nucleus. known: (N,) bool,
    the mask can be trusted. light: (N, 3) float32, colour of the empty slide, 0..255. drawn: (N,) int64, the drawn
    type, -1 for photographs. descriptors: (N, D) float32, standardised; zeros where there are none, see `described`.
    """

    images: Tensor
    masks: Tensor
    known: Tensor
    light: Tensor
    drawn: Tensor
    descriptors: Tensor
    described: Tensor

    def to(self, device: torch.device) -> Pool:
        return Pool(*(values.to(device) for values in self))


def drawn_pool(seed: int, count: int, drawn_size: int, size: int, descriptors: int, context: Context) -> Pool:
    """Cells drawn `drawn_size` px wide and brought to `size`; type, laboratory and drawing follow from (seed, i).

    descriptors: how many the photographs have; drawn cells have none.
    """
    cells = collected(_DrawnCells(seed, count, drawn_size, size), context, "drawing cells")
    frames, masks, types = (np.stack(values) for values in zip(*cells, strict=True))
    return Pool(
        torch.from_numpy(frames),
        torch.from_numpy(masks),
        torch.ones(count, dtype=torch.bool),
        torch.from_numpy(_light(frames)),
        torch.from_numpy(types.astype(np.int64)),
        torch.zeros(count, descriptors),
        torch.zeros(count, dtype=torch.bool),
    )


def photographed_pool(paths: Sequence[Path], size: int, segment: Segment, context: Context) -> Pool:
    """Photographs, their masks by `segment`, and descriptors of those whose mask can be trusted.

    Raises:
        CellfeatError: when fewer than two masks can be trusted.
    """
    frames = np.stack(collected(Photographs(paths, size), context, "reading images"))
    masks, known = segmented(frames, segment, context)
    rows = np.flatnonzero(known)
    context.note(f"masks of {len(rows)} of {len(frames)} photographs can be trusted")
    if len(rows) < 2:
        raise CellfeatError(f"{len(rows)} of {len(frames)} masks can be trusted; pre-training needs 2 at least")
    measured = np.stack(collected(_Described(frames, masks, rows), context, "measuring cells"))
    descriptors = Descriptors.fitted(measured)
    values = np.zeros((len(frames), descriptors.count), np.float32)
    values[rows] = descriptors.standardised(measured)
    return Pool(
        torch.from_numpy(frames),
        torch.from_numpy(masks),
        torch.from_numpy(known),
        torch.from_numpy(_light(frames)),
        torch.full((len(frames),), NO_TYPE),
        torch.from_numpy(values),
        torch.from_numpy(known.copy()),
    )


def recovered_pool(pool: Pool, segment: Segment, context: Context) -> Pool:
    """The photographs with masks by `segment` where none could be trusted; those that can now be are known.

    Their descriptors stay unknown: a network that is trained on its own masks should not also be told what they hold.
    """
    rows = np.flatnonzero(~pool.known.numpy())
    if not len(rows):
        return pool
    masks, known = segmented(pool.images.numpy()[rows], segment, context)
    context.note(f"masks of {known.sum()} of the other {len(rows)} photographs were recovered by the network itself")
    all_masks, all_known = pool.masks.clone(), pool.known.clone()
    all_masks[torch.from_numpy(rows)] = torch.from_numpy(masks)
    all_known[torch.from_numpy(rows)] = torch.from_numpy(known)
    return pool._replace(masks=all_masks, known=all_known)


def saved_or_made(path: Path, make: Callable[[], Pool]) -> Pool:
    """The pool in the file `path`, made now and kept there where it is missing."""
    from safetensors.torch import load_file, save_file

    if not path.exists():
        partial = path.with_name(f".{path.name}.partial")
        save_file(make()._asdict(), partial)
        partial.replace(path)
    return Pool(**load_file(path))


def segmented(frames: np.ndarray, segment: Segment, context: Context) -> tuple[np.ndarray, np.ndarray]:
    """Masks (N, s, s) uint8 and whether each can be trusted (N,) bool."""
    batches = _Segmented(frames, segment)
    found = collected(batches, context, "segmenting", parallel=segment.on_cpu)
    masks, known = (np.concatenate(values) for values in zip(*found, strict=True))
    return masks, known


def _light(frames: np.ndarray) -> np.ndarray:
    """(N, s, s, 3) uint8 -> (N, 3) float32."""
    sparse = frames[:, ::4, ::4].reshape(len(frames), -1, 3)
    return np.quantile(sparse, LIGHT_QUANTILE, axis=1).astype(np.float32)


class _DrawnCells(Dataset):
    def __init__(self, seed: int, count: int, drawn_size: int, size: int) -> None:
        self.seed, self.count, self.drawn_size, self.size = seed, count, drawn_size, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, int]:
        from cellfeat import synthetic

        rng = np.random.default_rng((self.seed, index))
        kind = int(rng.integers(len(synthetic.ALL_TYPES)))
        laboratory = synthetic.random_laboratory(rng)
        cell = synthetic.draw_cell(synthetic.ALL_TYPES[kind], laboratory, rng, size=self.drawn_size)
        return images.resize(cell.image, self.size), images.resize(cell.mask, self.size, "nearest"), kind


class Photographs(Dataset):
    def __init__(self, paths: Sequence[Path], size: int) -> None:
        self.paths, self.size = paths, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return images.resize(images.read_rgb(self.paths[index]), self.size)


class _Segmented(Dataset):
    def __init__(self, frames: np.ndarray, segment: Segment) -> None:
        self.frames, self.segment = frames, segment

    def __len__(self) -> int:
        return -(-len(self.frames) // SEGMENTED_AT_ONCE)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        frames = self.frames[index * SEGMENTED_AT_ONCE : (index + 1) * SEGMENTED_AT_ONCE]
        found = self.segment.masks(torch.from_numpy(frames.transpose(0, 3, 1, 2).copy()))
        cell, nucleus, trusted = (values.cpu().numpy() for values in found)
        nucleus &= cell
        masks = np.where(nucleus, NUCLEUS, np.where(cell, CYTOPLASM, 0)).astype(np.uint8)
        return masks, trusted & nucleus.any((1, 2))


class _Described(Dataset):
    def __init__(self, frames: np.ndarray, masks: np.ndarray, rows: np.ndarray) -> None:
        self.frames, self.masks, self.rows = frames, masks, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> np.ndarray:
        row = self.rows[index]
        return describe(self.frames[row], self.masks[row])


def collected(rows: Dataset, context: Context, text: str, parallel: bool = True) -> list[Any]:
    """All rows in order, made in processes unless there are few."""
    count = len(rows)  # type: ignore[arg-type]
    workers = min(16, torch.multiprocessing.cpu_count()) if parallel and count >= FEW_ROWS else 0
    threads = cv2.getNumThreads()
    loader = DataLoader(rows, batch_size=None, num_workers=workers, prefetch_factor=32 if workers else None)
    found = []
    try:
        if workers:
            cv2.setNumThreads(1)  # inherited by the processes, which would contend for the cores
        with context.progress(count, text) as bar:
            for row in loader:
                found.append(row)
                bar.advance()
    finally:
        cv2.setNumThreads(threads)
    return [
        tuple(np.asarray(part) for part in row) if isinstance(row, (tuple, list)) else np.asarray(row) for row in found
    ]
