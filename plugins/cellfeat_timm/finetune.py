"""The training of `source-only`: cross-entropy by AdamW, epochs over the labelled rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional

from cellfeat import Cells, Context
from cellfeat.training import autocast, warmup_cosine
from cellfeat_timm.inputs import Images
from cellfeat_timm.loop import Stepper, digest, epoch_generators


@dataclass(frozen=True)
class Task:
    """Labelled rows of cells, their targets 0..K-1, how an image becomes a tensor, and the method's parameters."""

    cells: Cells
    rows: np.ndarray
    targets: np.ndarray
    inputs: Images
    params: dict[str, Any]

    def steps_per_epoch(self) -> int:
        whole, rest = divmod(len(self.rows), self.params["batch_size"])
        return whole + (rest > 1)  # a last batch of one cell is left out: batch normalisation cannot learn from it

    def learning_rate(self, step: int) -> float:
        """Linear over the warm-up, by default a tenth of the epochs, then a cosine to zero."""
        steps = self.steps_per_epoch()
        warmup = self.params["warmup_epochs"]
        warmup = steps * (self.params["epochs"] / 10 if warmup is None else warmup)
        return self.params["learning_rate"] * warmup_cosine(step, round(warmup), steps * self.params["epochs"])


class Finetuning:
    """A `Task` as work for the loop; `score` judges the network after every epoch."""

    name = "source-only"

    def __init__(
        self, network: torch.nn.Module, task: Task, context: Context, score: Callable[[], float | None]
    ) -> None:
        self.network, self.task, self.context, self.score = network, task, context, score
        self.epochs, self.size = task.params["epochs"], len(task.rows)
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(network.parameters(), lr=task.params["learning_rate"])

    def key(self, seed: int) -> str:
        task = self.task
        return digest([task.params, seed, len(task.cells)], task.rows, task.targets)

    def epoch(self, number: int, stepper: Stepper, bar: Any) -> None:
        task, device = self.task, self.context.device
        generator, drawing = epoch_generators(self.context.seed, number)
        batches = task.cells[task.rows].batches(("image",), task.params["batch_size"], generator=generator)
        step = number * task.steps_per_epoch()
        for rows, columns in batches:
            if len(rows) > 1:
                for group in self.optimizer.param_groups:
                    group["lr"] = task.learning_rate(step)
                pixels = task.inputs.drawn(columns["image"], device, drawing)
                targets = torch.from_numpy(task.targets[rows]).to(device)
                with autocast(device, self.context.dtype):
                    loss = functional.cross_entropy(self.network(pixels), targets)
                stepper(loss)
                step += 1
            bar.advance(len(rows))
