"""What all trained networks here share as align methods: features, own head, saving and loading."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from cellfeat import CellfeatError, Cells, Context, file_sha256, load_module, load_state, save_state
from cellfeat_timm.pretrained import find_source

if TYPE_CHECKING:
    import torch

    from cellfeat_timm.inputs import Inputs


class TrainedNetwork(ABC):
    """Base of the align methods here.

    After fit: `network`; `classes_`, the labels it saw, sorted; `selected_epoch_`, the number of epochs that it was
    trained for when it was kept; `weights_saw` and `weights_sha256` of the pretrained weights.
    """

    name: ClassVar[str]
    network: torch.nn.Module | None = None
    model: str
    weights: str
    epochs: int
    selected_epoch_: int
    size_: int | None = None  # pixels of the network's input, where it is an image

    @abstractmethod
    def _build(self, weights: Path | None, seed: int) -> torch.nn.Module:
        """The network for `classes_` and `size_`; weights None draws them from `seed`."""

    @abstractmethod
    def _inputs(self) -> Inputs:
        """What the network reads, and how."""

    @abstractmethod
    def _answer(self, network: Any, batch: torch.Tensor, head: bool) -> torch.Tensor:
        """(B, D) features, or (B, K) logits for `head`."""

    def prepare(self, context: Context) -> None:
        """Refuse weights that cannot be had, before a long run begins."""
        if "image" in self._reads():
            find_source(self.model, self.weights, "align", context)

    def transform(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, D) float32: the vectors that the network's classifier sees."""
        return self._applied(cells, context, head=False)

    def predict_proba(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, K) float32, rows sum to 1, columns in the order of `classes_`."""
        return softmax(self._applied(cells, context, head=True))

    def save(self, folder: Path) -> None:
        meta = {
            "params": self._params(),
            "classes": self.classes_.tolist(),
            "size": self.size_,
            "selected_epoch": self.selected_epoch_,
            "weights_saw": self.weights_saw,
            "weights_sha256": self.weights_sha256,
        }
        save_state(folder, self._fitted().state_dict(), meta | self._sizes())

    @classmethod
    def load(cls, folder: Path) -> Self:
        _, meta = load_state(folder)
        method = cls(**meta["params"])
        method.classes_, method.size_ = np.array(meta["classes"], dtype=np.int64), meta["size"]
        method.selected_epoch_ = meta.get("selected_epoch", method.epochs)  # which older files do not have
        saw = meta["weights_saw"]
        method.weights_saw, method.weights_sha256 = saw if saw is None else tuple(saw), meta["weights_sha256"]
        for name in method._sizes():
            setattr(method, name, meta[name])
        method.network = method._build(None, seed=0)
        load_module(folder, method.network)
        return method

    def _reads(self) -> tuple[str, ...]:
        return self.reads  # type: ignore[attr-defined]

    def _sizes(self) -> dict[str, Any]:
        """What else, by attribute, the network's layers were sized by."""
        return {}

    def _params(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def _labelled(self, cells: Cells) -> tuple[np.ndarray, np.ndarray]:
        """(rows whose label is shown, their targets 0..K-1); sets `classes_`."""
        rows = np.flatnonzero(cells.label >= 0)
        classes, targets = np.unique(cells.label[rows], return_inverse=True)
        if len(classes) < 2:
            raise CellfeatError(f"{self.name} learns to tell classes apart, but the labelled cells have {len(classes)}")
        self.classes_ = classes
        return rows, targets

    def _find_weights(self, context: Context) -> Path | None:
        """The file of the pretrained weights, None for random ones; sets what they are known by."""
        source = find_source(self.model, self.weights, "align", context)
        self.weights_saw = source.saw
        self.weights_sha256 = file_sha256(source.file) if source.file else None
        return source.file

    def _fitted(self) -> Any:
        if self.network is None:
            raise CellfeatError(f"{self.name} has not been fitted yet: call fit, or load a saved one")
        return self.network

    def _applied(self, cells: Cells, context: Context, head: bool) -> np.ndarray:
        network = self._fitted().to(context.device).eval()
        with context.progress(len(cells), f"{self.name}: applying") as bar:
            return self._asked(network, cells, context, head, bar)

    def _asked(self, network: Any, cells: Cells, context: Context, head: bool, bar: Any = None) -> np.ndarray:
        """The answers of a network in evaluation mode, also of one in the middle of its training."""
        from cellfeat_timm.inputs import applied

        return applied(lambda batch: self._answer(network, batch, head), self._inputs(), cells, context, bar)


def softmax(logits: np.ndarray) -> np.ndarray:
    """(N, K) -> rows that sum to 1."""
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def check_at_least(least: float, **values: float | None) -> None:
    """Refuse the first number below `least`; None stands for a default."""
    for name, value in values.items():
        if value is not None and not value >= least:
            raise CellfeatError(f"{name}={value} is not possible: give at least {least}")


def check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise CellfeatError(f"{name}={value} is not possible: give a number above 0")
