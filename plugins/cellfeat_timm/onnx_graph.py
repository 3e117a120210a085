"""What of a backbone becomes an ONNX graph: normalisation, map and vector."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from cellfeat_timm.dino_network import map_and_vector
from cellfeat_timm.network import features_of


class Graph(nn.Module):
    """A frozen timm network with its normalisation, in float32 on the CPU, for (B, 3, size, size) uint8 RGB."""

    def __init__(self, network: nn.Module, model: str, size: int) -> None:
        super().__init__()
        self.network = deepcopy(network).float().cpu()
        self.model = model
        with torch.inference_mode():
            grid, _ = features_of(self.network, model, torch.zeros(1, 3, size, size, dtype=torch.uint8))
        self.outputs = ("embedding", "pooled") if grid is not None else ("embedding",)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map (B, C, h, w) and vector (B, D), or for a model without a map the vector alone."""
        grid, pooled = features_of(self.network, self.model, images)
        return (pooled,) if grid is None else (grid, pooled)


class DinoGraph(nn.Module):
    """A frozen network of DINOv2's family with its normalisation, in float32 on the CPU."""

    outputs = ("embedding", "pooled")

    def __init__(self, network: nn.Module, pooling: str) -> None:
        super().__init__()
        self.network, self.pooling = deepcopy(network).float().cpu(), pooling

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, S, S) uint8 RGB -> map (B, D, S/14, S/14) and vector (B, D), or (B, 2D)."""
        return map_and_vector(self.network, images, self.pooling)
