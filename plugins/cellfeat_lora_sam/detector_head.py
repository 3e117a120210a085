"""Where white cells lie, told from the tokens of a tile, after "Objects as Points" (Zhou et al., arXiv 1904.07850).

At every fourth pixel: whether a cell's middle lies there (its heat), how wide and high its box is, and how far the
middle is away. Unlike the paper, the image itself, at a quarter of its side, is read beside the tokens, whose patches
of 16 px are half a cell wide; and sizes are logarithms of shares of the usual diameter.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from cellfeat_lora_sam.network import standardised

TILE = 224  # px, the side of the frame that cell-tiny was trained at
STRIDE = 4  # px from one place to the next
CELL_DIAMETER = 40.0  # px, of a typical white cell: where a tile shows thirty cells and a token half of one
RARE = -4.0  # logit of the heat before training: a cell's middle is in one of fifty places
LEAST_HEAT = 0.02  # below it nothing is taken for a peak, whatever the threshold
MOST_CELLS = 100  # in one tile, which is more than would fit side by side


class Told(NamedTuple):
    """What the head says of B tiles, at h x w places (a quarter of the tile's side).

    heat: (B, h, w) float logits. size: (B, 2, h, w), logarithms of width and height over `CELL_DIAMETER`. shift:
    (B, 2, h, w), x and y from the place's middle to the cell's, in strides.
    """

    heat: Tensor
    size: Tensor
    shift: Tensor


class DetectorHead(nn.Module):
    """From tokens (B, C, h, w) and their images (B, 3, 16h, 16w) RGB, 0..255, to `Told`; width: of its layers."""

    def __init__(self, tokens: int = 192, width: int = 32) -> None:
        super().__init__()
        self.lift = nn.Sequential(nn.Conv2d(tokens, STRIDE**2 * width, 1), nn.PixelShuffle(STRIDE), nn.GELU())
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(STRIDE),
            nn.Conv2d(3 * STRIDE**2, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
        )
        wide = 3 * width // 2
        self.body = nn.Sequential(
            nn.Conv2d(2 * width, wide, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(wide, wide, 3, padding=2, dilation=2),  # sees from one side of a cell to the other
            nn.GELU(),
        )
        self.tell = nn.Conv2d(wide, 5, 1)
        nn.init.constant_(self.tell.bias[:1], RARE)

    def forward(self, tokens: Tensor, images: Tensor) -> Told:
        seen = torch.cat((self.lift(tokens), self.stem(standardised(images))), dim=1)
        told = self.tell(self.body(seen)).float()
        return Told(told[:, 0], told[:, 1:3], told[:, 3:])


class Peaks(NamedTuple):
    """K cells of one tile: boxes (K, 4) float (x1, y1, x2, y2) px of the tile, scores (K,) 0..1, highest first."""

    boxes: Tensor
    scores: Tensor


def peaks(told: Told, threshold: float) -> list[Peaks]:
    """The cells of each of B tiles: places whose heat is the highest of their 3 x 3 and reaches the threshold."""
    heat = told.heat.sigmoid()
    highest = functional.max_pool2d(heat[:, None], 3, 1, 1)[:, 0] == heat
    heat = heat * highest * (heat >= max(threshold, LEAST_HEAT))
    width = heat.shape[-1]
    scores, places = heat.flatten(1).topk(min(MOST_CELLS, heat[0].numel()))
    found = []
    for number, (score, place) in enumerate(zip(scores, places, strict=True)):
        score, place = score[score > 0], place[score > 0]
        middle = torch.stack((place % width, place // width), dim=1) + 0.5
        middle = STRIDE * (middle + told.shift[number].flatten(1)[:, place].T)
        half = CELL_DIAMETER / 2 * told.size[number].flatten(1)[:, place].T.clamp(-2, 2).exp()
        found.append(Peaks(torch.cat((middle - half, middle + half), dim=1), score))
    return found
