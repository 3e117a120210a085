"""The loss of LoRA-SAM: 0.2 cross-entropy + 0.8 Dice on the low-resolution logits (DoRL, arXiv 2408.07467, stage 1)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

CROSS_ENTROPY_SHARE, DICE_SHARE = 0.2, 0.8
SMOOTH = 1e-5


class SegmentationLoss(NamedTuple):
    """Scalars: the weighted loss and its two terms."""

    loss: Tensor
    cross_entropy: Tensor
    dice: Tensor


def segmentation_loss(logits: Tensor, target: Tensor) -> SegmentationLoss:
    """Loss of logits (B, K, h, w) against classes (B, h, w) of 0..K-1."""
    cross_entropy = functional.cross_entropy(logits, target.long())
    dice = dice_loss(logits, target)
    return SegmentationLoss(CROSS_ENTROPY_SHARE * cross_entropy + DICE_SHARE * dice, cross_entropy, dice)


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - Dice of the softmax, averaged over the K classes, background included.

    Sums run over the whole batch, and the denominator is a sum of squares, as in the original program.
    """
    chance = logits.float().softmax(dim=1)
    truth = functional.one_hot(target.long(), logits.shape[1]).movedim(-1, 1).to(chance)
    overlap, size = _sum_per_class(chance * truth), _sum_per_class(chance.square()) + _sum_per_class(truth)
    return (1 - (2 * overlap + SMOOTH) / (size + SMOOTH)).mean()


def low_resolution(mask: Tensor) -> Tensor:
    """Masks (B, S, S) at the decoder's resolution, (B, S/4, S/4): every fourth pixel."""
    return mask[:, ::4, ::4]


def _sum_per_class(values: Tensor) -> Tensor:
    return values.sum(dim=(0, 2, 3))
