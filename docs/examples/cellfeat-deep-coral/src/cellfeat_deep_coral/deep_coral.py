"""Align `deep-coral`: a network whose classifier's outputs covary alike in all laboratories, after Sun and Saenko."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from cellfeat import CellfeatError, Cells, Context, load_module, load_state, save_state, training

if TYPE_CHECKING:
    from cellfeat_deep_coral.network import CoralNetwork

INFERENCE_BATCH = 32  # every pass after training has this shape, the last one padded: equal to the last bit


@dataclass(eq=False)
class DeepCoral:
    """Deep CORAL: cross-entropy of labelled cells + coral_weight * distance of the source's and target's covariances.

    Sun and Saenko, "Deep CORAL: Correlation Alignment for Deep Domain Adaptation", ECCV 2016 Workshops, arXiv
    1607.01719: SGD with momentum 0.9 and weight decay 5e-4, a classifier ten times as fast as the layers below it,
    the loss ||C_S - C_T||^2 / (4 d^2) on the classifier's d outputs, in batches of as many source as target cells.

    model: a network of timm. weights: "random", or a file with the state dictionary of that network, with or
    without its classifier. image_size: of the network's input; by default as the cells' images come.
    coral_on: "logits" as published, or "features", the vectors that the classifier sees.
    coral_weight: lambda. The paper sets it so that both losses end about equal; `history_` has them by epoch.

    After fit: `classes_`, the labels it saw, sorted; `history_`, mean losses by epoch; `weights_saw`.

    Departures: any timm network instead of AlexNet, and from random weights unless a file is given, where the paper
    starts from ImageNet; with random weights the classifier is no faster than the rest. The learning rate, in the
    paper 1e-3, warms up and falls along a cosine. Images are mirrored. Batch normalisation, which AlexNet has not,
    sees source and target as one batch. Several sources make one C_S and several targets one C_T. Labelled target
    cells, which a few-shot protocol reveals, are trained on as labelled ones. Batches hold 32 cells of each side, in
    the paper 128. Without unlabelled target cells the
    cross-entropy alone is trained, and that is said.
    """

    model: str = "resnet18"
    weights: str = "random"
    image_size: int | None = None
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 0.01
    weight_decay: float = 5e-4
    coral_weight: float = 1.0
    coral_on: Literal["logits", "features"] = "logits"

    reads: ClassVar[tuple[str, ...]] = ("image",)
    writes: ClassVar[str] = "pooled"
    uses_target: ClassVar[bool] = True
    uses_labels: ClassVar[bool] = True

    # Facts that are declared, shown by `cellfeat plugins info deep-coral` and stamped on records.
    several_sources: ClassVar[bool] = True
    deterministic: ClassVar[bool] = True  # on a CPU; on a GPU the last digits are the libraries' affair
    paper: ClassVar[str] = "Sun and Saenko, ECCV 2016 Workshops, arXiv:1607.01719"

    def __post_init__(self) -> None:
        for name, least in {"epochs": 1, "batch_size": 2, "weight_decay": 0, "coral_weight": 0}.items():
            if not getattr(self, name) >= least:
                raise CellfeatError(f"align 'deep-coral': {name} must be at least {least}, got {getattr(self, name):g}")
        if not self.learning_rate > 0:
            raise CellfeatError(f"align 'deep-coral': learning_rate must be above 0, got {self.learning_rate:g}")
        if self.image_size is not None and self.image_size < 8:
            raise CellfeatError(f"align 'deep-coral': image_size must be at least 8 pixels, got {self.image_size}")
        self.network: CoralNetwork | None = None

    def prepare(self, context: Context) -> None:
        """Refuse a model or weights that cannot be had, before a long run begins."""
        from cellfeat_deep_coral.network import published_config, weights_file

        published_config(self.model)
        weights_file(self.weights)

    def fit(self, cells: Cells, context: Context) -> Self:
        """Train on rows whose label is shown and adapt to target rows without one."""
        from cellfeat_deep_coral.loop import Material, Trainer
        from cellfeat_deep_coral.network import load_trunk, weights_file

        labelled = np.flatnonzero(cells.label >= 0)
        self.classes_, classes = np.unique(cells.label[labelled], return_inverse=True)
        if len(self.classes_) < 2:
            raise CellfeatError(
                f"align 'deep-coral' learns to tell classes apart, but the labelled cells have {len(self.classes_)}"
            )
        unlabelled = np.flatnonzero(cells.is_target & (cells.label < 0))
        if len(unlabelled) < 2:  # of which there is no covariance
            context.note("deep-coral: no unlabelled target cells to adapt to; it learns from the labelled cells alone")
            unlabelled = unlabelled[:0]
        path = weights_file(self.weights)
        self.weights_saw: tuple[str, ...] | None = None if path else ()  # a file does not say what it was trained on
        self.size_ = self.image_size or cells.column("image").shape[-1]
        network = self._built(context.seed)
        if path is not None:
            load_trunk(network, self.model, path)
        self.history_ = Trainer(network, Material(cells, labelled, classes, unlabelled), asdict(self), context).run()
        self.network = network
        return self

    def transform(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, D) float32: the vectors that the classifier sees, of cells of any domain."""
        return self._answers(cells, context)[0]

    def predict_proba(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, K) float32, rows sum to 1, columns in the order of `classes_`."""
        logits = self._answers(cells, context)[1]
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponents / exponents.sum(axis=1, keepdims=True)

    def save(self, folder: Path) -> None:
        meta = {"params": asdict(self), "classes": self.classes_.tolist(), "size": self.size_}
        learned = {"history": self.history_, "weights_saw": self.weights_saw}
        save_state(folder, self._fitted().state_dict(), meta | learned)

    @classmethod
    def load(cls, folder: Path) -> Self:
        _, meta = load_state(folder)
        method = cls(**meta["params"])
        method.classes_, method.size_ = np.array(meta["classes"], np.int64), meta["size"]
        method.history_, saw = meta["history"], meta["weights_saw"]
        method.weights_saw = None if saw is None else tuple(saw)
        network = method._built(seed=0)  # random numbers that the file's take the place of
        load_module(folder, network)
        method.network = network.eval()
        return method

    def _built(self, seed: int) -> CoralNetwork:
        from cellfeat_deep_coral.network import CoralNetwork

        with training.seeded(seed):
            return CoralNetwork(self.model, self.size_, len(self.classes_))

    def _fitted(self) -> CoralNetwork:
        if self.network is None:
            raise CellfeatError("align 'deep-coral' has not been fitted yet: call fit, or load a saved one")
        return self.network

    def _answers(self, cells: Cells, context: Context) -> tuple[np.ndarray, np.ndarray]:
        """(N, D) features and (N, K) logits, float32."""
        import torch

        network = self._fitted().to(context.device)
        found: list[Any] = []
        with (
            torch.inference_mode(),
            training.autocast(context.device, context.dtype),
            context.progress(len(cells), "deep-coral: applying") as bar,
        ):
            for rows, columns in cells.batches(("image",), INFERENCE_BATCH):
                images = columns["image"]
                padding = images[-1:].expand(INFERENCE_BATCH - len(images), *images.shape[1:])
                answers = network(torch.cat([images, padding]).to(context.device))
                found.append([answer[: len(rows)].float().cpu().numpy() for answer in answers])
                bar.advance(len(rows))
        features, logits = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return features, logits
