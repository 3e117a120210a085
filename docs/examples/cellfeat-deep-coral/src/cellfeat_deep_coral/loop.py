"""The training of Deep CORAL: batches of labelled cells and of as many unlabelled ones, down two losses at once."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional

from cellfeat import CellfeatError, Cells, Context
from cellfeat.training import Checkpoint, autocast, seeded, warmup_cosine
from cellfeat_deep_coral.loss import coral_loss
from cellfeat_deep_coral.network import RANDOM, CoralNetwork

MOMENTUM = 0.9  # as in the paper
WARMUP = 0.1  # share of all steps in which the learning rate rises


@dataclass(frozen=True)
class Material:
    """labelled: (L,) rows of cells, classes: (L,) their 0..K-1; unlabelled: (U,) rows to adapt to, perhaps none."""

    cells: Cells
    labelled: np.ndarray
    classes: np.ndarray
    unlabelled: np.ndarray

    def digest(self) -> str:
        """Of what is trained on, but for the pixels, after which the runner names `Context.scratch`."""
        parts = (self.labelled, self.classes, self.unlabelled)
        return hashlib.sha256(b"|".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


class Trainer:
    """One training. What an epoch draws depends on the seed and its number alone, so that a training that was killed
    and went on from its checkpoint ends as one that never was.
    """

    def __init__(self, network: CoralNetwork, material: Material, params: dict[str, Any], context: Context) -> None:
        self.network, self.material, self.params, self.context = network.to(context.device), material, params, context
        self.steps = max(1, len(material.labelled) // params["batch_size"])
        groups = network.groups(params["learning_rate"], params["weights"] != RANDOM)
        self.optimizer = torch.optim.SGD(groups, momentum=MOMENTUM, weight_decay=params["weight_decay"])
        # Only float16 needs its gradients scaled, lest they vanish.
        self.scaler = torch.amp.GradScaler(context.device.type, enabled=context.dtype == torch.float16)
        self.history: dict[str, list[float]] = {}
        self.checkpoint = Checkpoint(context.scratch, "deep-coral")
        self.key = f"{json.dumps(params, sort_keys=True)} {context.seed} {context.dtype} {material.digest()}"

    def run(self) -> dict[str, list[float]]:
        """Train; gives the mean of every loss by epoch. Raises: CellfeatError when a loss is no number."""
        done, epochs = self._resume(), self.params["epochs"]
        with self.context.progress(epochs, "deep-coral: training") as bar:
            bar.advance(done)
            for epoch in range(done, epochs):
                for name, value in self._epoch(epoch).items():
                    self.history.setdefault(name, []).append(value)
                self.checkpoint.save_when_due(self._state)
                bar.advance()
        self.checkpoint.save(**self._state())  # for a run that is killed after this fit
        self.network.eval()
        return self.history

    def _epoch(self, number: int) -> dict[str, float]:
        seed = int(np.random.SeedSequence([self.context.seed, number]).generate_state(1)[0])
        order, mirrored = self._drawn(torch.Generator().manual_seed(seed))
        batches = self.material.cells.read_ahead(("image",), [self._rows(chosen) for chosen in order])
        sums: dict[str, Any] = {}
        self.network.train()
        with seeded(seed):  # dropout, where the model has any
            for step, (_, columns) in enumerate(batches):
                images = mirror(columns["image"], mirrored[step]).to(self.context.device)
                losses = self._losses(images, self.material.classes[order[step][0]])
                self._step(losses, number * self.steps + step)
                for name, loss in losses.items():  # added up where they are: to look at each would wait for the GPU
                    sums[name] = sums.get(name, 0) + loss.detach()
        means = {name: float(total) / self.steps for name, total in sums.items()}
        self._check(means, number)
        return means

    def _drawn(self, generator: torch.Generator) -> tuple[list[tuple[np.ndarray, np.ndarray]], torch.Tensor]:
        """For every step the positions of its labelled and unlabelled cells, and which images to mirror how."""
        size, parts = self.params["batch_size"], (len(self.material.labelled), len(self.material.unlabelled))
        drawn = [endless(count, self.steps * size, generator).reshape(self.steps, -1) for count in parts]
        mirrored = torch.rand((self.steps, 2, sum(part.shape[1] for part in drawn)), generator=generator) < 0.5
        return list(zip(*drawn, strict=True)), mirrored

    def _rows(self, chosen: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return np.concatenate([self.material.labelled[chosen[0]], self.material.unlabelled[chosen[1]]])

    def _losses(self, images: torch.Tensor, classes: np.ndarray) -> dict[str, torch.Tensor]:
        """Images of the labelled cells, then of unlabelled ones, which batch normalisation sees as one batch."""
        count = len(classes)
        with autocast(self.context.device, self.context.dtype):
            features, logits = self.network(images)
        # In float32: a covariance of half-precision numbers has hardly any digits.
        features, logits = features.float(), logits.float()
        expected = torch.from_numpy(classes).to(images.device)
        losses = {"classification": functional.cross_entropy(logits[:count], expected)}
        if len(images) > count:
            compared = logits if self.params["coral_on"] == "logits" else features
            losses["coral"] = coral_loss(compared[:count], compared[count:])
        return losses

    def _step(self, losses: dict[str, torch.Tensor], step: int) -> None:
        total = self.steps * self.params["epochs"]
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * warmup_cosine(step, math.ceil(WARMUP * total), total)
        loss = losses["classification"]
        if "coral" in losses:
            loss = loss + self.params["coral_weight"] * losses["coral"]
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _check(self, means: dict[str, float], epoch: int) -> None:
        bad = [name for name, value in means.items() if not math.isfinite(value)]
        if bad:
            raise CellfeatError(
                f"align 'deep-coral': the {' and the '.join(bad)} loss is no number in epoch {epoch + 1}. Take smaller "
                f"steps: --set align.learning_rate={self.params['learning_rate'] / 10:g}"
            )

    def _state(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"network": self.network, "optimizer": self.optimizer, "scaler": self.scaler}
        done = len(self.history["classification"])
        return {"key": self.key, "done": done, "history": self.history} | {k: v.state_dict() for k, v in parts.items()}

    def _resume(self) -> int:
        """The number of epochs that a run before this one has done, their result loaded."""
        state = self.checkpoint.load()
        if state is None or state["key"] != self.key:  # of other data, parameters, seed or precision
            return 0
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.history = state["history"]
        return state["done"]


def endless(count: int, wanted: int, generator: torch.Generator) -> np.ndarray:
    """(wanted,) positions below `count`, one random order after another; none where `count` is 0."""
    orders = [torch.randperm(count, generator=generator) for _ in range(-(-wanted // count) if count else 0)]
    return torch.cat([torch.zeros(0, dtype=torch.int64), *orders])[:wanted].numpy()


def mirror(images: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """(B, 3, S, S), those chosen in (2, B) mirrored across and down: a cell on a slide has no up and no left."""
    for axis, flags in zip((3, 2), chosen, strict=True):
        images = torch.where(flags[:, None, None, None], images.flip(axis), images)
    return images
