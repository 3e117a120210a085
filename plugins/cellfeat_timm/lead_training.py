"""The two trainings of LEAD: a source model on labelled cells; then its trunk and bottleneck on the target alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import nn

from cellfeat import Context
from cellfeat.training import autocast
from cellfeat_timm import lead_parts
from cellfeat_timm.adapted import Material
from cellfeat_timm.adapted_network import AdaptedNetwork
from cellfeat_timm.adapted_training import MOMENTUM
from cellfeat_timm.inputs import Inputs, applied
from cellfeat_timm.loop import Stepper, digest, epoch_generators

SMOOTHING = 0.1  # of the source model's labels
EPOCHS_BETWEEN_COUNTS = 10  # of the target's clusters


class Phase(ABC):
    """What both trainings share: epochs over some rows in batches, SGD at a rate that decays over the training."""

    def __init__(
        self,
        name: str,
        network: AdaptedNetwork,
        material: Material,
        rows: np.ndarray,
        epochs: int,
        inputs: Inputs,
        params: dict[str, Any],
        context: Context,
        score: Callable[[], float | None],
    ) -> None:
        self.name, self.model, self.material, self.rows, self.epochs = name, network, material, rows, epochs
        self.inputs, self.params, self.context, self.score = inputs, params, context, score
        self.network: nn.Module = network
        self.batch = min(params["batch_size"], len(rows))
        self.size = len(rows) // self.batch  # what is left of an order is not trained on
        rate = params["learning_rate"]
        self.optimizer: torch.optim.Optimizer = torch.optim.SGD(
            self.groups(rate), lr=rate, momentum=MOMENTUM, weight_decay=params["weight_decay"], nesterov=True
        )

    def groups(self, rate: float) -> list[dict[str, Any]]:
        return self.model.groups(rate, self.params["trunk_factor"])

    def key(self, seed: int) -> str:
        values = [self.name, self.params, seed, len(self.material.cells)]
        return digest(values, self.material.rows, self.material.targets, self.material.unlabelled)

    def epoch(self, number: int, stepper: Stepper, bar: Any) -> None:
        self.begin(number)
        generator, drawing = epoch_generators(self.context.seed, number)
        order = torch.randperm(len(self.rows), generator=generator).numpy()
        batches = order[: self.size * self.batch].reshape(self.size, self.batch)
        columns = self.material.cells.read_ahead((self.inputs.column,), list(self.rows[batches]))
        for step, (positions, (_, column)) in enumerate(zip(batches, columns, strict=True), number * self.size + 1):
            for group in self.optimizer.param_groups:
                group["lr"] = group["factor"] * self.params["learning_rate"] * decay(step, self.epochs * self.size)
            values = self.inputs.drawn(column[self.inputs.column], self.context.device, drawing)
            with autocast(self.context.device, self.context.dtype):
                features, logits = self.model(values)
            stepper(self.loss(features.float(), logits.float(), torch.from_numpy(positions).to(values.device)))
            bar.advance()

    def begin(self, number: int) -> None:  # noqa: B027 - the source model has nothing to do before an epoch
        """Before the epoch `number`; the network is in training mode and must be afterwards."""

    @abstractmethod
    def loss(self, features: torch.Tensor, logits: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Of a batch; positions: (B,) in `rows`."""


class SourceModel(Phase):
    """Cross-entropy with smoothed labels."""

    def loss(self, features: torch.Tensor, logits: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        targets = torch.from_numpy(self.material.targets).to(logits.device)[positions]
        return functional.cross_entropy(logits, targets, label_smoothing=SMOOTHING)


class TargetModel(Phase):
    """Pseudo-labels made anew before every epoch; the classifier stays as the source model's."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.memory = _Memory()
        self.network = nn.ModuleDict({"network": self.model, "memory": self.memory})

    def groups(self, rate: float) -> list[dict[str, Any]]:
        head = {id(parameter) for parameter in self.model.head.parameters()}
        return [group for group in super().groups(rate) if id(group["params"][0]) not in head]

    def begin(self, number: int) -> None:
        self.model.eval()
        features, self.bank_proba = self._bank()
        self.bank, seed = features, self.context.seed
        if number % EPOCHS_BETWEEN_COUNTS == 0:
            clusters = lead_parts.count_clusters(features.cpu().numpy(), self.bank_proba.shape[1], seed)
            self.memory.clusters.fill_(clusters)
        with torch.no_grad():
            weight = self.model.head.weight.float()
            self.space = lead_parts.decompose(weight)
            self.labels = lead_parts.pseudo_labels(
                features, self.bank_proba, weight, self.space, int(self.memory.clusters), seed
            )
        self.model.train()

    def _bank(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(features of length 1, probabilities) of all target cells."""
        found = applied(
            lambda batch: torch.cat(self.model(batch), 1), self.inputs, self.material.cells[self.rows], self.context
        )
        width = self.model.head.in_features
        values = torch.from_numpy(found).to(self.context.device)
        return functional.normalize(values[:, :width], dim=1), values[:, width:].softmax(1)

    def loss(self, features: torch.Tensor, logits: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        features = functional.normalize(features, dim=1)
        labels = lead_parts.PseudoLabels(*(part[positions] for part in self.labels))
        near = lead_parts.neighbour_loss(features, logits, self.bank, self.bank_proba, self.params["neighbours"])
        self.bank[positions], self.bank_proba[positions] = features.detach(), logits.detach().softmax(1)
        known = lead_parts.pseudo_loss(logits, labels)
        return self.params["pseudo_weight"] * known + lead_parts.split_loss(features, self.space, labels) + near


class _Memory(nn.Module):
    """What is remembered from epoch to epoch beside the network."""

    clusters: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("clusters", torch.zeros((), dtype=torch.int64))


def decay(step: int, steps: int) -> float:
    """(1 + 10 step / steps)^-0.75, step from 1."""
    return (1 + 10 * step / steps) ** -0.75
