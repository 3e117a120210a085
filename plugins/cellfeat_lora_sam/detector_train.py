"""Training the detector's head on the tokens of a frozen encoder: what `cellfeat lora-sam train-detector` does."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cellfeat import CellfeatError, Context, Workplace, file_sha256, find_weights, load_photographs
from cellfeat.training import Checkpoint, autocast, seeded, warmup_cosine
from cellfeat_lora_sam.backbone import LoraSam
from cellfeat_lora_sam.detector_check import Counted, best_threshold, counted, scored
from cellfeat_lora_sam.detector_find import Encode, build_head, find_cells, head_bytes, read_head
from cellfeat_lora_sam.detector_head import DetectorHead
from cellfeat_lora_sam.detector_targets import detection_loss
from cellfeat_lora_sam.detector_tokens import DetectorSettings, encoded_tiles, kept_cells, write_whole
from cellfeat_lora_sam.named import DETECTOR_WEIGHTS, NAMED_WEIGHTS
from cellfeat_lora_sam.pretrain_run import DRAWN_SAW, but, check_output, read_ids

ENCODER = "cell-tiny-v1"
WARMUP = 0.05  # of the steps
DECAY, CLIP = 0.01, 5.0
NOTED_EVERY = 100  # steps
VALIDATION, TEST = 0, 1  # parts of the drawn photographs that are never trained on
TRAINABLE = (torch.float32, torch.bfloat16)


def train_detector(
    settings: DetectorSettings,
    output: Path,
    manifest: str | None,
    domains: Sequence[str],
    leave_out: Path | None,
    work: Workplace,
) -> Counted:
    """Train a head and write it to `output`; a second start goes on where a killed one was.

    manifest: photographs of single cells; no label is read. Without: drawn smears alone.

    Returns:
        what was found on drawn photographs that neither the weights nor the threshold saw.

    Raises:
        CellfeatError: for an output that cannot be a file of weights, and for what is wrong with data or settings.
    """
    check_output(output)
    if manifest is None and (domains or leave_out is not None):
        raise CellfeatError("--domain and --leave-out name photographs; name their manifest too (--data)")
    left_out = read_ids(leave_out)
    encoder = find_weights(ENCODER, NAMED_WEIGHTS)
    dataset = None if manifest is None else load_photographs(manifest, domains, left_out, work)
    key = [asdict(settings), work.precision, version("cellfeat"), file_sha256(encoder), dataset and dataset.digest]
    context = work.context(settings.seed, "detector", key)
    if context.dtype not in TRAINABLE:
        raise CellfeatError(f"precision is {context.dtype}; a detector trains in fp32 or bf16")
    cells = None if dataset is None else kept_cells(settings, [Path(path) for path in dataset.path], encoder, context)
    sam = LoraSam(ENCODER, context=context)
    training = Training(settings, encoded_tiles(settings, cells, sam.tokens, context), context)
    training.run()
    head = training.averaged()
    threshold, found = checked(settings, sam.tokens, head)
    saw = [
        DRAWN_SAW,
        *(f"{name} (images without labels{but(left_out)})" for name in (dataset.domains if dataset else ())),
    ]
    about = {"threshold": threshold, "drawn": found._asdict(), "saw": list(dict.fromkeys([*sam.weights_saw, *saw]))}
    write_whole(output, head_bytes(head, _about(training, sam) | about))
    shutil.rmtree(context.scratch, ignore_errors=True)  # the tiles are more than a gigabyte
    return found


def _about(training: Training, sam: LoraSam) -> dict[str, Any]:
    """How the head was made, and what it belongs to."""
    return {
        "widths": [training.tokens, training.settings.width],
        "encoder": ENCODER,
        "encoder_sha256": sam.weights_sha256,
        "settings": asdict(training.settings),
        "precision": str(training.context.dtype).removeprefix("torch."),
        "history": training.history,
        "versions": {name: version(name) for name in ("cellfeat", "torch")},
    }


class Training:
    """The state of one training: the head, its running mean, the optimizer and the step."""

    def __init__(self, settings: DetectorSettings, tiles: dict[str, Tensor], context: Context) -> None:
        self.settings, self.tiles, self.context = settings, tiles, context
        with seeded(settings.seed):
            self.tokens = tiles["tokens"].shape[1]
            self.head = DetectorHead(self.tokens, settings.width)
        self.head.to(context.device)
        self.optimizer = torch.optim.AdamW(self.head.parameters(), settings.lr, weight_decay=DECAY)
        self.mean = {name: value.detach().clone() for name, value in self.head.state_dict().items()}
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.sums: dict[str, float] = {}

    def run(self) -> None:
        """Train to the end, from the newest checkpoint."""
        checkpoint = Checkpoint(self.context.scratch, "detector")
        state = checkpoint.load()
        if state is not None:
            self._restore(state)
            self.context.note(f"training goes on after step {self.step} of {self.settings.steps}")
        with self.context.progress(self.settings.steps, "training the detector") as bar:
            bar.advance(self.step)
            while self.step < self.settings.steps:
                self._train_step()
                bar.advance()
                checkpoint.save_when_due(self._state)
        checkpoint.save(**self._state())

    def averaged(self) -> DetectorHead:
        """The head with the running mean of its weights, rounded to the float16 that are kept."""
        self.head.load_state_dict({name: value.half().float() for name, value in self.mean.items()})
        return self.head.eval().requires_grad_(False)

    def _train_step(self) -> None:
        settings, device = self.settings, self.context.device
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + self.step)
        rows = torch.randint(len(self.tiles["tokens"]), (settings.batch_size,), generator=generator)
        batch = {name: values[rows].to(device) for name, values in self.tiles.items()}
        factor = warmup_cosine(self.step, max(1, round(WARMUP * settings.steps)), settings.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lr * factor
        with autocast(device, self.context.dtype):
            told = self.head(batch["tokens"].float(), batch["image"])
        terms = detection_loss(told, batch["boxes"], batch["counted"])
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        nn.utils.clip_grad_norm_(self.head.parameters(), CLIP)
        self.optimizer.step()
        self.step += 1
        decay = min(0.995, self.step / (self.step + 10))  # short at first: the start is no good guess
        for name, value in self.head.state_dict().items():
            self.mean[name].lerp_(value, 1 - decay)
        self._note({name: value.item() for name, value in terms.items()})

    def _note(self, terms: dict[str, float]) -> None:
        broken = [name for name, value in terms.items() if not math.isfinite(value)]
        if broken:
            raise CellfeatError(
                f"training: {broken[0]} is no number at step {self.step}; try a lower --lr (now {self.settings.lr:g})"
            )
        self.sums = {name: 0.98 * self.sums.get(name, value) + 0.02 * value for name, value in terms.items()}
        if self.step % NOTED_EVERY == 0 or self.step == self.settings.steps:
            self.history.append({"step": self.step, **{name: round(value, 4) for name, value in self.sums.items()}})
            said = ", ".join(f"{name} {value:.4f}" for name, value in self.sums.items())
            self.context.note(f"step {self.step}: {said}")

    def _state(self) -> dict[str, Any]:
        own = {"head": self.head.state_dict(), "optimizer": self.optimizer.state_dict(), "mean": self.mean}
        return own | {"step": self.step, "history": self.history, "sums": self.sums}

    def _restore(self, state: dict[str, Any]) -> None:
        self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.mean = {name: value.to(self.context.device) for name, value in state["mean"].items()}
        self.step, self.history, self.sums = state["step"], state["history"], state["sums"]


def recheck_detector(weights: str, output: Path, work: Workplace) -> tuple[float, Counted]:
    """Choose the threshold of a trained head anew, and write it to `output` as training now would have ended.

    Raises:
        CellfeatError: for an output that cannot be a file of weights, and for what is no head.
    """
    check_output(output)
    file = read_head(find_weights(weights, DETECTOR_WEIGHTS))
    settings = DetectorSettings(**file.about["settings"])
    sam = LoraSam(file.about["encoder"], context=work.context(settings.seed, "recheck", [file.about]))
    head = build_head(file).to(sam.device)
    threshold, found = checked(settings, sam.tokens, head)
    write_whole(output, head_bytes(head, file.about | {"threshold": threshold, "drawn": found._asdict()}))
    return threshold, found


def checked(settings: DetectorSettings, encode: Encode, head: DetectorHead) -> tuple[float, Counted]:
    """The threshold with the best F2 on drawn photographs, and what it finds on as many others."""

    def find(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return find_cells(image, encode, head, 0.0)

    threshold = best_threshold(scored(find, settings.seed, settings.checked, VALIDATION))
    return threshold, counted(scored(find, settings.seed, settings.checked, TEST), threshold)
