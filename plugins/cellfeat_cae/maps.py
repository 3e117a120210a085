"""Token maps on the grid that the autoencoders were made for."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate

from cellfeat_cae.inputs import GRID


def to_grid(maps: Tensor) -> Tensor:
    """(B, C, h, w) float -> (B, C, 14, 14); another grid is resampled bilinearly."""
    if maps.shape[-2:] == (GRID, GRID):
        return maps
    return interpolate(maps, size=(GRID, GRID), mode="bilinear", align_corners=False)
