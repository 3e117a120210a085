"""Training of the autoencoder: DoRL's recipe, resumed where a killed run left off."""

from __future__ import annotations

import hashlib
import math
import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cellfeat import CellfeatError, Cells, Context
from cellfeat.training import Checkpoint, autocast
from cellfeat_cae.losses import Terms, loss_terms
from cellfeat_cae.network import TOKENS, CrossDomainAutoencoder, as_tokens

if TYPE_CHECKING:
    from cellfeat_cae.cae import Cae

CHECKPOINT_SECONDS = 30.0
CHECK_EVERY = 20  # steps between two looks at the losses; each look makes a GPU wait


def rate_factor(iteration: int, warmup: int, total: int) -> float:
    """Factor on the base learning rate at an iteration counted from 1: linear, then a cosine over `total`.

    As published the cosine starts after the warm-up but is as long as the whole run, so it ends a little above 0.
    """
    if iteration <= warmup:
        return iteration / warmup
    return 0.5 * (1 + math.cos(math.pi * (iteration - warmup) / total))


class Trainer:
    """One training run of a network on cells; `run` returns the history, epoch by epoch."""

    def __init__(
        self, network: CrossDomainAutoencoder, cells: Cells, method: Cae, anchor: str, context: Context
    ) -> None:
        self.network, self.cells, self.method, self.context = network.to(context.device), cells, method, context
        names, self.domain = np.unique(cells.domain, return_inverse=True)
        self.domains, self.anchor = len(names), names.tolist().index(anchor)
        self.steps_per_epoch = math.ceil(len(cells) / method.batch_size)
        self.total = method.epochs * self.steps_per_epoch
        self.warmup = max(1, min(method.warmup_steps, self.total // 10))
        self.keep = max(1, int(TOKENS * (1 - method.mask_ratio)))
        self.optimizer = torch.optim.AdamW(
            network.parameters(),
            lr=method.learning_rate,
            weight_decay=method.weight_decay,
            fused=context.device.type in ("cpu", "cuda"),
        )
        self.scaler = torch.amp.GradScaler(context.device.type, enabled=context.dtype == torch.float16)
        self.checkpoint = Checkpoint(context.scratch, "cae")
        self.history: list[list[float]] = []  # per epoch: loss, 1 - SSIM, domain distance, token MSE

    def run(self) -> list[list[float]]:
        if self.warmup < self.method.warmup_steps:
            self.context.note(
                f"cae: warm-up of {self.warmup} steps instead of {self.method.warmup_steps}, "
                f"a tenth of this run's {self.total}"
            )
        start = self._resume()
        text = f"cae · {self.method.epochs} epochs on {len(self.cells)} cells"
        with self.context.progress(self.total, text) as bar:
            if start:
                bar.advance(start * self.steps_per_epoch)
            saved, cost = time.monotonic(), 0.0
            for epoch in range(start, self.method.epochs):
                self.history.append(self._epoch(epoch, bar))
                now = time.monotonic()
                # A checkpoint of the published network has 1.5 GB: a slow disk must not eat the run.
                if epoch + 1 == self.method.epochs or now - saved >= max(CHECKPOINT_SECONDS, 20 * cost):
                    self._save()
                    saved = time.monotonic()
                    cost = saved - now
        return self.history

    def _epoch(self, epoch: int, bar) -> list[float]:
        done: list[Tensor] = []
        batches = self.cells.batches(("map", "crop"), self.method.batch_size, self.context.generator)
        for number, (rows, batch) in enumerate(batches, start=1):
            done.append(self._step(epoch * self.steps_per_epoch + number, rows, batch))
            if number % CHECK_EVERY == 0 or number == self.steps_per_epoch:
                self._check(epoch, done)
            bar.advance(1)
        return torch.stack(done).mean(dim=0).tolist()

    def _step(self, iteration: int, rows: np.ndarray, batch: dict[str, Tensor]) -> Tensor:
        """One step of the optimiser; returns (4,): loss and terms, still on the device."""
        device = self.context.device
        tokens = as_tokens(batch["map"].to(device, torch.float32))
        crop = batch["crop"].to(device).float() / 255
        order = torch.rand(len(rows), TOKENS, generator=self.context.generator).argsort(dim=1).to(device)
        with autocast(device, self.context.dtype):
            output = self.network(tokens, order, self.keep)
        domain = torch.from_numpy(self.domain[rows]).to(device)
        terms = loss_terms(output, tokens, crop, domain, self.domains, self.anchor)
        loss = self._weighted(terms)
        for group in self.optimizer.param_groups:
            group["lr"] = self.method.learning_rate * rate_factor(iteration, self.warmup, self.total)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return torch.stack([loss, *terms]).detach()

    def _weighted(self, terms: Terms) -> Tensor:
        method = self.method
        return (
            method.image_weight * terms.image
            + method.domain_weight * terms.domain
            + method.feature_weight * terms.feature
        )

    def _check(self, epoch: int, done: list[Tensor]) -> None:
        losses = torch.stack(done)[:, 0].cpu()
        if bool(losses.isfinite().all()):
            return
        first = int((~losses.isfinite()).nonzero()[0, 0])
        step, rate = epoch * self.steps_per_epoch + first + 1, self.method.learning_rate
        raise CellfeatError(
            f"align 'cae': the loss became {losses[first].item()} at step {step} of {self.total} (epoch {epoch + 1} of "
            f"{self.method.epochs}). Try a lower learning rate (--set align.learning_rate={rate / 10:g}, now {rate:g}) "
            "or --precision fp32; if it is so at step 1, the feature maps hold NaN or infinity"
        )

    def _identity(self) -> str:
        """What a checkpoint must agree on to be continued: the cells, the configuration and the kind of map."""
        cells = self.cells
        parts = (cells.id.tolist(), cells.domain.tolist(), self.anchor, repr(self.method), cells.column("map").shape)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def _save(self) -> None:
        self.checkpoint.save(
            identity=self._identity(),
            history=self.history,
            network=self.network.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            generator=self.context.generator.get_state(),
        )

    def _resume(self) -> int:
        """Take up the newest checkpoint of this very run; the number of epochs already done."""
        state = self.checkpoint.load()
        if state is None:
            return 0
        if state["identity"] != self._identity():
            self.context.note(f"cae: {self.checkpoint.path} belongs to other cells or parameters; training starts anew")
            return 0
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.context.generator.set_state(state["generator"])
        self.history = state["history"]
        return len(self.history)
