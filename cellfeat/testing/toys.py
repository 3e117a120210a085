"""Cells, images and a context to check methods on: small, seeded, without any file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfeat.console import SilentReporter
from cellfeat.slots import Context
from cellfeat.types import UNLABELED, Cells

if TYPE_CHECKING:
    import torch

CLASSES, DOMAINS = 3, ("here", "there", "elsewhere")


def cpu_context(scratch: Path, seed: int = 0) -> Context:
    """A float32 CPU context that shows nothing; its notes are in `context.reporter.notes`."""
    import torch

    scratch.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    return Context(torch.device("cpu"), torch.float32, generator, scratch, SilentReporter())


def toy_cells(per_class: int = 4, size: int = 32, channels: int = 8, grid: int = 14, seed: int = 0) -> Cells:
    """Three domains × three classes with every column; classes differ, domains are shifted and scaled.

    The second and third domain are targets; their labels are hidden. image (N, 3, size, size), map (N, channels,
    grid, grid), pooled (N, channels), crop (N, 3, 128, 128), mask (N, size, size).
    """
    rng = np.random.default_rng(seed)
    domain = np.repeat(DOMAINS, CLASSES * per_class)
    label = np.tile(np.repeat(np.arange(CLASSES), per_class), len(DOMAINS))
    n = len(label)
    shift = np.searchsorted(np.unique(domain), domain)
    centre = rng.normal(size=(CLASSES, channels))[label] + shift[:, None]
    token_map = centre[:, :, None, None] + 0.3 * rng.normal(size=(n, channels, grid, grid))
    colour = (60 + 60 * label + 20 * shift)[:, None, None, None]
    noise = rng.integers(-15, 16, size=(n, 3, size, size))
    ys, xs = np.mgrid[:size, :size] - size / 2 + 0.5
    mask = np.broadcast_to(np.hypot(ys, xs) < size / 3, (n, size, size))
    crop = rng.integers(0, 256, size=(n, 3, 128, 128), dtype=np.uint8) // 8 + colour.astype(np.uint8)
    target = domain != DOMAINS[0]
    return Cells.from_arrays(
        np.where(target, UNLABELED, label),
        domain=domain,
        is_target=target,
        image=np.where(mask[:, None], np.clip(colour + noise, 0, 255), 230).astype(np.uint8),
        mask=mask,
        map=token_map.astype(np.float32),
        pooled=token_map.mean((2, 3)).astype(np.float32),
        crop=crop,
    )


def toy_images(count: int = 3, size: int = 224, seed: int = 0) -> torch.Tensor:
    """(count, 3, size, size) uint8 RGB: a dark disc on a light ground, with noise."""
    import torch

    rng = np.random.default_rng(seed)
    ys, xs = np.mgrid[:size, :size] - size / 2
    radius = size * rng.uniform(0.15, 0.3, size=(count, 1, 1, 1))
    images = np.where(np.hypot(ys, xs) < radius, 90.0, 220.0) * np.ones((1, 3, 1, 1))
    return torch.from_numpy(np.clip(images + rng.normal(scale=8, size=images.shape), 0, 255).astype(np.uint8))
