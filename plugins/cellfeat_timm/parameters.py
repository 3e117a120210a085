"""Parameters that all adapted networks have. No `from __future__ import annotations` here: a subclass in another module
inherits these annotations as the types that they are, and not as names that its module would have to know."""

from dataclasses import dataclass
from typing import Literal


@dataclass(eq=False)
class NetworkParameters:
    on: Literal["features", "images"] = "features"
    model: str = "resnext50_32x4d.tv_in1k"
    weights: str = "imagenet"
    image_size: int | None = None
    augment: Literal["none", "flip", "stain"] = "flip"
    norm: Literal["batch", "group"] = "batch"
    bottleneck: int = 256
    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 0.01
    trunk_factor: float = 0.1
    weight_decay: float = 1e-3
    select: Literal["last", "source-val", "information-maximization"] = "last"
