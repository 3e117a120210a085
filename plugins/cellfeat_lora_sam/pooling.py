"""One vector per cell from a token map: means, and deviations, over the cell, its nucleus and its cytoplasm."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SMALLEST = 1e-8  # variance; the slope of a root at 0 is infinite, and one token alone has no deviation


def pool_parts(tokens: Tensor, cell: Tensor, nucleus: Tensor) -> Tensor:
    """Map (B, C, h, w), masks (B, S, S) bool -> (B, 6C) float32: mean, then deviation, of cell, nucleus, cytoplasm.

    The cytoplasm is the cell without its nucleus. A token weighs as much as the part covers of its patch. A part
    without a pixel is taken to be the whole cell, and an empty cell the whole frame.
    """
    grid = (tokens.shape[-2], tokens.shape[-1])
    whole = _weights(cell, grid, torch.ones((), device=tokens.device))
    parts = (whole, _weights(nucleus & cell, grid, whole), _weights(cell & ~nucleus, grid, whole))
    weights = torch.stack([part / part.sum(dim=1, keepdim=True) for part in parts], dim=1)  # (B, 3, hw)
    values = tokens.float().flatten(2).transpose(1, 2)  # (B, hw, C)
    centre = values.mean(dim=1, keepdim=True)  # taken off first, so that the difference of squares keeps its digits
    values = values - centre
    with torch.autocast(tokens.device.type, enabled=False):
        mean = weights @ values  # (B, 3, C)
        variance = weights @ values.square() - mean.square()
    return torch.stack((mean + centre, variance.clamp(min=SMALLEST).sqrt()), dim=2).flatten(1)


def _weights(mask: Tensor, grid: tuple[int, int], instead: Tensor) -> Tensor:
    """(B, S, S) bool -> (B, hw): the share of each patch that the mask covers, or what stands in for an empty mask."""
    cover = functional.adaptive_avg_pool2d(mask[:, None].float(), grid).flatten(1)
    return torch.where(cover.sum(dim=1, keepdim=True) > 0, cover, instead)
