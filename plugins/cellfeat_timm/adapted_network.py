"""The network of the adapting methods: a trunk, a bottleneck whose output is the features, a linear classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from cellfeat_timm.network import build, to_group_norm


class AdaptedNetwork(nn.Module):
    """trunk: images or vectors -> (B, width). Bottleneck as in TLLib: linear, batch normalisation, ReLU.

    relu False leaves the ReLU out and weight_normed parts the classifier's weights into length and direction, as in
    SHOT and what followed it. Batch normalisation stays whatever the trunk has: a batch that holds source and target is
    normalised together.
    """

    def __init__(
        self,
        trunk: nn.Module,
        width: int,
        bottleneck: int,
        classes: int,
        relu: bool = True,
        weight_normed: bool = False,
    ) -> None:
        super().__init__()
        last = [nn.ReLU()] if relu else []
        self.trunk: Any = trunk
        self.bottleneck = nn.Sequential(nn.Linear(width, bottleneck), nn.BatchNorm1d(bottleneck), *last)
        head = nn.Linear(bottleneck, classes)
        self.head = weight_norm(head) if weight_normed else head

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(features (B, bottleneck), logits (B, K))."""
        features = self.bottleneck(self.trunk(inputs))
        return features, self.head(features)

    def groups(self, learning_rate: float, trunk_factor: float) -> list[dict[str, Any]]:
        """Parameters for an optimiser; `factor` is each group's share of the learning rate."""
        parts = [(self.trunk, trunk_factor), (self.bottleneck, 1.0), (self.head, 1.0)]
        return parameter_groups(parts, learning_rate)


class Standardise(nn.Module):
    """The trunk for cached features: (x - mean) / std of the labelled source rows; it has nothing to train."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def learn(self, vectors: np.ndarray) -> None:
        """(N, D) rows; a feature that is constant is divided by 1."""
        values = vectors.astype(np.float64)
        mean, deviation = values.mean(axis=0), values.std(axis=0)
        # Below the resolution of float32 a spread is rounding, not signal.
        deviation[deviation <= np.finfo(np.float32).eps * np.abs(mean)] = 1.0
        self.mean.copy_(torch.from_numpy(mean))
        self.deviation.copy_(torch.from_numpy(deviation))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return (vectors - self.mean) / self.deviation


def timm_trunk(model: str, weights: Path | None, size: int, norm: str, seed: int) -> tuple[nn.Module, int]:
    """A timm network without its classifier, and the length of its pooled vector."""
    network: Any = build(model, weights, size=size, num_classes=0, seed=seed)
    width = getattr(network, "head_hidden_size", None) or network.num_features
    return (to_group_norm(network) if norm == "group" else network), width


def parameter_groups(parts: list[tuple[nn.Module, float]], learning_rate: float) -> list[dict[str, Any]]:
    """One group per part that has parameters, `lr` and its `factor` on a schedule."""
    groups = [(list(part.parameters()), factor) for part, factor in parts]
    return [{"params": found, "lr": learning_rate * factor, "factor": factor} for found, factor in groups if found]
