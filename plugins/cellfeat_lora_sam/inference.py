"""Blocks of the image encoder for inference alone: the same numbers as in training, in about four fifths of the time.

Adapters are merged, and query, key and value one layer; a window as large as the grid is not cut out; tables of
positions are looked up once; and on a CPU whose oneDNN does it rightly, layers are packed once for its kernels, which
apply GELU and add the residual in the same pass.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from segment_anything.modeling.image_encoder import Block, window_partition, window_unpartition
from torch import Tensor, nn
from torch.nn import functional

from cellfeat_lora_sam.attention import Positions, attend
from cellfeat_lora_sam.network import SamNetwork

KEPT_DIGITS = {torch.float32: 1e-5, torch.bfloat16: 1e-2}  # of the largest number in a product; others are not packed


def prepare(network: SamNetwork, dtype: torch.dtype) -> None:
    """Put inference blocks in the place of a network's own, in place; computing is in `dtype` from then on.

    The network must be on its device, its query, key and value fused.
    """
    encoder = network.image_encoder
    grid, device = encoder.pos_embed.shape[1], encoder.pos_embed.device
    packed = device.type == "cpu" and packing_is_right(dtype)
    network.kept_positions = {}
    encoder.blocks = nn.ModuleList([InferenceBlock(block, grid, dtype, packed) for block in encoder.blocks])


class InferenceBlock(nn.Module):
    """What a block of SAM's encoder computes, (B, h, w, C) -> (B, h, w, C) in `dtype`."""

    def __init__(self, block: Block, grid: int, dtype: torch.dtype, packed: bool) -> None:
        super().__init__()
        self.dtype, self.window = dtype, 0 if block.window_size == grid else block.window_size
        self.heads, self.scale = block.attn.num_heads, block.attn.scale
        layer = PackedLinear if packed else PlainLinear
        self.qkv, self.proj = layer(block.attn.qkv, dtype), layer(block.attn.proj, dtype)
        self.lin1, self.lin2 = layer(block.mlp.lin1, dtype), layer(block.mlp.lin2, dtype)
        self.norm1, self.norm2 = block.norm1.to(dtype), block.norm2.to(dtype)
        self._positions_at = block.attn.positions
        self._positions: dict[tuple[int, int], Positions] = {}

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens.to(self.dtype)
        with torch.autocast(tokens.device.type, enabled=False):  # everything is in the wanted precision already
            tokens = self._attended(tokens)
            return self.lin2.added(self.lin1.gelu(self.norm2(tokens)), tokens)

    def _attended(self, tokens: Tensor) -> Tensor:
        """The first half of a block: attention over the whole grid, or inside windows, and the residual."""
        if not self.window:
            return self.proj.added(self._attention(self.norm1(tokens)), tokens)
        windows, padded = window_partition(self.norm1(tokens), self.window)
        found = self.proj(self._attention(windows))
        return tokens + window_unpartition(found, self.window, padded, tokens.shape[1:3])

    def _attention(self, tokens: Tensor) -> Tensor:
        batch, height, width, channels = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, height * width, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        found = attend(qkv, self._places(height, width), self.scale)
        return found.transpose(1, 2).reshape(batch, height, width, channels)

    def _places(self, height: int, width: int) -> Positions:
        if (height, width) not in self._positions:
            found = self._positions_at(height, width)
            self._positions[height, width] = Positions(*(each.to(self.dtype) for each in found))
        return self._positions[height, width]


class PlainLinear(nn.Module):
    """A linear layer in `dtype`, with what may follow it."""

    def __init__(self, layer: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer = layer.to(dtype)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layer(tokens)

    def gelu(self, tokens: Tensor) -> Tensor:
        return functional.gelu(self.layer(tokens))

    def added(self, tokens: Tensor, residual: Tensor) -> Tensor:
        return residual + self.layer(tokens)


class PackedLinear(nn.Module):
    """The same by oneDNN, its weights laid out for its kernels once. The operators are those that torch's own
    compiler calls for frozen layers; they have no documented interface, hence `packing_is_right`."""

    def __init__(self, layer: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = _onednn()._reorder_linear_weight(layer.weight.detach().to(dtype).contiguous())
        self.bias = layer.bias.detach().to(dtype)

    def forward(self, tokens: Tensor) -> Tensor:
        return _onednn()._linear_pointwise(tokens, self.weight, self.bias, "none", [], "")

    def gelu(self, tokens: Tensor) -> Tensor:
        return _onednn()._linear_pointwise(tokens, self.weight, self.bias, "gelu", [], "none")

    def added(self, tokens: Tensor, residual: Tensor) -> Tensor:
        return _onednn()._linear_pointwise.binary(tokens, residual, self.weight, self.bias, "add")


def _onednn() -> Any:
    return torch.ops.mkldnn


@functools.cache
def packing_is_right(dtype: torch.dtype) -> bool:
    """Whether packed layers are there on this processor and give the numbers of plain ones, seen on a small example."""
    if dtype not in KEPT_DIGITS:
        return False
    generator = torch.Generator().manual_seed(0)
    layer = nn.utils.skip_init(nn.Linear, 96, 192)  # no number is drawn from the process's own generator
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        tokens, residual = (torch.randn(2, 7, 7, width, generator=generator).to(dtype) for width in (96, 192))
        plain = functional.linear(tokens.double(), layer.weight.to(dtype).double(), layer.bias.to(dtype).double())
        wanted = (plain, functional.gelu(plain), plain + residual.double())
        try:
            packed = PackedLinear(layer, dtype)
            found = (packed(tokens), packed.gelu(tokens), packed.added(tokens, residual))
        except (AttributeError, RuntimeError, NotImplementedError):  # another torch, or a processor without it
            return False
    bounds = (KEPT_DIGITS[dtype] * exact.abs().max() for exact in wanted)
    return all(
        got.shape == exact.shape and bool((got.double() - exact).abs().max() <= bound)
        for got, exact, bound in zip(found, wanted, bounds, strict=True)
    )
