"""What of `lora-sam` becomes an ONNX graph: encoder, masks and pooling, by the network's plain layers."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from cellfeat.images import masked_mean
from cellfeat_lora_sam.loading import load_network
from cellfeat_lora_sam.network import nucleus_mask, two_class_mask
from cellfeat_lora_sam.pooling import pool_parts


class Graph(nn.Module):
    """One look at an image, in float32.

    Args:
        path, adapter, image_size, own_colours: as for `load_network`. in_parts: pool by parts, else over the cell.
        tells_nucleus: whether the weights tell the nucleus, and with it the quality of a mask.
    """

    def __init__(
        self,
        path: Path,
        adapter: str | None,
        image_size: int,
        own_colours: bool | None,
        in_parts: bool,
        tells_nucleus: bool,
    ) -> None:
        super().__init__()
        # Read anew: kernels that inference lays out for one processor have no counterpart in ONNX.
        self.network = load_network(path, adapter, image_size, own_colours)
        self.in_parts, self.tells_nucleus = in_parts, tells_nucleus
        self.outputs = ("embedding", "mask", "pooled") + (("quality",) if tells_nucleus else ())

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, S, S) uint8 RGB -> (B, C, S/16, S/16), (B, S, S) bool, (B, 6C) or (B, C), and perhaps (B,)."""
        output = self.network(images)
        cell = two_class_mask(output.logits, images.shape[-1])
        if not self.in_parts:
            pooled = masked_mean(output.tokens, cell)
        else:
            pooled = pool_parts(output.tokens, cell, nucleus_mask(output.logits, cell))
        found = (output.tokens, cell, pooled)
        if not self.tells_nucleus:
            return found
        return *found, output.quality[:, 1].clamp(0, 1) * cell.flatten(1).any(dim=1)
