"""Attention of SAM's image encoder with separate query, key and value layers, its relative positions in one product."""

from __future__ import annotations

from typing import NamedTuple

import torch
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn
from torch.nn import functional

LONG = 1024  # tokens; beyond so many the weights of attention are never held at once


class Positions(NamedTuple):
    """rows: (h, h, c), columns: (w, w, c), tables of offsets from key to query; place: (h * w, h + w), one-hot."""

    rows: Tensor
    columns: Tensor
    place: Tensor


class SplitQkv(nn.Module):
    """Query, key and value projections as three layers that stand in for SAM's fused one; (..., C) -> (..., 3C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.cat((self.q(tokens), self.k(tokens), self.v(tokens)), dim=-1)

    def fused(self) -> nn.Linear:
        """The same projection as one layer, quicker where nothing is adapted any more."""
        parts = (self.q, self.k, self.v)
        width = self.q.in_features
        layer = nn.Linear(width, 3 * width, device="meta")
        layer.weight = nn.Parameter(torch.cat([part.weight.detach() for part in parts]), requires_grad=False)
        layer.bias = nn.Parameter(torch.cat([part.bias.detach() for part in parts]), requires_grad=False)
        return layer


class SplitAttention(Attention):
    """SAM's attention with decomposed relative positions; the same numbers by other steps.

    The position terms q·Rh[row] and q·Rw[column] are appended to q as extra channels and selected by one-hot rows and
    columns appended to k. One matrix product then gives what SAM adds up in tensors of tokens x tokens.

    A grid smaller than the tables were made for is a window of the same scale: the offsets that it lacks are left out.
    """

    def __init__(self, width: int, heads: int, grid: tuple[int, int]) -> None:
        super().__init__(width, heads, use_rel_pos=True, input_size=grid)
        self.qkv = SplitQkv(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, h, w, C)."""
        batch, height, width, channels = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, height * width, 3, self.num_heads, -1)
        attended = attend(qkv.permute(2, 0, 3, 1, 4), self.positions(height, width), self.scale)
        return self.proj(attended.transpose(1, 2).reshape(batch, height, width, channels))

    def positions(self, height: int, width: int) -> Positions:
        """What attention on a grid of this size needs to know of places."""
        return positions_of(self.rel_pos_h, self.rel_pos_w, height, width)


def positions_of(by_row: Tensor, by_column: Tensor, height: int, width: int) -> Positions:
    """From SAM's tables, each (2T - 1, c)."""
    return Positions(_offsets(by_row, height), _offsets(by_column, width), _one_hot_places(height, width, by_row))


def attend(qkv: Tensor, positions: Positions, scale: float) -> Tensor:
    """(3, B, heads, h * w, c) -> (B, heads, h * w, c)."""
    q, k, v = qkv.unbind(0)
    rows, columns, place = (each.to(q) for each in positions)
    grid_q = q.unflatten(2, (len(rows), len(columns)))
    by_row = torch.einsum("bnhwc,hkc->bnhwk", grid_q, rows).flatten(2, 3)
    by_column = torch.einsum("bnhwc,wkc->bnhwk", grid_q, columns).flatten(2, 3)
    q = torch.cat((q * scale, by_row, by_column), -1)
    k = torch.cat((k, place.expand(*k.shape[:2], -1, -1)), -1)
    return weighted(q, k, v)


def weighted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ) v, all (B, heads, T, ·): whole on a CPU, where there are few tokens, else by torch's kernels."""
    if q.is_cuda or k.shape[2] > LONG:
        return _without_weights(q, k, v)
    return (q @ k.transpose(-2, -1)).softmax(dim=-1) @ v


def _without_weights(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention by kernels that never hold all weights, (B, heads, T, T): at 1,024 px 800 MB an image in float32.

    They want values as wide as queries, so zeros stand in for the position channels.
    """
    wide = functional.pad(v, (0, q.shape[-1] - v.shape[-1]))
    return functional.scaled_dot_product_attention(q, k, wide, scale=1.0)[..., : v.shape[-1]]


def _offsets(table: Tensor, side: int) -> Tensor:
    """Table (2T - 1, c) of the offsets 1-T..T-1 -> (side, side, c): that of the offset from key to query."""
    places = torch.arange(side, device=table.device)
    return table[places[:, None] - places[None] + len(table) // 2]


def _one_hot_places(height: int, width: int, like: Tensor) -> Tensor:
    """(h * w, h + w): row and column of every token, one-hot."""
    rows = torch.arange(height, device=like.device).repeat_interleave(width)
    columns = torch.arange(width, device=like.device).repeat(height)
    return torch.cat((functional.one_hot(rows, height), functional.one_hot(columns, width)), dim=1).to(like.dtype)
