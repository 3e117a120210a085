"""A classifier under examination, and the rows that it is fitted on and asked about."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from cellfeat.testing.says import check_facts
from cellfeat.testing.used import Used

CLASSES, PER_CLASS, WIDTH = 3, 20, 6
ANSWERING = ("predict", "predict_proba", "decision_function")
TOLERANCE = 1e-4  # of probabilities, and of the largest score

Answers = Mapping[str, np.ndarray]


class Rows(NamedTuple):
    """features (N, D) float32; labels (N,) int64, 0..K-1."""

    features: np.ndarray
    labels: np.ndarray


def separable(classes: int = CLASSES, seed: int = 0) -> Rows:
    """Classes that lie several deviations apart."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), PER_CLASS)
    centres = rng.normal(size=(classes, WIDTH))[labels] * 4
    return Rows((centres + rng.normal(size=(len(labels), WIDTH))).astype(np.float32), labels)


def noise(seed: int = 1) -> Rows:
    """Rows that tell nothing of their labels, so that whatever is random in a fit shows."""
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(CLASSES), PER_CLASS)
    return Rows(rng.normal(size=(len(labels), WIDTH)).astype(np.float32), labels)


def differing(got: Answers, wanted: Answers) -> str | None:
    """The first member whose answers differ: labels at all, numbers by more than rounding."""
    for name in ANSWERING:
        if name not in got and name not in wanted:
            continue
        if name not in got or name not in wanted or not _same(name, got[name], wanted[name]):
            return name
    return None


def _same(name: str, got: np.ndarray, wanted: np.ndarray) -> bool:
    if name == "predict" or got.shape != wanted.shape:
        return np.array_equal(got, wanted)
    largest = max(1.0, float(np.abs(np.nan_to_num(wanted, posinf=0, neginf=0)).max(initial=0)))
    return np.allclose(got, wanted, rtol=0, atol=TOLERANCE * largest, equal_nan=True)


@dataclass(eq=False)
class ClassifierSubject(Used):
    """A classifier and separable toy features."""

    slot: ClassVar[str] = "classifier"

    def judged(self) -> Any:
        return self.answered[0]

    def check_product(self) -> None:
        check_facts(self.slot, self.factory, self.product)

    def fitted(self, rows: Rows, classifier: Any = None) -> Any:
        """The classifier, or a new one, after its fit on copies of the rows."""
        classifier = self.made() if classifier is None else classifier
        with self.watched():
            classifier.fit(rows.features.copy(), rows.labels.copy())
        return classifier

    def asked(self, classifier: Any, features: np.ndarray, member: str = "predict") -> np.ndarray:
        """What it gives for a copy of the features."""
        with self.watched():
            return np.asarray(getattr(classifier, member)(features.copy()))

    def answers(self, classifier: Any, features: np.ndarray) -> Answers:
        """{member: what it gives}, of all that answer row by row; `probabilities` and `scores` tell of a wrong form."""
        found = {"predict": self.asked(classifier, features)}
        for member in ANSWERING[1:]:
            if hasattr(classifier, member):
                with suppress(Exception, SystemExit):
                    value = self.asked(classifier, features, member).astype(float)
                    found |= {member: value} if value.shape[:1] == (len(features),) else {}
        return found

    @functools.cached_property
    def rows(self) -> Rows:
        return separable()

    @functools.cached_property
    def mixed(self) -> np.ndarray:
        """(N, D) float32: the toys' rows, and others whose labels a small change would change."""
        return np.concatenate([self.rows.features, noise().features])

    @functools.cached_property
    def answered(self) -> tuple[Any, np.ndarray]:
        """A classifier fitted on the toys, and what it predicts for them."""
        classifier = self.fitted(self.rows)
        return classifier, self.asked(classifier, self.rows.features)

    def first(self) -> Any:
        try:
            return self.answered
        except (Exception, SystemExit):
            if not self.works_in_double():
                raise
        return None  # `float32` tells it

    def works_in_double(self) -> bool:
        features = self.rows.features.astype(np.float64)
        try:
            self.asked(self.fitted(Rows(features, self.rows.labels)), features)
        except (Exception, SystemExit):
            return False
        return True

    def use(self) -> list[Any]:
        self.asked(self.fitted(self.rows), self.rows.features)
        return []

    def timed(self) -> float:
        rows = separable(seed=3)
        classifier = self.fitted(rows)
        fitting = self.seconds
        self.asked(classifier, rows.features)
        return max(fitting, self.seconds)
