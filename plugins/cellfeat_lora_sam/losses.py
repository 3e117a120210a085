"""The loss of LoRA-SAM: 0.2 cross-entropy + 0.8 Dice on the low-resolution logits (DoRL, arXiv 2408.07467, stage 1)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cellfeat.distributed import Part, gather_rows

CROSS_ENTROPY_SHARE, DICE_SHARE = 0.2, 0.8
SMOOTH = 1e-5
WHOLE = Part(np.zeros(0, int), 1.0, 1.0, 1)  # a batch that is not divided


class SegmentationLoss(NamedTuple):
    """Scalars: the weighted loss and its two terms."""

    loss: Tensor
    cross_entropy: Tensor
    dice: Tensor


def segmentation_loss(logits: Tensor, target: Tensor, part: Part = WHOLE) -> SegmentationLoss:
    """Loss of logits (B, K, h, w) against classes (B, h, w) of 0..K-1; `part`: which part of the batch they are."""
    cross_entropy = part.cells * functional.cross_entropy(logits, target.long())
    dice = part.whole * dice_loss(logits, target, counted=part.cells > 0)
    return SegmentationLoss(CROSS_ENTROPY_SHARE * cross_entropy + DICE_SHARE * dice, cross_entropy, dice)


def dice_loss(logits: Tensor, target: Tensor, counted: bool = True) -> Tensor:
    """1 - Dice of the softmax, averaged over the K classes, background included.

    Sums run over the whole batch, also where processes share it, and the denominator is a sum of squares, as in the
    original program. counted: False for a stand-in that must not add to the sums.
    """
    chance = logits.float().softmax(dim=1)
    truth = functional.one_hot(target.long(), logits.shape[1]).movedim(-1, 1).to(chance)
    sums = torch.stack([_sum_per_class(chance * truth), _sum_per_class(chance.square()) + _sum_per_class(truth)])
    overlap, size = gather_rows((sums * counted)[None]).sum(dim=0)
    return (1 - (2 * overlap + SMOOTH) / (size + SMOOTH)).mean()


def low_resolution(mask: Tensor) -> Tensor:
    """Masks (B, S, S) at the decoder's resolution, (B, S/4, S/4), as the original's `scipy.ndimage.zoom(order=0)`.

    Corners stay corners, so that the pixels taken are (S - 1) / (S/4 - 1) apart, a little more than 4.
    """
    side = mask.shape[-1]
    taken = torch.linspace(0, side - 1, side // 4, dtype=torch.float64).round().long().to(mask.device)
    return mask[:, taken[:, None], taken]


def block_centres(mask: Tensor) -> Tensor:
    """Masks (B, S, S) at the decoder's resolution, (B, S/4, S/4): what lies in the middle of each 4 x 4 pixels.

    Logits are enlarged about these places, so a network that learns them gives the mask back in full size. Learned from
    `low_resolution`, a cell comes out 2 to 3 % too small.
    """
    side = mask.shape[-1] // 4
    return functional.interpolate(mask[:, None].float(), (side, side), mode="nearest-exact")[:, 0].to(mask.dtype)


def _sum_per_class(values: Tensor) -> Tensor:
    return values.sum(dim=(0, 2, 3))


def overlap(mask: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union, (B,) float, of masks (B, h, w) bool with others of 0 and 1; 1 where both are empty."""
    truth = truth.bool()
    union = (mask | truth).sum((1, 2))
    return torch.where(union > 0, (mask & truth).sum((1, 2)) / union.clamp(min=1), torch.ones(()).to(union.device))
