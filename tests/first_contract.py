"""A plugin for all four slots, as it could be written on the day of the first contract. It must never be changed.

It declares no API version, no optional fact, and uses what plugins were promised then. tests/test_first_contract.py
runs it, and refuses any edit of this file.
"""

from __future__ import annotations

import json

import numpy as np
import torch

from cellfeat import CellfeatError, Features, SavesState, UnseenDomainError, hookimpl
from cellfeat.images import largest_component, masked_mean
from cellfeat.training import Checkpoint, seeded


class Tiles:
    """Backbone `first-tiles`: mean colours of tiles, with the dark pixels as its mask."""

    image_size, interpolation = 48, "area"
    weights_saw = ()

    def __init__(self, tiles: int = 6, *, context) -> None:
        self.tiles, self.device = tiles, context.device

    def encode(self, images):
        pixels = images.to(self.device).float() / 255
        tokens = torch.nn.functional.adaptive_avg_pool2d(pixels, self.tiles)
        mask = pixels.mean(dim=1) < 0.7
        return Features(tokens, mask, masked_mean(tokens, mask))


class Dark:
    """Segmenter `first-dark`: the largest dark piece."""

    def __init__(self, level: int = 170) -> None:
        self.level = level

    def segment(self, images):
        dark = (images.float().mean(dim=1) < self.level).cpu().numpy()
        return torch.from_numpy(np.stack([largest_component(one) for one in dark]))


class Scale(SavesState):
    """Align `first-scale`: the standard deviation of every laboratory becomes 1."""

    reads, writes, uses_target, uses_labels = ("pooled",), "pooled", True, False

    def __init__(self, floor: float = 1e-3) -> None:
        self.floor = floor

    def fit(self, cells, context):
        self.std_ = {
            name: np.maximum(cells.pooled[cells.domain == name].std(axis=0), self.floor)
            for name in sorted(set(cells.domain.tolist()))
        }
        return self

    def transform(self, cells, context):
        unseen = set(cells.domain.tolist()) - set(self.std_)
        if unseen:
            raise UnseenDomainError("first-scale", unseen, self.std_)
        return np.stack([row / self.std_[name] for row, name in zip(cells.pooled, cells.domain, strict=True)]).astype(
            np.float32
        )


class Softmax:
    """Align `first-softmax`: a linear layer trained on the source, with its own head; resumes from checkpoints."""

    reads, writes, uses_target, uses_labels = ("pooled",), "pooled", False, True

    def __init__(self, epochs: int = 100, rate: float = 2.0) -> None:
        if epochs < 1:
            raise CellfeatError(f"epochs is {epochs}, but must be at least 1: --set align.epochs=100")
        self.epochs, self.rate = epochs, rate

    def fit(self, cells, context):
        kept = cells[cells.label >= 0]
        self.classes = int(kept.label.max()) + 1
        with seeded(context.seed):
            self.layer = torch.nn.Linear(kept.column("pooled").shape[1], self.classes).to(context.device)
        optimizer = torch.optim.SGD(self.layer.parameters(), lr=self.rate)
        checkpoint = Checkpoint(context.scratch, "first-softmax")
        state = checkpoint.load()
        if state is not None:
            self.layer.load_state_dict(state["layer"])
        done = 0 if state is None else int(state["epoch"])
        with context.progress(self.epochs - done, "first-softmax") as bar:
            for epoch in range(done, self.epochs):
                order = torch.Generator().manual_seed(context.seed + epoch)
                for rows, batch in kept.batches(("pooled",), 16, order):
                    loss = torch.nn.functional.cross_entropy(
                        self.layer(batch["pooled"].to(context.device)), torch.from_numpy(kept.label[rows]).long()
                    )
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                checkpoint.save(layer=self.layer.state_dict(), epoch=epoch + 1)
                bar.advance()
        return self

    def transform(self, cells, context):
        return cells.pooled

    def predict_proba(self, cells, context):
        with torch.inference_mode():
            return self.layer(torch.from_numpy(cells.pooled)).softmax(dim=1).numpy()

    def save(self, folder):
        state = {name: value.tolist() for name, value in self.layer.state_dict().items()}
        (folder / "layer.json").write_text(json.dumps({"epochs": self.epochs, "rate": self.rate, "state": state}))

    @classmethod
    def load(cls, folder):
        content = json.loads((folder / "layer.json").read_text())
        method = cls(content["epochs"], content["rate"])
        state = {name: torch.tensor(value) for name, value in content["state"].items()}
        method.classes, width = state["weight"].shape
        method.layer = torch.nn.Linear(width, method.classes)
        method.layer.load_state_dict(state)
        return method


def nearest(metric: str = "euclidean"):
    """Classifier `first-nearest`: the nearest class mean."""
    from sklearn.neighbors import NearestCentroid

    return NearestCentroid(metric=metric)


@hookimpl
def cellfeat_backbone():
    return {"first-tiles": Tiles}


@hookimpl
def cellfeat_segmenter():
    return {"first-dark": Dark}


@hookimpl
def cellfeat_align():
    return {"first-scale": Scale, "first-softmax": Softmax}


@hookimpl
def cellfeat_classifier():
    return {"first-nearest": nearest}
