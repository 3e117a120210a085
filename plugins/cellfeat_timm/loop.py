"""The training loop of every network here, seeded epoch by epoch: a resumed run equals one that was never stopped."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any, Protocol

import numpy as np
import torch

from cellfeat import Context
from cellfeat.training import Checkpoint, seeded

SECONDS_BETWEEN_CHECKPOINTS = 60.0  # what a kill can cost, to the end of the epoch


class Work(Protocol):
    """What is trained, for how long, and by what an epoch is chosen."""

    name: str  # of the checkpoint and in front of the progress
    network: torch.nn.Module  # all that is learned or remembered from one epoch to the next
    optimizer: torch.optim.Optimizer
    epochs: int
    size: int  # of an epoch, in what `epoch` reports to the bar

    def key(self, seed: int) -> str:
        """Tells whether a checkpoint belongs to this very training."""

    def epoch(self, number: int, stepper: Stepper, bar: Any) -> None:
        """Train one epoch; the network is in training mode, torch's own generators are seeded."""

    def score(self) -> float | None:
        """How good the network is, higher is better; None where the last epoch is to be kept."""


class Stepper:
    """One step of the optimiser down a loss, scaled where float16 needs it."""

    def __init__(self, optimizer: torch.optim.Optimizer, context: Context) -> None:
        self.optimizer = optimizer
        self.scaler = torch.amp.GradScaler(context.device.type, enabled=context.dtype == torch.float16)

    def __call__(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()


def train(work: Work, context: Context) -> int:
    """Train for all epochs, going on from a checkpoint in `context.scratch`; gives the number of epochs that count.

    The network ends in evaluation mode, in the state of the chosen epoch.
    """
    work.network.to(context.device)
    stepper = Stepper(work.optimizer, context)
    checkpoint, key = Checkpoint(context.scratch, work.name), work.key(context.seed)
    first, best = _resume(checkpoint, key, work, stepper)
    if first:
        context.note(f"{work.name}: training goes on after epoch {first} of {work.epochs}")
    saved = time.monotonic()
    with context.progress(work.epochs * work.size, f"{work.name}: training") as bar:
        bar.advance(first * work.size)
        for epoch in range(first, work.epochs):
            work.network.train()
            with seeded(epoch_seed(context.seed, epoch)):  # for dropout
                work.epoch(epoch, stepper, bar)
            best = _better(work, epoch + 1, best)
            if epoch + 1 == work.epochs or time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                _save(checkpoint, key, work, stepper, epoch + 1, best)
                saved = time.monotonic()
    if best:
        work.network.load_state_dict(best["network"])
    work.network.eval()
    return best.get("epoch", work.epochs)


def _better(work: Work, done: int, best: dict[str, Any]) -> dict[str, Any]:
    """The better of this epoch and the best one before; of equals the later one, which has seen more."""
    work.network.eval()
    score = work.score()
    if score is None or (best and not score >= best["score"]):  # a diverged network's nan is never better
        return best
    state = {name: tensor.detach().cpu().clone() for name, tensor in work.network.state_dict().items()}
    return {"score": score, "epoch": done, "network": state}


def _save(checkpoint: Checkpoint, key: str, work: Work, stepper: Stepper, done: int, best: dict[str, Any]) -> None:
    # The last one serves a run that is killed after training; it needs no optimiser any more.
    optimizer = {} if done == work.epochs else work.optimizer.state_dict()
    network, scaler = work.network.state_dict(), stepper.scaler.state_dict()
    checkpoint.save(key=key, done=done, network=network, optimizer=optimizer, scaler=scaler, best=best)


def _resume(checkpoint: Checkpoint, key: str, work: Work, stepper: Stepper) -> tuple[int, dict[str, Any]]:
    """(number of epochs that are done already, their result loaded, the best of them)."""
    state = checkpoint.load()
    if state is None or state["key"] != key:
        return 0, {}
    work.network.load_state_dict(state["network"])
    if state["optimizer"]:
        work.optimizer.load_state_dict(state["optimizer"])
        stepper.scaler.load_state_dict(state["scaler"])
    return state["done"], state["best"]


def digest(values: Any, *arrays: np.ndarray) -> str:
    """Of JSON values and arrays."""
    found = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def epoch_generators(seed: int, epoch: int) -> tuple[torch.Generator, torch.Generator]:
    """One for the order of the cells, one for what is drawn for each of them.

    Two, because the cells may be shuffled at whatever moment a reader of batches starts.
    """
    first = epoch_seed(seed, epoch)
    return torch.Generator().manual_seed(first), torch.Generator().manual_seed(first + 1)
