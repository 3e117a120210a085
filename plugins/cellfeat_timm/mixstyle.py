"""MixStyle: training images lend each other the mean and spread of their feature maps (Zhou et al., ICLR 2021)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cellfeat import CellfeatError

STAGES = ("layer1", "layer2")  # of a ResNet, behind which styles are mixed
ALPHA = 0.1  # of the Beta distribution that the share of an image's own style is drawn from
EPSILON = 1e-6  # added to variances


def mix_statistics(maps: torch.Tensor, partners: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) with each image's channel means and deviations mixed with those of its partner.

    partners: (B,) which image lends its style; share: (B,) of an image's own style. Statistics are not differentiated.
    """
    values = maps.float()
    mean = values.mean((2, 3), keepdim=True).detach()
    deviation = (values.var((2, 3), keepdim=True) + EPSILON).sqrt().detach()
    share = share.to(values)[:, None, None, None]
    mixed_mean = share * mean + (1 - share) * mean[partners]
    mixed_deviation = share * deviation + (1 - share) * deviation[partners]
    return ((values - mean) / deviation * mixed_deviation + mixed_mean).to(maps.dtype)


class MixStyle:
    """A forward hook that mixes styles in training, of a whole batch with `probability`, and else does nothing.

    It draws from torch's own CPU generator, which the training loop seeds.
    """

    def __init__(self, probability: float, alpha: float = ALPHA) -> None:
        self.probability, self.beta = probability, torch.distributions.Beta(alpha, alpha)

    def __call__(self, module: nn.Module, inputs: Any, maps: torch.Tensor) -> torch.Tensor:
        if not module.training or float(torch.rand(())) >= self.probability:
            return maps
        partners = torch.randperm(len(maps)).to(maps.device)
        return mix_statistics(maps, partners, self.beta.sample((len(maps),)).to(maps.device))


def insert_mixstyle(network: nn.Module, probability: float) -> None:
    """Behind the first stages of a ResNet; the state of the network stays what it was."""
    for stage in STAGES:
        network.get_submodule(stage).register_forward_hook(MixStyle(probability))


def check_mixstyle(probability: float, model: str) -> None:
    """Refuse what is no probability, and networks without the stages of a ResNet."""
    import timm

    if not 0 <= probability <= 1:
        raise CellfeatError(f"mixstyle={probability} is not possible: give a probability from 0 to 1")
    with torch.device("meta"):  # nothing is computed or drawn
        network = timm.create_model(model)
    parts = [name for name, _ in network.named_children()]
    if not set(STAGES) <= set(parts):
        raise CellfeatError(
            f"mixstyle works behind {' and '.join(STAGES)} of a ResNet, and timm's {model} consists of "
            f"{', '.join(parts)}. Take one such as resnet18, resnet50 or resnext50_32x4d, or mixstyle=0"
        )
