"""Blocks of the image encoder for inference alone: the same numbers as in training, in about four fifths of the time.

Adapters are merged, and query, key and value one layer; tables of positions are looked up once; and on a CPU whose
oneDNN does it rightly, layers are packed once for its kernels, which apply GELU and add the residual in the same pass.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from segment_anything.modeling.image_encoder import Block, window_partition, window_unpartition
from torch import Tensor, nn
from torch.nn import functional

from cellfeat_lora_sam.attention import Positions, positions_of, weighted
from cellfeat_lora_sam.network import SamNetwork

KEPT_DIGITS = {torch.float32: 1e-5, torch.bfloat16: 1e-2}  # of the largest number in a product; others are not packed


def prepare(network: SamNetwork, dtype: torch.dtype, compiled: bool = False) -> None:
    """Put inference blocks in the place of a network's own, in place; computing is in `dtype` from then on.

    The network must be on its device, its query, key and value fused. compiled: torch's compiler lays out the layers
    itself, and joins what lies between them, when the first images of a shape come. float16 keeps the network's own
    blocks, whose sums stay float32 under autocast: in half precision they could overflow.
    """
    network.kept_positions = {}
    if dtype == torch.float16:
        return
    encoder = network.image_encoder
    grid, device = encoder.pos_embed.shape[1], encoder.pos_embed.device
    packed = device.type == "cpu" and not compiled and packing_is_right(dtype)
    encoder.blocks = nn.ModuleList([InferenceBlock(block, grid, dtype, packed) for block in encoder.blocks])
    if compiled:
        network.encode = torch.compile(network.encode, dynamic=False, options={"freezing": True})  # type: ignore[method-assign]


class InferenceBlock(nn.Module):
    """What a block of SAM's encoder computes, (B, h, w, C) -> (B, h, w, C) in `dtype`."""

    def __init__(self, block: Block, grid: int, dtype: torch.dtype, packed: bool) -> None:
        super().__init__()
        self.dtype, self.window = dtype, block.window_size
        self.heads, self.scale = block.attn.num_heads, block.attn.scale
        layer = PackedLinear if packed else PlainLinear
        self.qkv, self.proj = layer(_scaled(block.attn.qkv, self.scale), dtype), layer(block.attn.proj, dtype)
        self.lin1, self.lin2 = layer(block.mlp.lin1, dtype), layer(block.mlp.lin2, dtype)
        self.norm1, self.norm2 = block.norm1.to(dtype), block.norm2.to(dtype)
        self._tables = block.attn.rel_pos_h.detach(), block.attn.rel_pos_w.detach()
        self._positions: dict[tuple[int, int], Positions] = {}
        side = self.window or grid
        self._places(side, side)  # here, and not in a function that may be compiled

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
        q, k, v = qkv.unbind(0)
        positions, wide = self._places(height, width), q.shape[-1]
        # The position terms are computed where they belong, beside q and k: nothing is copied once more to join them.
        long_q, long_k = (q.new_empty(*q.shape[:3], wide + height + width) for _ in range(2))
        long_q[..., :wide], long_k[..., :wide], long_k[..., wide:] = q, k, positions.place
        grid = long_q.unflatten(2, (height, width))
        queries = grid[..., :wide]
        grid[..., wide : wide + height] = queries @ positions.rows
        grid[..., wide + height :] = (queries.transpose(2, 3) @ positions.columns).transpose(2, 3)
        return weighted(long_q, long_k, v).transpose(1, 2).reshape(batch, height, width, channels)

    def _places(self, height: int, width: int) -> Positions:
        """Tables as (side, c, side), for queries that are scaled already."""
        if (height, width) not in self._positions:
            rows, columns, place = positions_of(*self._tables, height, width)
            tables = ((table / self.scale).transpose(1, 2).contiguous() for table in (rows, columns))
            self._positions[height, width] = Positions(*(each.to(self.dtype) for each in (*tables, place)))
        return self._positions[height, width]


def _scaled(qkv: nn.Linear, scale: float) -> nn.Linear:
    """The layer with the factor of attention in its queries, in place; a power of two for heads 64 wide, so exact."""
    with torch.no_grad():
        for parameter in (qkv.weight, qkv.bias):
            parameter[: qkv.in_features] *= scale
    return qkv


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
