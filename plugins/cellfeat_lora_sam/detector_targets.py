"""What the detector's head is to tell of tiles with known cells, and how far it is from it (arXiv 1904.07850)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cellfeat_lora_sam.detector_head import CELL_DIAMETER, STRIDE, Told

SPREAD = 1 / 6  # deviation of the heat around a cell's middle, as a share of the box's side
LEAST_SPREAD = 0.8  # strides
CERTAIN = 0.5  # wanted heat from which on a place also learns the box
SIZE_WEIGHT, SHIFT_WEIGHT = 1.0, 0.3


def targets(boxes: Tensor, side: int) -> tuple[Told, Tensor]:
    """Boxes (B, K, 4) px, NaN where there are fewer -> wanted heat (0..1, not logits), size and shift; and whether each
    of the (B, side, side) places learns a box."""
    places = torch.arange(side, device=boxes.device) + 0.5
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2 / STRIDE
    extent = (boxes[..., 2:] - boxes[..., :2]) / STRIDE
    # the place that holds the middle has a heat of exactly 1, as the paper wants
    at = (middle.floor() + 0.5).nan_to_num(-1e4)
    spread = (extent * SPREAD).clamp(min=LEAST_SPREAD).nan_to_num(1.0)
    away = [((places - at[..., i, None]) / spread[..., i, None]).square() for i in range(2)]  # x, y: (B, K, side)
    heats = (-(away[0][:, :, None, :] + away[1][:, :, :, None]) / 2).exp()  # (B, K, y, x)
    heat, owner = heats.max(dim=1)
    index = owner.flatten(1)[..., None].expand(-1, -1, 2)
    own_extent = extent.nan_to_num(1.0).gather(1, index).transpose(1, 2).unflatten(2, (side, side))
    own_middle = middle.nan_to_num(0.0).gather(1, index).transpose(1, 2).unflatten(2, (side, side))
    grid = torch.stack(torch.meshgrid(places, places, indexing="xy"))
    size = (own_extent.clamp(min=0.1) * STRIDE / CELL_DIAMETER).log()
    return Told(heat, size, own_middle - grid), heat >= CERTAIN


def detection_loss(told: Told, boxes: Tensor, counted: Tensor) -> dict[str, Tensor]:
    """Focal loss of the heat (the paper's equation 1) and absolute errors of size and shift, per cell.

    counted: (B, h, w) bool, False where what lies there is not known.
    """
    wanted, certain = targets(boxes, told.heat.shape[-1])
    chance, there = told.heat.sigmoid(), wanted.heat >= 1 - 1e-4
    hit = (1 - chance).square() * functional.logsigmoid(told.heat)
    miss = (1 - wanted.heat).pow(4) * chance.square() * functional.logsigmoid(-told.heat)
    cells = (there & counted).sum().clamp(min=1)
    heat = -(torch.where(there, hit, miss) * counted).sum() / cells
    weight = wanted.heat * (certain & counted)
    total = weight.sum().clamp(min=1)
    size = ((told.size - wanted.size).abs().sum(dim=1) * weight).sum() / total
    shift = ((told.shift - wanted.shift).abs().sum(dim=1) * weight).sum() / total
    return {"heat": heat, "size": SIZE_WEIGHT * size, "shift": SHIFT_WEIGHT * shift}
