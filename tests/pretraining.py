"""What the tests of pre-training share: settings that take no time, and small pools of simple or of drawn cells."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from cellfeat_lora_sam.pretrain_config import PretrainConfig
from cellfeat_lora_sam.pretrain_pool import CYTOPLASM, NO_TYPE, NUCLEUS, Pool, drawn_pool
from cellfeat_lora_sam.pretrain_views import Ranges
from cellfeat_lora_sam.sizes import SamSizes
from PIL import Image

from cellfeat import Context, synthetic
from cellfeat.console import SilentReporter

# A build of its own for tests: to be put into `BUILDS` under the name "mini".
MINI = SamSizes(24, 2, 2, (0, 1), prompt_dim=16, decoder_mlp=16, decoder_heads=2, iou_hidden=8)
QUICK = PretrainConfig(
    build="mini",
    image_size=64,
    view_size=32,
    pool_size=80,
    steps=3,
    batch_size=2,
    frame_batch=2,
    frames_every=2,
    warmup=1,
    cooldown=1,
    drawn=4,
    drawn_size=48,
    drawn_share=0.5,
    export_every=1,
    held_out=2,
)
# Nothing but the geometry changes, and that only by quarter turns and mirrors.
STILL = Ranges(offset=0.0, pasted=0.0, gain=(0.0, 0.0), mixing=0.0, resolution=(1.0, 1.0), noise=0.0, plain=1.0)


def pool_of(images: np.ndarray, masks: np.ndarray, drawn: int = NO_TYPE, light: float = 240.0) -> Pool:
    """Frames (N, s, s, 3) and masks (N, s, s), uint8, all known, as photographs or as drawn cells of one type."""
    count, there = len(images), torch.ones(len(images), dtype=torch.bool)
    values = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    return Pool(
        torch.from_numpy(images),
        torch.from_numpy(masks),
        there,
        torch.full((count, 3), light),
        torch.full((count,), drawn),
        values if drawn == NO_TYPE else torch.zeros(count, 3),
        there.clone() if drawn == NO_TYPE else ~there,
    )


def disc_masks(count: int, side: int, radius: float, middle: tuple[float, float] | None = None) -> np.ndarray:
    """(count, side, side) uint8: one round cell of `radius` px, with a nucleus of half of that; middle: x and y, px."""
    x, y = middle or (side / 2, side / 2)
    rows, columns = np.mgrid[:side, :side] + 0.5
    away = np.hypot(rows - y, columns - x)
    mask = np.where(away < radius / 2, NUCLEUS, np.where(away < radius, CYTOPLASM, 0)).astype(np.uint8)
    return np.repeat(mask[None], count, axis=0)


def painted(masks: np.ndarray) -> np.ndarray:
    """Masks (N, s, s) as images (N, s, s, 3): field 230, cytoplasm 150, nucleus 60, every channel a little less."""
    grey = np.choose((masks >= CYTOPLASM).astype(int) + (masks == NUCLEUS), (230, 150, 60))
    return np.stack([grey, grey - 10, grey - 20], axis=-1).astype(np.uint8)


def drawn_cells(context: Context, config: PretrainConfig = QUICK, descriptors: int = 3) -> Pool:
    return drawn_pool(config.seed, config.drawn, config.drawn_size, config.image_size, descriptors, context)


def as_photographs(pool: Pool, known: list[bool] | None = None) -> Pool:
    """Drawn cells that pass for photographs, with descriptors that are random numbers."""
    values = torch.randn(len(pool.images), 3, generator=torch.Generator().manual_seed(1))
    there = torch.ones_like(pool.known) if known is None else torch.tensor(known)
    return pool._replace(
        known=there,
        drawn=torch.full_like(pool.drawn, NO_TYPE),
        descriptors=values * there[:, None],
        described=there.clone(),
    )


def with_scratch(context: Context, folder: Path) -> Context:
    """The same context with a scratch folder and notes of its own."""
    folder.mkdir()
    return replace(context, scratch=folder, reporter=SilentReporter())


def write_photographs(folder: Path, count: int = 4, side: int = 64) -> Path:
    """Drawn cells as files with a manifest of two domains, `one` and `two`, in turn."""
    rng, rows = np.random.default_rng(0), []
    for index in range(count):
        label = synthetic.CLASSES[index % 5]
        Image.fromarray(synthetic.draw_cell(label, "lab-a", rng, size=side).image).save(folder / f"{index}.png")
        rows.append([f"cell-{index}", f"{index}.png", label, ("one", "two")[index % 2]])
    return write_manifest(folder / "cells.csv", rows)


def write_manifest(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "path", "label", "domain"], *rows])
    return path
