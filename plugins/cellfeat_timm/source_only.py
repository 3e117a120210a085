"""The aligner `source-only`: a network trained end to end on the labelled source cells, with its own head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from cellfeat import CellfeatError, Cells, Context, file_sha256, load_module, load_state, save_state
from cellfeat_timm.backbone import checked_size
from cellfeat_timm.pretrained import find_source, published_config

if TYPE_CHECKING:
    import torch

INFERENCE_BATCH = 16  # every forward pass after training has this shape, the last batch padded


class SourceOnly:
    """Cross-entropy fine-tuning of a timm network on the source alone: what adaptation has to beat.

    The "ResNext" row of BC-SAM and DoRL, for which neither gives a program; optimiser and schedule are those of
    wbc-benchmark: AdamW, a linear warm-up over a tenth of the epochs, then a cosine to zero. It reads the cell's image
    in the frame of the run's backbone; whatever that backbone computes plays no part.

    model, weights: as for the backbone `timm`. image_size: size to which the frame is resized; its own unless given.
    augment: "none"; "flip", the eight orientations; or "stain", which adds stain, scale and blur. norm: "group" turns
    batch into group normalisation, which does not depend on a laboratory's statistics.

    The features are the network's pooled vector before its classifier; `predict_proba` has a column per entry of
    `classes_`.
    """

    reads = ("image",)
    writes = "pooled"
    uses_target = False
    uses_labels = True

    def __init__(
        self,
        model: str = "resnext50_32x4d.tv_in1k",
        weights: str = "imagenet",
        image_size: int | None = None,
        epochs: int = 100,
        batch_size: int = 128,
        learning_rate: float = 1e-4,
        warmup_epochs: int | None = None,
        augment: Literal["none", "flip", "stain"] = "flip",
        norm: Literal["batch", "group"] = "batch",
    ) -> None:
        published_config(model)
        checked_size(image_size)
        # Batch normalisation needs two cells to learn from.
        for name, value, least in (
            ("epochs", epochs, 1),
            ("batch_size", batch_size, 2),
            ("warmup_epochs", warmup_epochs, 0),
        ):
            if value is not None and value < least:
                raise CellfeatError(f"{name}={value} is not possible: give at least {least}")
        if not learning_rate > 0:
            raise CellfeatError(f"learning_rate={learning_rate} is not possible: give a number above 0")
        self.model, self.weights, self.image_size = model, weights, image_size
        self.epochs, self.batch_size, self.learning_rate = epochs, batch_size, learning_rate
        self.warmup_epochs, self.augment, self.norm = warmup_epochs, augment, norm
        self.network: torch.nn.Module | None = None

    def prepare(self, context: Context) -> None:
        """Refuse weights that cannot be had, before a long run begins."""
        find_source(self.model, self.weights, "align", context)

    def fit(self, cells: Cells, context: Context) -> Self:
        """Train on every row whose label is shown; rows with label -1 are not looked at."""
        from cellfeat_timm.finetune import Task, train

        rows = np.flatnonzero(cells.label >= 0)
        classes, targets = np.unique(cells.label[rows], return_inverse=True)
        if len(classes) < 2:
            raise CellfeatError(f"source-only learns to tell classes apart, but the labelled cells have {len(classes)}")
        source = find_source(self.model, self.weights, "align", context)
        self.classes_ = classes
        self.size_ = self.image_size or cells.column("image").shape[-1]
        network = self._build(source.file, context.seed)
        self.weights_saw = source.saw
        self.weights_sha256 = file_sha256(source.file) if source.file else None
        self.network = train(network, Task(cells, rows, targets, self._pixels, self._params()), context)
        return self

    def transform(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, D) float32: the pooled vectors."""
        return self._forward(cells, context, pre_logits=True)

    def predict_proba(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, K) float32, rows sum to 1, columns in the order of `classes_`."""
        logits = self._forward(cells, context, pre_logits=False)
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponents / exponents.sum(axis=1, keepdims=True)

    def save(self, folder: Path) -> None:
        meta = {
            "params": self._params(),
            "classes": self.classes_.tolist(),
            "size": self.size_,
            "weights_saw": self.weights_saw,
            "weights_sha256": self.weights_sha256,
        }
        save_state(folder, self._fitted().state_dict(), meta)

    @classmethod
    def load(cls, folder: Path) -> Self:
        _, meta = load_state(folder)
        method = cls(**meta["params"])
        method.classes_, method.size_ = np.array(meta["classes"], dtype=np.int64), meta["size"]
        saw = meta["weights_saw"]
        method.weights_saw, method.weights_sha256 = saw if saw is None else tuple(saw), meta["weights_sha256"]
        method.network = method._build(None, seed=0)
        load_module(folder, method.network)
        return method

    def _params(self) -> dict[str, Any]:
        names = ("model", "weights", "image_size", "epochs", "batch_size", "learning_rate", "warmup_epochs")
        return {name: getattr(self, name) for name in (*names, "augment", "norm")}

    def _build(self, weights: Path | None, seed: int) -> torch.nn.Module:
        from cellfeat_timm.network import build, to_group_norm

        network = build(self.model, weights, size=self.size_, num_classes=len(self.classes_), seed=seed)
        return to_group_norm(network) if self.norm == "group" else network

    def _pixels(self, images: torch.Tensor, device: torch.device) -> torch.Tensor:
        """(B, 3, S, S) uint8 -> (B, 3, size, size) float RGB in 0..1 on the device."""
        import torch.nn.functional as functional

        pixels = images.to(device, non_blocking=True).float() / 255
        if pixels.shape[-1] == self.size_:
            return pixels
        return functional.interpolate(pixels, size=(self.size_, self.size_), mode="bilinear", antialias=True)

    def _fitted(self) -> Any:
        if self.network is None:
            raise CellfeatError("source-only has not been fitted yet: call fit, or load a saved one")
        return self.network

    def _forward(self, cells: Cells, context: Context, pre_logits: bool) -> np.ndarray:
        import torch

        from cellfeat.training import autocast
        from cellfeat_timm.network import normalised

        network = self._fitted().to(context.device).eval()
        answers = []
        with (
            context.progress(len(cells), "source-only: applying") as bar,
            torch.inference_mode(),
            autocast(context.device, context.dtype),
        ):
            for rows, columns in cells.batches(("image",), INFERENCE_BATCH):
                images = columns["image"]
                padding = images[-1:].expand(INFERENCE_BATCH - len(images), -1, -1, -1)
                pixels = self._pixels(torch.cat([images, padding]), context.device)
                features = network.forward_features(normalised(pixels, self.model))
                answer = network.forward_head(features, pre_logits=pre_logits).flatten(1)
                answers.append(answer[: len(rows)].float().cpu().numpy())
                bar.advance(len(rows))
        return np.concatenate(answers)
