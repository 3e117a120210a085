"""Fine-tuning on images with masks: LoRA in the encoder, the whole decoder (DoRL, arXiv 2408.07467, stage 1)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cellfeat import CellfeatError, Context, distributed, file_sha256, find_weights, pictures
from cellfeat.training import Checkpoint, fast_float32, seeded
from cellfeat_lora_sam.adapter import add_lora, save_adapter, trained_parameters
from cellfeat_lora_sam.checkpoints import SamWeights, build_network, read_weights, with_cell_decoder
from cellfeat_lora_sam.distillation import keeping_loss, teacher_of
from cellfeat_lora_sam.finetune_data import Frames, augment, load_frames
from cellfeat_lora_sam.losses import block_centres, low_resolution, segmentation_loss
from cellfeat_lora_sam.named import NAMED_WEIGHTS, lasting_name
from cellfeat_lora_sam.network import TWO_CLASSES, WITH_NUCLEUS, SamOutput, two_class_mask

CHECK_EVERY = 20  # steps between two looks at the losses; each look makes a GPU wait
TERMS = ("loss", "cross-entropy", "1 - Dice")
KEPT_TERMS = ("nucleus", "quality")  # of networks that tell the nucleus
EXAMPLES = 8


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
    accumulate: int = 1
    stop_after: int | None = None  # epochs, where the schedule of all of them is to be broken off
    own_colours: bool | None = None  # None: as the weights were trained

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "warmup", "rank", "accumulate", "stop_after"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
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
    history = run.fit()
    about = {
        "base": lasting_name(settings.weights),
        "base_sha256": file_sha256(path),
        "own_colours": run.network.own_colours,
        "saw": list(saw),
        "images": len(frames.images),
        "seed": context.seed,
        "settings": asdict(settings),
        "epoch_losses": history,
        "versions": {name: version(name) for name in ("cellfeat", "torch", "peft", "segment-anything")},
    }
    save_adapter(folder, run.network, run.lora, about)
    draw(folder, history, run.examples())
    if distributed.is_main():
        run.checkpoint.path.unlink(missing_ok=True)
    return history["loss"]


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
        base, size, own = with_cell_decoder(read_weights(path), context.seed), settings.image_size, settings.own_colours
        self.network = build_network(_with_colours(base, frames, own), size, own)
        self.teacher = teacher_of(base, size, own).to(context.device) if base.masks == WITH_NUCLEUS else None
        self.terms = TERMS if self.teacher is None else TERMS + KEPT_TERMS
        with seeded(context.seed):
            self.lora = add_lora(self.network, settings.rank)
        self.network.to(context.device).train()
        self.trained = {name: value for name, value in self.network.named_parameters() if value.requires_grad}
        self.optimizer = torch.optim.AdamW(
            trained_parameters(self.network), lr=settings.lr, betas=(0.9, 0.999), weight_decay=settings.weight_decay
        )
        self.checkpoint = Checkpoint(context.scratch, "finetune")
        self.epochs = min(settings.epochs, settings.stop_after or settings.epochs)
        self.steps_per_epoch = math.ceil(len(frames.images) / settings.batch_size)
        self.history: list[list[float]] = []  # per epoch: the loss and its terms
        self.begun: list[Tensor] = []  # the same times the images, per step of the epoch that is going on
        self.done = 0  # steps
        self.identity = _identity(settings, path, frames, context)
        self._scaler: dict[str, Any] = {}  # what a checkpoint kept of it
        if context.dtype == torch.float16 and context.device.type == "cpu":
            context.note("fine-tuning: fp16 trains on a GPU alone; here it trains in fp32 (bf16 works on the CPU)")

    def fit(self) -> dict[str, list[float]]:
        """Train for all steps that are left; gives the mean loss and its terms, epoch by epoch."""
        self._restore()
        count, epochs = len(self.frames.images), self.epochs
        with (
            fast_float32(self.context.device),
            # As published, the prompt encoder's parameters are trained but take no part; nor does, of two masks, the
            # quality head.
            distributed.accelerated(self.context, self.settings.accumulate, all_used=False) as self.accelerator,
            self.context.progress(
                epochs * self.steps_per_epoch, f"fine-tuning · {epochs} epochs, {count} images"
            ) as bar,
        ):
            self.wrapped, self.stepper = self.accelerator.prepare(self.network, self.optimizer)
            if self.accelerator.scaler and self._scaler:
                self.accelerator.scaler.load_state_dict(self._scaler)
            if self.done:
                bar.advance(self.done)
            for epoch in range(self.done // self.steps_per_epoch + 1, epochs + 1):
                self._epoch(epoch, bar)
            self.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False)
        return {name: [epoch[i] for epoch in self.history] for i, name in enumerate(self.terms)}

    def _epoch(self, epoch: int, bar: Any) -> None:
        """One epoch, counted from 1, or what is left of it."""
        rate = epoch_rate(epoch, self.settings.lr, self.settings.epochs, self.settings.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batches = self._batches(epoch)
        for rows in batches[self.done - (epoch - 1) * self.steps_per_epoch :]:
            self.begun.append(self.step(epoch, rows) * len(rows))
            self.done += 1
            last = self.done == epoch * self.steps_per_epoch
            if last or self.done == 1 or self.done % CHECK_EVERY == 0 or self.checkpoint.due():
                self._check(epoch)
            if last:
                self.history.append((torch.stack(self.begun).sum(dim=0) / len(self.frames.images)).tolist())
                self.begun = []
            self.checkpoint.save_when_due(self._state)
            bar.advance(1)

    def step(self, epoch: int, rows: np.ndarray) -> Tensor:
        """One step on these images; gives the loss and its terms before it, (3,) or (5,), on the device."""
        device, accumulate = self.context.device, self.settings.accumulate
        sums = torch.zeros(len(self.terms), device=device)
        for part in distributed.divided(len(rows), accumulate):
            made = [self._augmented(epoch, int(row)) for row in rows[part.rows]]
            images = torch.from_numpy(np.stack([image.transpose(2, 0, 1) for image, _ in made])).to(device)
            masks = torch.from_numpy(np.stack([mask for _, mask in made])).to(device)
            with self.accelerator.accumulate(self.wrapped):
                terms = self._losses(images, self.wrapped(images), self._targets(masks), part)
                self.accelerator.backward(terms[0])
                self.stepper.step()
                self.stepper.zero_grad()
            sums += torch.stack(terms).detach() / accumulate
        # In every step, so that a checkpoint holds the whole batch's and all processes stop at the same one.
        return self.accelerator.reduce(sums, "mean")

    def _targets(self, masks: Tensor) -> Tensor:
        """Masks (B, S, S) at the decoder's resolution: as published, or as in pre-training."""
        return low_resolution(masks) if self.teacher is None else block_centres(masks)

    def _losses(self, images: Tensor, output: SamOutput, cell: Tensor, part: distributed.Part) -> tuple[Tensor, ...]:
        """The loss and its terms for cells (B, S/4, S/4)."""
        terms = segmentation_loss(output.logits[:, :TWO_CLASSES].float(), cell, part)
        if self.teacher is None:
            return tuple(terms)
        with torch.no_grad(), self.accelerator.autocast():
            before = self.teacher(images)
        kept = keeping_loss(output, before, cell, part)
        return (terms.loss + kept.loss, *terms[1:], *kept[1:])

    def examples(self) -> dict[str, np.ndarray]:
        """A few training images with their masks and those of the tuned network, in the frame's size."""
        rows = np.arange(min(EXAMPLES, len(self.frames.images)))
        images = self.frames.images[rows]
        with torch.no_grad():
            batch = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(self.context.device)
            found = two_class_mask(self.network(batch).logits.float(), self.settings.image_size).cpu().numpy()
        empty = int((~found.any(axis=(1, 2))).sum())
        if empty:
            self.context.note(
                f"fine-tuning: the tuned network finds no cell in {empty} of the {len(rows)} training images that were "
                "looked at; train for more epochs, or look at the masks (masks.png in the adapter's folder)"
            )
        return {"image": images, "mask": self.frames.masks[rows], "found": found}

    def _batches(self, epoch: int) -> list[np.ndarray]:
        """Rows of shuffled images; a function of seed and epoch alone, so that a resumed run sees the same."""
        order = np.random.default_rng((self.context.seed, epoch)).permutation(len(self.frames.images))
        size = self.settings.batch_size
        return [order[start : start + size] for start in range(0, len(order), size)]

    def _augmented(self, epoch: int, row: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng((self.context.seed, epoch, row))
        return augment(self.frames.images[row], self.frames.masks[row], rng)

    def _check(self, epoch: int) -> None:
        """Stop when the loss is no number any more."""
        finite = torch.stack(self.begun)[:, 0].isfinite().cpu()
        if bool(finite.all()):
            return
        step = self.done - len(self.begun) + int((~finite).nonzero()[0, 0]) + 1
        lr, epochs = self.settings.lr, self.epochs
        raise CellfeatError(
            f"fine-tuning: the loss is no number at step {step} of {epochs * self.steps_per_epoch} (epoch {epoch} of "
            f"{epochs}); try a lower learning rate (lr {lr / 10:g}, now {lr:g}) or "
            "--precision fp32"
        )

    def _state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "identity": self.identity,
            "done": self.done,
            "history": self.history,
            "begun": [step.cpu() for step in self.begun],
            "trained": {name: value.detach() for name, value in self.trained.items()},
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else {},
        }

    def _restore(self) -> None:
        state = self.checkpoint.load()
        if state is None:
            return
        if state.get("identity") != self.identity:
            self.context.note(f"{self.checkpoint.path} belongs to other data or settings; fine-tuning starts anew")
            return
        with torch.no_grad():
            for name, value in self.trained.items():
                value.copy_(state["trained"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history, self.done, self._scaler = state["history"], state["done"], state["scaler"]
        self.begun = [step.to(self.context.device) for step in state["begun"]]
        self.context.note(f"fine-tuning goes on after step {self.done} of {self.epochs * self.steps_per_epoch}")


def _with_colours(weights: SamWeights, frames: Frames, own_colours: bool | None) -> SamWeights:
    """The weights with the training images' mean and deviation, unless each image is standardised by its own."""
    if weights.own_colours if own_colours is None else own_colours:
        return weights
    mean, std = torch.tensor(frames.mean, dtype=torch.float32), torch.tensor(frames.std, dtype=torch.float32)
    colours = {"pixel_mean": mean.view(3, 1, 1), "pixel_std": std.clamp(min=1e-3).view(3, 1, 1)}
    return weights._replace(state=weights.state | colours)


def draw(folder: Path, history: dict[str, list[float]], examples: dict[str, np.ndarray]) -> None:
    """The loss curves and a few training images with both masks, as PNG into the adapter's folder."""
    pictures.loss_curves(folder / "losses.png", history, "lora-sam: fine-tuning")
    rows = {"original": examples["image"], "mask": examples["mask"], "tuned network": examples["found"]}
    pictures.image_grid(folder / "masks.png", rows, title="lora-sam: training images")


def _identity(settings: FinetuneSettings, path: Path, frames: Frames, context: Context) -> str:
    """Digest of all that the result depends on: a checkpoint of another run is not continued."""
    parts = (asdict(settings), file_sha256(path), context.seed, str(context.dtype))
    digest = hashlib.sha256(repr(parts).encode())
    digest.update(frames.images.tobytes())
    digest.update(frames.masks.tobytes())
    return digest.hexdigest()
