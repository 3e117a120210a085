"""Training with two terms, cross-entropy of labelled cells and another of target cells, in batches of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import nn

from cellfeat import Context
from cellfeat.training import autocast
from cellfeat_timm.adapted import Material
from cellfeat_timm.adapted_network import AdaptedNetwork, parameter_groups
from cellfeat_timm.inputs import Inputs
from cellfeat_timm.loop import Stepper, digest, epoch_generators

DECAY, POWER = 0.001, 0.75  # of TLLib's learning rate
MOMENTUM = 0.9


@dataclass(frozen=True)
class Both:
    """A batch of labelled cells, then as many unlabelled ones of the target.

    features (2B, D), logits (2B, K), is_target (2B,) bool, labelled: B. step counts from 0 over the whole training.
    """

    features: torch.Tensor
    logits: torch.Tensor
    is_target: torch.Tensor
    labelled: int
    step: int


def learning_rate(step: int, base: float) -> float:
    """TLLib's schedule: base (1 + 0.001 step)^-0.75."""
    return base * (1 + DECAY * step) ** -POWER


class Adaptation:
    """Cross-entropy plus `term` times `params["trade_off"]` as work for the loop; `helper` is trained along with it."""

    def __init__(
        self,
        name: str,
        network: AdaptedNetwork,
        helper: nn.Module,
        term: Callable[[Both], torch.Tensor],
        material: Material,
        inputs: Inputs,
        params: dict[str, Any],
        context: Context,
        score: Callable[[], float | None],
    ) -> None:
        self.name, self.model, self.term, self.material, self.inputs = name, network, term, material, inputs
        self.params, self.context, self.score = params, context, score
        self.network: nn.Module = nn.ModuleDict({"network": network, "helper": helper})
        self.epochs, self.size = params["epochs"], params["iterations_per_epoch"]
        rate = params["learning_rate"]
        groups = [*network.groups(rate, params["trunk_factor"]), *parameter_groups([(helper, 1.0)], rate)]
        self.optimizer: torch.optim.Optimizer = torch.optim.SGD(
            groups, lr=rate, momentum=MOMENTUM, weight_decay=params["weight_decay"], nesterov=True
        )

    def key(self, seed: int) -> str:
        material = self.material
        values = [self.params, seed, len(material.cells)]
        return digest(values, material.rows, material.targets, material.unlabelled)

    def epoch(self, number: int, stepper: Stepper, bar: Any) -> None:
        generator, drawing = epoch_generators(self.context.seed, number)
        size, count = self.params["batch_size"], self.size
        labelled = stream(len(self.material.rows), size, count, generator)
        batches = self.material.rows[labelled]
        if len(self.material.unlabelled):
            other = stream(len(self.material.unlabelled), size, count, generator)
            batches = np.hstack([batches, self.material.unlabelled[other]])
        columns = self.material.cells.read_ahead((self.inputs.column,), list(batches))
        for offset, (rows, column) in enumerate(columns):
            step = number * count + offset
            for group in self.optimizer.param_groups:
                group["lr"] = group["factor"] * learning_rate(step, self.params["learning_rate"])
            values = self.inputs.drawn(column[self.inputs.column], self.context.device, drawing)
            targets = torch.from_numpy(self.material.targets[labelled[offset]]).to(values.device)
            stepper(self.loss(values, targets, rows, step))
            bar.advance()

    def loss(self, values: torch.Tensor, targets: torch.Tensor, rows: np.ndarray, step: int) -> torch.Tensor:
        with autocast(self.context.device, self.context.dtype):
            features, logits = self.model(values)
            loss = functional.cross_entropy(logits[: len(targets)].float(), targets)
            if len(rows) > len(targets):
                is_target = torch.from_numpy(self.material.cells.is_target[rows]).to(values.device)
                both = Both(features, logits, is_target, len(targets), step)
                loss = loss + self.params["trade_off"] * self.term(both)
        return loss


def stream(count: int, size: int, batches: int, generator: torch.Generator) -> np.ndarray:
    """(batches, size) indices below `count`: one random order after another, cut into batches.

    TLLib drops what is left of an order, and cannot serve fewer cells than a batch; here each cell comes equally often.
    """
    orders = -(-batches * size // count)
    indices = np.concatenate([torch.randperm(count, generator=generator).numpy() for _ in range(orders)])
    return indices[: batches * size].reshape(batches, size)
