"""Small alignment methods that keep the contract; the wrong ones are made of them."""

from __future__ import annotations

import hashlib
import json
from functools import partial

import numpy as np

from cellfeat import CellfeatError, SavesState, UnseenDomainError
from cellfeat.training import Checkpoint


class Centre:
    """Minus the mean of the classes' means of the source, with a head, weights and a correction."""

    reads, writes, uses_target, uses_labels = ("pooled",), "pooled", True, True
    several_sources, deterministic, paper, licence = True, True, "arXiv:0000.00000", "Apache-2.0"

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def fit(self, cells, context):
        values, labels = cells.pooled, cells.label
        self.means_ = np.stack([values[labels == c].mean(0) for c in np.unique(labels[labels >= 0])])
        self.domains_ = sorted(set(cells.domain.tolist()))
        return self

    def transform(self, cells, context):
        unseen = set(cells.domain.tolist()) - set(self.domains_)
        if unseen:
            raise UnseenDomainError("centre", unseen, self.domains_)
        return ((cells.pooled - self.means_.mean(0)) * self.scale).astype(np.float32)

    def predict_proba(self, cells, context):
        distance = np.square(cells.pooled[:, None] - self.means_).sum(-1)
        score = np.exp(-distance + distance.min(1, keepdims=True))
        return score / score.sum(1, keepdims=True)

    def sample_weight(self, cells):
        return 1 / (1 + np.square(cells.pooled - self.means_.mean(0)).mean(1))

    def adjust(self, proba, cells):
        return proba

    def save(self, folder):
        state = {"scale": self.scale, "means": self.means_.tolist(), "domains": self.domains_}
        (folder / "state.json").write_text(json.dumps(state))

    @classmethod
    def load(cls, folder):
        state = json.loads((folder / "state.json").read_text())
        method = cls(state["scale"])
        method.means_, method.domains_ = np.array(state["means"], np.float32), state["domains"]
        return method


class Prior(SavesState):
    """The features as they are; probabilities are corrected by the classes' shares in the target."""

    reads, writes, uses_target, uses_labels = ("pooled",), "pooled", False, False
    share_ = None

    def fit(self, cells, context):
        return self

    def transform(self, cells, context):
        return cells.pooled.astype(np.float32, copy=False)

    def fit_adjust(self, proba, cells, context):
        self.share_ = proba.mean(0)

    def adjust(self, proba, cells):
        if self.share_ is None:
            return proba
        score = proba * self.share_
        return score / score.sum(1, keepdims=True)


class Paint:
    """Writes images; looks at no label and no target."""

    reads, writes, uses_target, uses_labels = ("image",), "image", False, False

    def fit(self, cells, context):
        self.shift_ = int(cells.image.mean()) // 10
        # None is allowed: the method itself is meant.

    def transform(self, cells, context):
        return np.clip(cells.image.astype(int) + self.shift_, 0, 255).astype(np.uint8)

    def save(self, folder):
        (folder / "shift.txt").write_text(str(self.shift_))

    @classmethod
    def load(cls, folder):
        method = cls()
        method.shift_ = int((folder / "shift.txt").read_text())
        return method


class Walk(SavesState):
    """Walks to the mean colour of the cells in steps, each of a few cells that are drawn; with bar and checkpoint."""

    reads, writes, uses_target, uses_labels = ("pooled", "crop", "mask"), "pooled", True, False

    def __init__(self, steps: int = 6, rate: float = 0.3) -> None:
        self.steps, self.rate = steps, rate

    def fit(self, cells, context):
        self.checkpoint, self.key = Checkpoint(context.scratch, "walk"), _key(cells, self.steps, self.rate, context)
        colours = cells.crop[cells.mask.any((1, 2))].astype(np.float32).mean((2, 3))
        if not len(colours):
            raise CellfeatError("align 'walk': no cell was found in any image; name another --segmenter")
        state = self.checkpoint.load()
        if state is None or state["key"] != self.key:
            state = {"done": 0, "place": [0.0, 0.0, 0.0]}
        place = np.array(state["place"])
        with context.progress(self.steps, "walk: steps") as bar:
            bar.advance(state["done"])
            for step in range(state["done"], self.steps):
                drawn = self.drawn(len(colours), step, context)
                place = place + self.rate * (colours[drawn].mean(0) - place)
                self.keep(step + 1, place)
                bar.advance()
        self.place_ = place
        return self

    def drawn(self, count, step, context):
        return np.random.default_rng([context.seed, step]).integers(0, count, 4)

    def keep(self, done, place):
        self.checkpoint.save(key=self.key, done=done, place=place.tolist())

    def transform(self, cells, context):
        return (cells.pooled + self.place_.mean()).astype(np.float32)

    def reconstruct(self, cells, context):
        return np.clip(cells.crop.astype(int) + int(self.place_[0]), 0, 255).astype(np.uint8)


def _key(cells, *parts):
    *parameters, context = parts
    text = repr((cells.id.tolist(), cells.domain.tolist(), parameters, context.seed))
    return hashlib.sha256(text.encode()).hexdigest()


class Lottery(Centre):
    """Says that it is not deterministic, and takes one source."""

    deterministic, several_sources = False, False

    def fit(self, cells, context):
        (self.source,) = set(cells.domain[~cells.is_target].tolist())
        super().fit(cells, context)
        self.means_ = self.means_ + np.random.default_rng().random(dtype=np.float32)
        return self


def asks_for_context(scale: float = 1.0, *, context):
    """A factory that is a function, and is handed a context."""
    assert context.device.type == "cpu"
    return Centre(scale)


RIGHT = {
    "centre": (Centre, {"scale": 2.0}),
    "prior": (Prior, {}),
    "paint": (Paint, {}),
    "walk": (partial(Walk, rate=0.5), {"steps": 5}),
    "lottery": (Lottery, {}),
    "function": (asks_for_context, {}),
}
