"""Fine-tuning on images with masks: LoRA in the encoder, the whole decoder (DoRL, arXiv 2408.07467, stage 1)."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cellfeat import CellfeatError, Context, file_sha256, find_weights
from cellfeat.training import Checkpoint, autocast, seeded
from cellfeat_lora_sam.adapter import add_lora, save_adapter, trained_parameters
from cellfeat_lora_sam.checkpoints import build_network, read_weights, with_two_classes
from cellfeat_lora_sam.finetune_data import Frames, augment, load_frames
from cellfeat_lora_sam.losses import low_resolution, segmentation_loss
from cellfeat_lora_sam.named import NAMED_WEIGHTS

SECONDS_BETWEEN_CHECKPOINTS = 60.0


@dataclass(frozen=True)
class FinetuneSettings:
    """The numbers of one fine-tuning; the defaults are the published ones."""

    weights: str = "cell-tiny"
    image_size: int = 224
    epochs: int = 150
    batch_size: int = 32
    lr: float = 1e-4
    weight_decay: float = 0.1
    warmup: int = 10
    rank: int = 4

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "warmup", "rank"):
            if getattr(self, name) < 1:
                raise CellfeatError(f"{name} is {getattr(self, name)}; at least 1 is needed")
        # Written so that nan is refused too.
        if not self.lr > 0:
            raise CellfeatError(f"lr is {self.lr:g}; a number above 0 is needed, such as 1e-4")
        if not self.weight_decay >= 0:
            raise CellfeatError(f"weight_decay is {self.weight_decay:g}; at least 0 is needed")


def finetune(
    pairs: Sequence[Any], folder: Path, settings: FinetuneSettings, saw: tuple[str, ...], context: Context
) -> list[float]:
    """Adapt named weights to images with masks and fill `folder` with the adapter; gives the mean loss of every epoch.

    Args:
        pairs: (image (H, W, 3) uint8 RGB, mask (H, W) bool), read once each.
        folder: existing and empty.
        saw: names the data, for the adapter's `weights_saw`.
        context: its scratch folder keeps a checkpoint until the end, from which the same call goes on after a kill.
    """
    path = find_weights(settings.weights, NAMED_WEIGHTS, progress=context.progress)
    frames = load_frames(pairs, settings.image_size, context)
    run = Finetuning(settings, path, frames, context)
    losses = run.fit()
    about = {
        "base": settings.weights,
        "base_sha256": file_sha256(path),
        "saw": list(saw),
        "images": len(frames.images),
        "seed": context.seed,
        "settings": asdict(settings),
        "epoch_losses": losses,
        "versions": {name: version(name) for name in ("cellfeat", "torch", "peft", "segment-anything")},
    }
    save_adapter(folder, run.network, run.lora, about)
    run.checkpoint.path.unlink(missing_ok=True)
    return losses


def epoch_rate(epoch: int, lr: float, epochs: int, warmup: int) -> float:
    """Learning rate of an epoch counted from 1: linear to `lr` over `warmup`, then half a cosine.

    The original divides by all epochs and not by those after the warm-up, so that it ends a little above 0. Runs of
    fewer than 10 × `warmup` epochs warm up over a tenth of them, where the original would hardly begin to learn.
    """
    warmup = min(warmup, max(1, epochs // 10))
    if epoch <= warmup:
        return lr * epoch / warmup
    return 0.5 * lr * (1 + math.cos(math.pi * (epoch - warmup) / epochs))


class Finetuning:
    """The state of one run."""

    def __init__(self, settings: FinetuneSettings, path: Path, frames: Frames, context: Context) -> None:
        self.settings, self.frames, self.context = settings, frames, context
        base = with_two_classes(read_weights(path), context.seed)
        base.state["pixel_mean"] = torch.tensor(frames.mean, dtype=torch.float32).view(3, 1, 1)
        base.state["pixel_std"] = torch.tensor(frames.std, dtype=torch.float32).clamp(min=1e-3).view(3, 1, 1)
        self.network = build_network(base, settings.image_size)
        with seeded(context.seed):
            self.lora = add_lora(self.network, settings.rank)
        self.network.to(context.device).train()
        self.trained = {name: value for name, value in self.network.named_parameters() if value.requires_grad}
        self.optimizer = torch.optim.AdamW(
            trained_parameters(self.network), lr=settings.lr, betas=(0.9, 0.999), weight_decay=settings.weight_decay
        )
        self.checkpoint = Checkpoint(context.scratch, "finetune")
        self.losses: list[float] = []
        self.identity = _identity(settings, path, frames, context.seed)
        # Half precision without scaled gradients loses small ones; bfloat16 has float32's range.
        self.dtype = torch.float32 if context.dtype == torch.float16 else context.dtype
        if self.dtype != context.dtype:
            context.note("fine-tuning trains in float32: fp16 would lose small gradients; bf16 is the faster choice")

    def fit(self) -> list[float]:
        """Train for all epochs that are left; gives the mean loss of every epoch."""
        self._restore()
        count, epochs = len(self.frames.images), self.settings.epochs
        saved = time.monotonic()
        with self.context.progress(epochs * count, "fine-tuning") as bar:
            bar.advance(len(self.losses) * count)
            for epoch in range(len(self.losses) + 1, epochs + 1):
                self._set_rate(epoch)
                total = 0.0
                for images, masks in self._batches(epoch):
                    total += self.step(images, masks) * len(images)
                    bar.advance(len(images))
                self.losses.append(total / count)
                if time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                    self._save()
                    saved = time.monotonic()
        return self.losses

    def step(self, images: Tensor, masks: Tensor) -> float:
        """One step on (B, 3, S, S) uint8 RGB and (B, S, S) bool; gives the loss before it."""
        images, masks = images.to(self.context.device), masks.to(self.context.device)
        with autocast(self.context.device, self.dtype):
            logits = self.network(images).logits
        loss = segmentation_loss(logits.float(), low_resolution(masks)).loss
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled and augmented; a function of seed and epoch alone, so that a resumed run sees the same."""
        order = np.random.default_rng((self.context.seed, epoch)).permutation(len(self.frames.images))
        for start in range(0, len(order), self.settings.batch_size):
            rows = order[start : start + self.settings.batch_size]
            made = [self._augmented(epoch, int(row)) for row in rows]
            images = torch.from_numpy(np.stack([image.transpose(2, 0, 1) for image, _ in made]))
            yield images, torch.from_numpy(np.stack([mask for _, mask in made]))

    def _augmented(self, epoch: int, row: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng((self.context.seed, epoch, row))
        return augment(self.frames.images[row], self.frames.masks[row], rng)

    def _set_rate(self, epoch: int) -> None:
        settings = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = epoch_rate(epoch, settings.lr, settings.epochs, settings.warmup)

    def _save(self) -> None:
        self.checkpoint.save(
            identity=self.identity,
            losses=self.losses,
            trained={name: value.detach() for name, value in self.trained.items()},
            optimizer=self.optimizer.state_dict(),
        )

    def _restore(self) -> None:
        state = self.checkpoint.load()
        if state is None or state["identity"] != self.identity:
            return
        with torch.no_grad():
            for name, value in self.trained.items():
                value.copy_(state["trained"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.losses = list(state["losses"])
        self.context.note(f"fine-tuning goes on after epoch {len(self.losses)} of {self.settings.epochs}")


def _identity(settings: FinetuneSettings, path: Path, frames: Frames, seed: int) -> str:
    """Digest of all that the result depends on: a checkpoint of another run is not continued."""
    digest = hashlib.sha256(repr((asdict(settings), file_sha256(path), seed)).encode())
    digest.update(frames.images.tobytes())
    digest.update(frames.masks.tobytes())
    return digest.hexdigest()
