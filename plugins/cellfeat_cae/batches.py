"""What an autoencoder and its losses are given in one backward pass."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """What a network and its losses are given.

    maps: (B, C, 14, 14) float32. crop: (B, 3, 128, 128) float32 on [0, 1]. domain: (B,) int64 in 0..domains-1, or
    `domains` for a row that counts nowhere. noise: (B, 196) float32, uniform on [0, 1): what a step may draw from.
    """

    maps: Tensor
    crop: Tensor
    domain: Tensor
    noise: Tensor
    domains: int
    anchor: int
