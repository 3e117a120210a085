"""The training loop of `source-only`, seeded epoch by epoch: a resumed run equals one that was never stopped."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional

from cellfeat import Cells, Context
from cellfeat.training import Checkpoint, autocast, seeded, warmup_cosine
from cellfeat_timm.augment import augment
from cellfeat_timm.network import normalised

SECONDS_BETWEEN_CHECKPOINTS = 60.0  # what a kill can cost, to the end of the epoch


@dataclass(frozen=True)
class Task:
    """Labelled rows of cells, their targets 0..K-1, how an image becomes a tensor, and the method's parameters."""

    cells: Cells
    rows: np.ndarray
    targets: np.ndarray
    pixels: Callable[[torch.Tensor, torch.device], torch.Tensor]
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

    def key(self, seed: int) -> str:
        """Tells whether a checkpoint belongs to this very training."""
        digest = hashlib.sha256(json.dumps([self.params, seed, len(self.cells)], sort_keys=True).encode())
        digest.update(self.rows.tobytes() + self.targets.tobytes())
        return digest.hexdigest()


def train(network: torch.nn.Module, task: Task, context: Context) -> torch.nn.Module:
    """Train for all epochs, going on from a checkpoint in `context.scratch`; gives the network in evaluation mode."""
    network.to(context.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=task.params["learning_rate"])
    scaler = torch.amp.GradScaler(context.device.type, enabled=context.dtype == torch.float16)
    checkpoint, key = Checkpoint(context.scratch, "source-only"), task.key(context.seed)
    first = _resume(checkpoint, key, network, optimizer, scaler)
    epochs, saved = task.params["epochs"], time.monotonic()
    with context.progress(epochs * len(task.rows), "source-only: training") as bar:
        bar.advance(first * len(task.rows))
        for epoch in range(first, epochs):
            with seeded(_seed(context.seed, epoch)):  # for dropout
                _train_epoch(network, task, epoch, optimizer, scaler, context, bar)
            done = epoch + 1
            if done == epochs or time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                # The last one serves a run that is killed after training; it needs no optimiser any more.
                state = {} if done == epochs else optimizer.state_dict()
                checkpoint.save(
                    key=key, done=done, network=network.state_dict(), optimizer=state, scaler=scaler.state_dict()
                )
                saved = time.monotonic()
    return network.eval()


def _resume(checkpoint: Checkpoint, key: str, network: Any, optimizer: Any, scaler: Any) -> int:
    """Number of epochs that are done already, their result loaded."""
    state = checkpoint.load()
    if state is None or state["key"] != key:
        return 0
    network.load_state_dict(state["network"])
    if state["optimizer"]:
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
    return state["done"]


def _train_epoch(
    network: torch.nn.Module, task: Task, epoch: int, optimizer: Any, scaler: Any, context: Context, bar: Any
) -> None:
    network.train()
    params, device = task.params, context.device
    generator = torch.Generator().manual_seed(_seed(context.seed, epoch))
    batches = task.cells[task.rows].batches(("image",), params["batch_size"], generator=generator)
    # Its own generator: the batches are shuffled with the other one, in whatever moment the loop above starts.
    drawing = torch.Generator().manual_seed(_seed(context.seed, epoch) + 1)
    step = epoch * task.steps_per_epoch()
    for rows, columns in batches:
        if len(rows) > 1:
            for group in optimizer.param_groups:
                group["lr"] = task.learning_rate(step)
            pixels = augment(task.pixels(columns["image"], device), params["augment"], drawing)
            targets = torch.from_numpy(task.targets[rows]).to(device)
            with autocast(device, context.dtype):
                loss = functional.cross_entropy(network(normalised(pixels, params["model"])), targets)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            step += 1
        bar.advance(len(rows))


def _seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
