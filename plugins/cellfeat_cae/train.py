"""Training of the autoencoders: on one or several GPUs, and resumed at the very step where a killed run left off.

Order, masks and losses of a step are functions of the seed and the step's number, so that a resumed run, and one on
several processes, goes the same way.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from cellfeat import Cells, Context, distributed
from cellfeat.distributed import Part, divided
from cellfeat.training import Checkpoint, fast_float32
from cellfeat_cae.autoencoder import AutoencoderAligner, as_images
from cellfeat_cae.batches import Batch
from cellfeat_cae.diagnosis import check_finite, example_rows, tell
from cellfeat_cae.inputs import GRID
from cellfeat_cae.maps import to_grid
from cellfeat_cae.order import check_balanced, epoch_batches

CHECK_EVERY = 20  # steps between two looks at the losses; each look makes a GPU wait
WARMUP_SHARE = 5  # the warm-up takes at most a fifth of the steps; in BC-SAM's run it takes 500 of 2,570
COLUMNS = ("map", "crop")


def rate_factor(iteration: int, warmup: int, total: int) -> float:
    """Factor on the base learning rate at an iteration counted from 1: linear, then a cosine over `total`.

    As published the cosine starts after the warm-up but is as long as the whole run, so it ends a little above 0.
    Without a warm-up the rate is constant.
    """
    if not warmup:
        return 1.0
    if iteration <= warmup:
        return iteration / warmup
    return 0.5 * (1 + math.cos(math.pi * (iteration - warmup) / total))


class Trainer:
    """One training run of a network on cells; `run` returns the history: mean loss and terms per epoch."""

    def __init__(
        self, network: nn.Module, cells: Cells, method: AutoencoderAligner, anchor: str, context: Context
    ) -> None:
        self.network, self.cells, self.method, self.context = network.to(context.device), cells, method, context
        self.names, self.domain = np.unique(cells.domain, return_inverse=True)
        self.anchor = self.names.tolist().index(anchor)
        if method.balanced:
            names = self.names.tolist()
            check_balanced(method.name, names, method.batch_size, method.accumulate, method.compared_from)
        self.steps_per_epoch = math.ceil(len(cells) / method.batch_size)
        self.total = method.epochs * self.steps_per_epoch
        self.warmup = min(method.warmup_steps, max(1, self.total // WARMUP_SHARE))
        self.optimizer = method.optimizer(network.parameters(), fused=context.device.type in ("cpu", "cuda"))
        self.checkpoint = Checkpoint(context.scratch, method.name)
        self.columns = ("total", *method.term_weights)
        self.history: list[list[float]] = []  # per epoch: loss and terms
        self.begun: list[Tensor] = []  # the same per step of the epoch that is going on
        self.done = 0  # steps
        self._scaler: dict[str, Any] = {}  # what a checkpoint kept of it

    def run(self) -> dict[str, list[float]]:
        """Train for all steps that are left."""
        tell(self, self._batches(0))
        self._resume()
        name, epochs = self.method.name, self.method.epochs
        text = f"{name} · {epochs} epochs on {len(self.cells)} cells"
        with (
            fast_float32(self.context.device),
            distributed.accelerated(self.context, self.method.accumulate) as self.accelerator,
            self.context.progress(self.total, text) as bar,
        ):
            network = torch.compile(self.network) if self.context.compile else self.network
            self.wrapped, self.stepper = self.accelerator.prepare(network, self.optimizer)
            self.wrapped.train()
            if self.accelerator.scaler and self._scaler:
                self.accelerator.scaler.load_state_dict(self._scaler)
            if self.done:
                bar.advance(self.done)
            for epoch in range(self.done // self.steps_per_epoch, epochs):
                self._epoch(epoch, bar)
            self.checkpoint.save(**self._state())
            distributed.meet(self.context.device)  # whoever comes back to this training finds it finished
            self.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False)
        return {name: [epoch[i] for epoch in self.history] for i, name in enumerate(self.columns)}

    def _epoch(self, epoch: int, bar: Any) -> None:
        batches = self._batches(epoch)
        first = self.done - epoch * self.steps_per_epoch
        plan = [(rows, divided(len(rows), self.method.accumulate)) for rows in batches[first:]]
        read = self.cells.read_ahead(COLUMNS, [rows[part.rows] for rows, parts in plan for part in parts])
        for number, (_, parts) in enumerate(plan, start=first + 1):
            self.begun.append(self._step(parts, read))
            self.done += 1
            last = number == self.steps_per_epoch
            if last or self.done == 1 or number % CHECK_EVERY == 0 or self.checkpoint.due():
                start = self.done - len(self.begun)
                check_finite(
                    self, torch.stack(self.begun), start, dict(enumerate(batches, self.steps_per_epoch * epoch))
                )
            if last:
                self.history.append(torch.stack(self.begun).mean(dim=0).tolist())
                self.begun = []
            self.checkpoint.save_when_due(self._state)
            bar.advance(1)

    def _batches(self, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng((self.context.seed, epoch))
        return epoch_batches(self.domain, self.method.batch_size, self.method.balanced, rng)

    def _step(self, parts: list[Part], read: Iterator[tuple[np.ndarray, dict[str, Tensor]]]) -> Tensor:
        """One step of the optimiser; returns (1 + terms,): loss and terms, still on the device."""
        method = self.method
        noise = self._noise(self.done, self.method.batch_size)
        for group in self.optimizer.param_groups:
            group["lr"] = method.learning_rate * rate_factor(self.done + 1, self.warmup, self.total)
        sums = torch.zeros(len(self.columns), device=self.context.device)
        for part in parts:
            rows, values = next(read)
            with self.accelerator.accumulate(self.wrapped):
                batch = self._batch(rows, values, noise[part.rows], counts=part.cells > 0)
                terms = method.losses(self.wrapped, batch, self._gatherer(part.most))
                terms = {key: term * (part.whole if key == "domain" else part.cells) for key, term in terms.items()}
                loss = sum(method.term_weights[key] * term for key, term in terms.items())
                self.accelerator.backward(loss)
                self.stepper.step()
                self.stepper.zero_grad()
            sums += torch.stack([loss, *terms.values()]).detach() / method.accumulate
        # In every step, so that a checkpoint holds the whole batch's and all processes stop at the same one.
        return self.accelerator.reduce(sums, "mean")

    def _noise(self, step: int, count: int) -> Tensor:
        """(count, 196) float32, uniform: the same for a cell however the batch is divided."""
        rng = np.random.default_rng((self.context.seed, self.method.epochs, step))
        return torch.from_numpy(rng.random((count, GRID**2), np.float32))

    def _batch(self, rows: np.ndarray, values: dict[str, Tensor], noise: Tensor, counts: bool = True) -> Batch:
        device = self.context.device
        domain = torch.from_numpy(self.domain[rows]) if counts else torch.full((len(rows),), len(self.names))
        return Batch(
            to_grid(values["map"].to(device, torch.float32)),
            values["crop"].to(device).float() / 255,
            domain.to(device),
            noise.to(device),
            len(self.names),
            self.anchor,
        )

    def _gatherer(self, most: int) -> Any:
        def gather(z: Tensor, domain: Tensor) -> tuple[Tensor, Tensor]:
            """(B, D) codes and (B,) domains of all processes, filled up with rows that count nowhere."""
            if distributed.process_count() == 1:
                return z, domain
            spare = most - len(z)
            domain = pad(domain, (0, spare), value=len(self.names))
            return distributed.gather_rows(pad(z.float(), (0, 0, 0, spare))), distributed.gather_rows(domain)

        return gather

    def examples(self) -> dict[str, np.ndarray]:
        """Crops and masks of a few cells, and what the network draws, as uint8 and bool arrays of (n, ...)."""
        rows = example_rows(self.domain)
        values = {name: torch.from_numpy(self.cells.read(name, rows)) for name in COLUMNS}
        self.network.eval()
        with torch.no_grad():
            drawn = self.method.drawn(self._batch(rows, values, self._noise(0, len(rows))))
        mask = self.cells.read("mask", rows)
        return {"crop": values["crop"].numpy(), "mask": mask, "reconstruction": as_images(drawn)}

    def _identity(self) -> str:
        """What a checkpoint must agree on to be continued: the cells, the configuration and the kind of map."""
        cells = self.cells
        parts = (cells.id.tolist(), cells.domain.tolist(), self.anchor, repr(self.method), cells.column("map").shape)
        return hashlib.sha256(repr((*parts, self.context.seed, str(self.context.dtype))).encode()).hexdigest()

    def _state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "identity": self._identity(),
            "done": self.done,
            "history": self.history,
            "begun": [step.cpu() for step in self.begun],
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else {},
        }

    def _resume(self) -> None:
        """Take up the newest checkpoint of this very run."""
        name, state = self.method.name, self.checkpoint.load()
        if state is None:
            return
        if state.get("identity") != self._identity():
            self.context.note(
                f"{name}: {self.checkpoint.path} belongs to other cells or parameters; training starts anew"
            )
            return
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history, self.done, self._scaler = state["history"], state["done"], state["scaler"]
        self.begun = [step.to(self.context.device) for step in state["begun"]]
        self.context.note(f"{name}: training goes on after step {self.done} of {self.total}")
