"""Losses that adapt a classifier to unlabelled target cells, after TLLib (thuml/Transfer-Learning-Library)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as functional
from torch import nn


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: torch.Tensor, coefficient: float) -> torch.Tensor:
        ctx.coefficient = coefficient
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return -ctx.coefficient * gradients[0], None


def reverse_gradient(features: torch.Tensor, coefficient: float) -> torch.Tensor:
    """The same values; their gradient is multiplied by -coefficient on its way back (Ganin and Lempitsky, 2015)."""
    return _Reversal.apply(features, coefficient)


def reversal_coefficient(step: int, alpha: float, low: float, high: float, steps: int) -> float:
    """2 (high - low) / (1 + exp(-alpha step / steps)) - (high - low) + low: `low` at first, towards `high`.

    TLLib's warm start, alpha 1 over 1000 steps; in Ganin et al. (JMLR 2016) alpha is 10 over the whole training.
    """
    return 2 * (high - low) / (1 + math.exp(-alpha * step / steps)) - (high - low) + low


class Discriminator(nn.Sequential):
    """(B, D) features -> (B,) logit of being a source cell: two hidden layers with batch normalisation and ReLU."""

    def __init__(self, width: int, hidden: int) -> None:
        layers = [
            part for size in (width, hidden) for part in (nn.Linear(size, hidden), nn.BatchNorm1d(hidden), nn.ReLU())
        ]
        super().__init__(*layers, nn.Linear(hidden, 1), nn.Flatten(0))


def domain_loss(logits: torch.Tensor, is_target: torch.Tensor) -> torch.Tensor:
    """Mean of the binary cross-entropies of source cells (to 1) and of target cells (to 0), each averaged first.

    The sigmoid of the discriminator is part of the loss here, which keeps float16 finite.
    """
    losses = functional.binary_cross_entropy_with_logits(logits, (~is_target).to(logits), reduction="none")
    # A batch may lack source cells, where more target cells than those are labelled.
    means = [losses[part].sum() / part.sum().clamp(min=1) for part in (~is_target, is_target)]
    return (means[0] + means[1]) / 2


def class_confusion(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Minimum class confusion of (B, K) logits (Jin et al., ECCV 2020).

    p = softmax(logits / temperature); each cell weighs w = 1 + exp(-entropy(p)), not differentiated and scaled to the
    sum B; C = (p * w)^T p with rows scaled to the sum 1; the loss is (sum of C - trace of C) / K.
    """
    proba = (logits / temperature).softmax(1)
    with torch.no_grad():
        weight = 1 + torch.exp(torch.special.xlogy(proba, proba).sum(1))
        weight = weight * len(weight) / weight.sum()
    confusion = (proba * weight[:, None]).T @ proba
    confusion = confusion / confusion.sum(1, keepdim=True)
    return (confusion.sum() - confusion.trace()) / logits.shape[1]
