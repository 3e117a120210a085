"""Right classifiers, and wrong ones by the check that is meant for them."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin


class Nearest(ClassifierMixin, BaseEstimator):
    """The class with the nearest mean; nobody's library."""

    def __init__(self, power: float = 2.0) -> None:
        self.power = power

    def fit(self, features, labels):
        self.means_ = np.stack([features[labels == label].mean(0) for label in range(labels.max() + 1)])
        return self

    def distances(self, features):
        return (np.abs(features[:, None] - self.means_) ** self.power).sum(-1)

    def predict(self, features):
        return self.distances(features).argmin(1)


class Sure(Nearest):
    """With probabilities."""

    def predict_proba(self, features):
        distance = self.distances(features)
        score = np.exp(distance.min(1, keepdims=True) - distance)
        return score / score.sum(1, keepdims=True)


class Scored(Nearest):
    """With scores, as scikit-learn's."""

    def decision_function(self, features):
        score = -self.distances(features)
        return score[:, 1] - score[:, 0] if score.shape[1] == 2 else score


def nearest(context, power: float = 2.0):
    """A factory that asks for the context."""
    assert context.seed == 0
    return Nearest(power)


RIGHT = (Nearest, Sure, Scored, nearest)


class Short(Nearest):
    """fit gives nothing."""

    def fit(self, features, labels):
        super().fit(features, labels)


class DoubleOnly(Nearest):
    """It asks for the numbers that it was tried with."""

    def fit(self, features, labels):
        if features.dtype != np.float64:
            raise TypeError(f"float64 is needed, not {features.dtype}")
        return super().fit(features, labels)


class Column(Nearest):
    def predict(self, features):
        return super().predict(features)[:, None]


class Words(Nearest):
    def predict(self, features):
        return super().predict(features).astype(str)


class Useless(Nearest):
    def predict(self, features):
        return np.zeros(len(features), int)


class Shuffled(Nearest):
    """It loses which label belongs to which row."""

    def fit(self, features, labels):
        return super().fit(features, np.roll(labels, len(labels) // 2 + 3))


class UnseededFit(Nearest):
    def fit(self, features, labels):
        super().fit(features, labels)
        self.means_ = self.means_ + 0.3 * np.random.default_rng().normal(size=self.means_.shape)
        return self


class UnseededPredict(Nearest):
    def predict(self, features):
        predicted = super().predict(features)
        return np.where(np.random.default_rng().random(len(features)) < 0.2, 0, predicted)


class Sorted(Nearest):
    def predict(self, features):
        return super().predict(features[features[:, 0].argsort()])


class OverTheBatch(Nearest):
    """It standardises by the rows that it is asked about."""

    def predict(self, features):
        return super().predict(features - features.mean(0) + self.means_.mean(0))


class LoneRow(Nearest):
    def predict(self, features):
        return (super().predict(features) + (len(features) == 1)) % len(self.means_)


class ManyFlipped(Nearest):
    """It puts together what it computed in pieces, in the wrong order."""

    def predict(self, features):
        predicted = super().predict(features)
        return predicted[::-1] if len(features) > 200 else predicted


class SomeShuffled(Sure):
    def predict_proba(self, features):
        proba = super().predict_proba(features)
        proba[1:4] = proba[1:4][::-1]
        return proba


class ScoresShuffled(Scored):
    def decision_function(self, features):
        score = super().decision_function(features)
        return np.concatenate([score[:1], score[1:4][::-1], score[4:]])


class BalancedOverTheBatch(Sure):
    """Every class is to have its share of the rows that it is asked about."""

    def predict_proba(self, features):
        proba = super().predict_proba(features)
        proba = proba / (proba.mean(0) + 1e-3)
        return proba / proba.sum(1, keepdims=True)


class ScoresCentred(Scored):
    def decision_function(self, features):
        score = super().decision_function(features)
        return score - 0.1 * score.mean(0)


class UnseededProbabilities(Sure):
    def predict_proba(self, features):
        proba = super().predict_proba(features)
        return 0.9 * proba + 0.1 * np.random.default_rng().dirichlet(np.ones(proba.shape[1]), len(proba))


class LatestOfAll(Nearest):
    """It keeps what it learned on the class."""

    def fit(self, features, labels):
        super().fit(features, labels)
        type(self).latest = self.means_
        return self

    def predict(self, features):
        self.means_ = getattr(type(self), "latest", self.means_)
        return super().predict(features)


SEEN: dict[bytes, int] = {}


class RemembersRows(Nearest):
    """It looks rows up that any object was ever fitted on."""

    def fit(self, features, labels):
        SEEN.update({row.tobytes(): int(label) for row, label in zip(features, labels, strict=True)})
        return super().fit(features, labels)

    def predict(self, features):
        known = zip(features, super().predict(features), strict=True)
        found = np.array([SEEN.get(row.tobytes(), int(label)) for row, label in known])
        return np.minimum(found, len(self.means_) - 1)


class Rejects(Nearest):
    """Of rows unlike any that it has seen it says that they are nothing."""

    def predict(self, features):
        distance = self.distances(features)
        return np.where(distance.min(1) > 1000, -1, distance.argmin(1))


class ThreeOnly(Nearest):
    def fit(self, features, labels):
        if labels.max() == 4:
            raise IndexError("index 3 is out of bounds")
        return super().fit(features, labels)


class Reversed(Sure):
    def predict_proba(self, features):
        return super().predict_proba(features)[:, ::-1]


class OneColumn(Sure):
    """Of two classes it gives the probability of the second."""

    def predict_proba(self, features):
        proba = super().predict_proba(features)
        return proba[:, 1:] if proba.shape[1] == 2 else proba


class NoSum(Sure):
    def predict_proba(self, features):
        return super().predict_proba(features) * 2


class Negative(Sure):
    def predict_proba(self, features):
        proba = super().predict_proba(features)
        return proba + np.linspace(-1, 1, proba.shape[1])


class TwoColumns(Scored):
    def decision_function(self, features):
        return -self.distances(features)


class Distances(Scored):
    """Small where it is sure."""

    def decision_function(self, features):
        return -super().decision_function(features)


class Centres(Nearest):
    """It centres the very features that it is given."""

    def fit(self, features, labels):
        super().fit(features, labels)
        features -= features.mean(0)
        return self


class NeedsToWrite(Nearest):
    """It writes into what it is given, and puts it back."""

    def predict(self, features):
        features *= 2
        features /= 2
        return super().predict(features)


class SortsLabels(Nearest):
    def fit(self, features, labels):
        super().fit(features, labels)
        labels[:] = np.sort(labels)[::-1]
        return self


class Spread(Nearest):
    """It divides by the classes' number less one."""

    def fit(self, features, labels):
        super().fit(features, labels)
        self.scale_ = 1 // (len(self.means_) - 1)
        return self


class Mute(Nearest):
    def fit(self, features, labels):
        if not labels.any():
            raise ValueError
        return super().fit(features, labels)


class AlwaysTwo(Nearest):
    """With one class it makes another up."""

    def fit(self, features, labels):
        super().fit(features, labels)
        if len(self.means_) == 1:
            self.means_ = np.concatenate([self.means_ + 1, self.means_])
        return self


class Forgets(Nearest):
    """It keeps what it learned outside of what is saved."""

    learned: dict = {}  # noqa: RUF012 - the fault itself

    def fit(self, features, labels):
        super().fit(features, labels)
        self.learned[id(self)] = self.means_
        self.means_ = None
        return self

    def predict(self, features):
        whole = Nearest(self.power)
        whole.means_ = self.learned.get(id(self), np.zeros((1, features.shape[1])))
        return whole.predict(features)


class Rounds(Sure):
    """What is read back is less precise; the labels are the same."""

    def __getstate__(self):
        state = super().__getstate__()
        return {**state, "power": 1.0} if hasattr(self, "means_") else state


class Closure(Nearest):
    """It keeps a function that no other process could know."""

    def fit(self, features, labels):
        super().fit(features, labels)
        self.rule_ = lambda distance: distance.argmin(1)
        return self


class Foreign(Nearest):
    """It is made of types of a package that its factory does not name."""

    def fit(self, features, labels):
        super().fit(features, labels)
        self.path_ = Path("model")
        return self


KEPT: dict[str, np.ndarray] = {}


class KeptInTheModule(Nearest):
    """What it saves is the name of what its module keeps."""

    def fit(self, features, labels):
        super().fit(features, labels)
        self.key_ = f"model {len(KEPT)}"
        KEPT[self.key_] = self.means_
        self.means_ = np.zeros_like(self.means_)
        return self

    def distances(self, features):
        return (np.abs(features[:, None] - KEPT.get(self.key_, self.means_)) ** self.power).sum(-1)


class HashedDoubt(Sure):
    """How sure it is depends on the hash of a string, which every process salts."""

    def predict_proba(self, features):
        doubt = hash("doubt") % 1000 / 2000
        proba = super().predict_proba(features)
        return (1 - doubt) * proba + doubt / proba.shape[1]


class WarmStart(Nearest):
    def fit(self, features, labels):
        before = getattr(self, "means_", None)
        super().fit(features, labels)
        if before is not None and before.shape == self.means_.shape:
            self.means_ = (before + self.means_) / 2
        return self


class Seeds(Nearest):
    def fit(self, features, labels):
        np.random.seed(0)  # noqa: NPY002 - the fault itself
        return super().fit(features, labels)


class Threads(Nearest):
    def fit(self, features, labels):
        torch.set_num_threads(1)
        return super().fit(features, labels)


class Prints(Nearest):
    def fit(self, features, labels):
        print("epoch 1: loss 0.3")
        return super().fit(features, labels)


class WritesCheckpoints(Nearest):
    def fit(self, features, labels):
        Path("checkpoint.json").write_text("{}")
        return super().fit(features, labels)


class OnTheGpu(Nearest):
    def fit(self, features, labels):
        if torch.cuda.is_available():
            torch.from_numpy(features).cuda()
        return super().fit(features, labels)


class SlowToAnswer(Nearest):
    def predict(self, features):
        time.sleep(0.06)
        return super().predict(features)


class Unwarned(Nearest):
    def fit(self, features, labels):
        warnings.simplefilter("ignore")
        return super().fit(features, labels)


class Slow(Nearest):
    def fit(self, features, labels):
        time.sleep(0.06)
        return super().fit(features, labels)


def broken(power: float = 2.0):
    raise RuntimeError("no licence for this library")


class Unfinished(Nearest):
    def predict(self, features):
        raise NotImplementedError


MUTANTS = {
    "members": (type("Half", (), {"fit": 0}), type("Odd", (Nearest,), {"deterministic": "mostly"})),
    "runs": (broken, Unfinished),
    "float32": (DoubleOnly,),
    "shape": (Column, Words),
    "fit-returns-self": (Short,),
    "learns": (Useless, Shuffled),
    "same-seed": (UnseededFit, UnseededPredict, UnseededProbabilities),
    "row-order": (Sorted, ManyFlipped, SomeShuffled, ScoresShuffled),
    "one-row": (OverTheBatch, LoneRow, BalancedOverTheBatch, ScoresCentred),
    "classes": (Rejects, ThreeOnly),
    "probabilities": (Reversed, OneColumn, NoSum, Negative),
    "scores": (TwoColumns, Distances),
    "inputs": (Centres, NeedsToWrite, SortsLabels),
    "one-class": (Spread, Mute, AlwaysTwo),
    "saves": (Forgets, Rounds, Closure, Foreign),
    "forgets": (WarmStart, LatestOfAll, RemembersRows),
    "device": (OnTheGpu,),
    "process": (Seeds, Threads, Unwarned),
    "quiet": (Prints,),
    "scratch": (WritesCheckpoints,),
    "fresh-process": (KeptInTheModule, HashedDoubt),
    "budget": (Slow, SlowToAnswer),
}
