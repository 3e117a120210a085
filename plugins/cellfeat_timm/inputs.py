"""What a network reads of cells, images or cached vectors, and its answers in batches of one shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as functional

from cellfeat import Cells, Context
from cellfeat.training import autocast
from cellfeat_timm.augment import augment
from cellfeat_timm.network import normalised

INFERENCE_BATCH = 16  # every forward pass over images after training has this shape, the last batch padded
VECTOR_BATCH = 512  # the same for vectors


@dataclass(frozen=True)
class Images:
    """The column `image` (B, 3, S, S) uint8 as a timm model wants it: (B, 3, size, size) float, normalised."""

    model: str
    size: int
    augmentation: str

    column: ClassVar[str] = "image"
    batch: ClassVar[int] = INFERENCE_BATCH

    def __call__(self, images: torch.Tensor, device: torch.device) -> torch.Tensor:
        return normalised(self.pixels(images, device), self.model)

    def drawn(self, images: torch.Tensor, device: torch.device, generator: torch.Generator) -> torch.Tensor:
        """The same, augmented for training."""
        return normalised(augment(self.pixels(images, device), self.augmentation, generator), self.model)

    def pixels(self, images: torch.Tensor, device: torch.device) -> torch.Tensor:
        """(B, 3, S, S) uint8 -> (B, 3, size, size) float RGB in 0..1 on the device."""
        pixels = images.to(device, non_blocking=True).float() / 255
        if pixels.shape[-1] == self.size:
            return pixels
        return functional.interpolate(pixels, size=(self.size, self.size), mode="bilinear", antialias=True)


@dataclass(frozen=True)
class Vectors:
    """The column `pooled` (B, D) as it is; nothing is drawn."""

    column: ClassVar[str] = "pooled"
    batch: ClassVar[int] = VECTOR_BATCH

    def __call__(self, vectors: torch.Tensor, device: torch.device) -> torch.Tensor:
        return vectors.to(device, non_blocking=True).float()

    def drawn(self, vectors: torch.Tensor, device: torch.device, generator: torch.Generator) -> torch.Tensor:
        return self(vectors, device)


Inputs = Images | Vectors


def applied(
    answer: Callable[[torch.Tensor], torch.Tensor], inputs: Inputs, cells: Cells, context: Context, bar: Any = None
) -> np.ndarray:
    """(N, ...) float32: what `answer` gives for every cell, asked in batches of one shape."""
    answers = []
    with torch.inference_mode(), autocast(context.device, context.dtype):
        for rows, columns in cells.batches((inputs.column,), inputs.batch):
            raw = columns[inputs.column]
            padding = raw[-1:].expand(inputs.batch - len(raw), *raw.shape[1:])
            found = answer(inputs(torch.cat([raw, padding]), context.device))
            answers.append(found[: len(rows)].float().cpu().numpy())
            if bar is not None:
                bar.advance(len(rows))
    return np.concatenate(answers)
