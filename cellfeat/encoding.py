"""A batch of images to columns: one forward pass of one shape, then what the store keeps of it.

`compute` is what the device does, `land` what is left for the processor: the first of one batch and the second of the
batch before run at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellfeat import images
from cellfeat.errors import CellfeatError
from cellfeat.slots import Backbone, Context, Segmenter
from cellfeat.store import QUALITY
from cellfeat.types import Features

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Computed:
    """What a forward pass gave for the first `count` of (B, 3, S, S) uint8 RGB images, still on the device.

    values: {column: tensor (B, ...)}. mask: (B, S, S) bool; None: the whole image is the cell.
    """

    images: np.ndarray
    count: int
    columns: tuple[str, ...]
    values: dict[str, torch.Tensor]
    mask: torch.Tensor | None


@dataclass(frozen=True)
class BatchEncoder:
    """A backbone, perhaps with a segmenter, that is always given `size` images at once.

    A short batch is padded with its last image, so that a cell's features do not depend on how many came with it.
    maps: "float32", or "float16" for token maps of half the bytes.
    """

    backbone: Backbone
    segmenter: Segmenter | None
    context: Context
    size: int
    maps: str = "float32"

    def encode(self, batch: np.ndarray, columns: Sequence[str]) -> dict[str, np.ndarray]:
        """The columns of (b, 3, S, S) uint8 RGB images, plus `empty` (b,) bool: cells whose mask has no pixel; and
        before all others the quality (b,) float32 of the backbone's own masks, where it tells it."""
        return self.land(self.compute(batch, columns))

    def compute(self, batch: np.ndarray, columns: Sequence[str]) -> Computed:
        """The forward pass, and the means over cells."""
        import torch

        count = len(batch)
        if set(columns) == {"image"}:  # an end-to-end method needs no backbone
            return Computed(batch, count, tuple(columns), {}, None)
        if count < self.size:
            batch = np.concatenate([batch, np.repeat(batch[-1:], self.size - count, axis=0)])
        # Frames that were stacked from decoded images lie in memory channel by channel last, padded ones do not, and
        # the order decides by which sums a network is computed.
        batch = np.ascontiguousarray(batch)
        tensor = torch.from_numpy(batch)
        if self.context.device.type == "cuda":
            tensor = tensor.pin_memory()  # or this thread would wait until the copy is done
        with torch.inference_mode():
            features = self.backbone.encode(tensor)
            if self.segmenter is not None and features.embedding.dim() == 2 and not {"mask", "crop"} & set(columns):
                raise CellfeatError(
                    "this backbone gives one vector per image, which a --segmenter cannot change; leave --segmenter "
                    "out, or choose a backbone with a token map"
                )
            mask = features.mask if self.segmenter is None else self.segmenter.segment(tensor)
            values = self._values(features, mask, columns)
            if features.quality is not None and self.segmenter is None:
                # Written first, so that whoever finds any other column of an image finds this one too.
                values = {QUALITY: features.quality.float(), **values}
        return Computed(batch, count, tuple(columns), values, mask)

    def _values(self, features: Features, mask: torch.Tensor | None, columns: Sequence[str]) -> dict[str, torch.Tensor]:
        import torch

        is_map, segmented = features.embedding.dim() == 4, self.segmenter is not None
        if mask is None and is_map and {"pooled", "crop", "mask"} & set(columns):
            self.context.note(
                "the backbone gives no mask and no --segmenter is named: the whole image is taken as the cell"
            )
        values: dict[str, torch.Tensor] = {}
        if "map" in columns:
            if not is_map:
                raise CellfeatError("the align method reads a token map, but this backbone gives one vector per image")
            values["map"] = features.embedding.to(getattr(torch, self.maps))
        if "pooled" in columns:
            if segmented and is_map and features.pooled is not None:
                self.context.note(
                    "with a --segmenter, features are the mean over its cell's tokens, not what the backbone pools"
                )
            values["pooled"] = _pooled(features, mask, is_map, segmented).float()
        return values

    def land(self, done: Computed) -> dict[str, np.ndarray]:
        """The columns as arrays, and `empty`, of the batch's own images; waits for the device."""
        frames = done.images[: done.count]
        mask = None if done.mask is None else done.mask[: done.count].bool().cpu().numpy()
        values = {name: value[: done.count].cpu().numpy() for name, value in done.values.items()}
        for name in done.columns:
            if name == "image":
                values[name] = frames
            elif name == "mask":
                values[name] = np.ones((len(frames), *frames.shape[-2:]), dtype=bool) if mask is None else mask
            elif name == "crop":
                values[name] = images.masked_crops(frames, mask)
        values["empty"] = np.zeros(len(frames), dtype=bool) if mask is None else np.logical_not(mask.any(axis=(1, 2)))
        return values


def _pooled(features: Features, mask: torch.Tensor | None, is_map: bool, segmented: bool) -> torch.Tensor:
    """The backbone's own pooling, unless a separate segmenter says better where the cell is."""
    if not is_map:
        return features.embedding if features.pooled is None else features.pooled
    if features.pooled is not None and not segmented:
        return features.pooled
    return images.masked_mean(features.embedding, mask)
