"""A classifier's labels and probabilities: classes encoded 0..K-1 per fit, scores calibrated on held-out rows."""

from __future__ import annotations

import functools
import inspect
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellfeat import prototypes
from cellfeat.artifacts import load_estimator, save_estimator
from cellfeat.errors import CellfeatError
from cellfeat.slots import Progress

CALIBRATION_FOLDS = 3
LIBRARIES = ("sklearn", "xgboost")  # whose types are known one by one, see `trusted_types`
TEMPERATURES = (1e-3, 1e3)


@dataclass
class ClassifierHead:
    """A fitted scikit-learn classifier that speaks in the data set's classes.

    classes: (K,) int64, the data set's class of each of the estimator's 0..K-1. temperature: divides the scores before
    the softmax when the estimator has no probabilities of its own.
    """

    estimator: Any
    classes: np.ndarray
    temperature: float = 1.0

    @classmethod
    def fit(
        cls,
        make: Callable[[], Any],
        features: np.ndarray,
        labels: np.ndarray,
        groups: np.ndarray,
        weight: np.ndarray | None = None,
        seed: int = 0,
        progress: Callable[[int], AbstractContextManager[Progress]] | None = None,
    ) -> ClassifierHead:
        """Fit on (N, D) float32 features and (N,) labels >= 0; `make` gives a fresh estimator.

        progress: given how many fits there will be; shows how many are done.
        """
        classes, encoded = np.unique(labels, return_inverse=True)
        estimator = make()
        fits = 1 if hasattr(estimator, "predict_proba") else 1 + CALIBRATION_FOLDS
        with progress(fits) if progress else nullcontext() as bar:
            advance = bar.advance if bar else _nothing
            head = cls(_fit(estimator, features, encoded, weight), classes)
            advance()
            if not hasattr(estimator, "predict_proba"):
                head.temperature = calibrate(make, features, encoded, groups, weight, seed, advance)
        return head

    def predict(self, features: np.ndarray) -> np.ndarray:
        """(N, D) -> (N,) int64 classes of the data set."""
        return self.classes[np.asarray(self.estimator.predict(features), np.int64)]

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, K) float64 over `classes`; its largest entry is always the predicted class."""
        if hasattr(self.estimator, "predict_proba"):
            proba = np.asarray(self.estimator.predict_proba(features), float)
        else:
            proba = _softmax(_scores(self.estimator, features, len(self.classes)) / self.temperature)
        return _agreeing(proba, np.asarray(self.estimator.predict(features), np.int64))

    def save(self, folder: Path) -> None:
        save_estimator(
            {"estimator": self.estimator, "classes": self.classes, "temperature": float(self.temperature)},
            folder / "classifier.skops",
        )

    @classmethod
    def load(cls, folder: Path, trust: tuple[str, ...] = ()) -> ClassifierHead:
        """trust: names of types, or their beginnings, of a classifier that is not scikit-learn's: `load_estimator`."""
        return cls(**load_estimator(folder / "classifier.skops", trust))


def _nothing() -> None:
    """Nobody is shown what is done."""


def _fit(estimator: Any, features: np.ndarray, labels: np.ndarray, weight: np.ndarray | None) -> Any:
    if weight is None:
        return estimator.fit(features, labels)
    last = estimator.steps[-1] if hasattr(estimator, "steps") else ("", estimator)
    if "sample_weight" not in inspect.signature(last[1].fit).parameters:
        raise CellfeatError(
            f"the align method weights the source cells, but {type(last[1]).__name__} takes no sample weights; "
            "use another classifier (svm-linear, lr, rf and xgboost take them)"
        )
    return estimator.fit(features, labels, **{f"{last[0]}__sample_weight" if last[0] else "sample_weight": weight})


def _scores(estimator: Any, features: np.ndarray, n_classes: int) -> np.ndarray:
    """(N, K) decision scores; a two-class estimator gives one column, made two. Without scores the answer scores 1."""
    if not hasattr(estimator, "decision_function"):
        return np.eye(n_classes)[np.asarray(estimator.predict(features), np.int64)]
    scores = np.asarray(estimator.decision_function(features), float)
    return np.stack([-scores, scores], axis=1) / 2 if scores.ndim == 1 else scores


def _softmax(scores: np.ndarray) -> np.ndarray:
    exponential = np.exp(scores - scores.max(axis=1, keepdims=True))
    return exponential / exponential.sum(axis=1, keepdims=True)


def _agreeing(proba: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Swap the largest probability onto the predicted class where the two differ (SVC decides ties by votes), and
    lift it by the smallest step where they are equal."""
    rows = np.arange(len(proba))
    best = proba.argmax(axis=1)
    proba = proba.copy()
    proba[rows, best], proba[rows, predicted] = proba[rows, predicted], proba[rows, best]
    tied = proba.argmax(axis=1) != predicted
    proba[rows[tied], predicted[tied]] = np.nextafter(proba[rows[tied], predicted[tied]], 1.0)
    return proba


def try_saving(estimator: Any, name: str, trust: tuple[str, ...]) -> None:
    """Raise unless an estimator can be saved and read back, as it will have to be when it is fitted."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            ClassifierHead(estimator, np.zeros(1, np.int64)).save(Path(folder))
            ClassifierHead.load(Path(folder), trust)
        except Exception as error:
            raise CellfeatError(
                f"classifier {name!r} cannot be saved and read back ({error}); its factory must name the packages "
                "it is made of, as in `factory.trusted = ('lightgbm.',)`, and each function by its whole name"
            ) from error


def trusted_by(factory: Any) -> tuple[str, ...]:
    """What may be read back for a classifier's factory, as `load_estimator` takes it: classes of its own package, and
    what it names.

    Installing a plugin is trusting it: what it says its classifiers are made of may be read back, and no more.
    """
    named = tuple(getattr(factory, "trusted", ()))
    while isinstance(factory, functools.partial):
        factory = factory.func
        named += tuple(getattr(factory, "trusted", ()))
    module = getattr(factory, "__module__", None) or ""
    single = module.startswith(f"{prototypes.__name__}.")  # whose home is cellfeat's, but not what is in it
    package = ".".join(module.split(".")[: 3 if single else 1])
    return (*named, *([f"{package}."] if package and package not in LIBRARIES else []))


def calibrate(
    make: Callable[[], Any],
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    weight: np.ndarray | None,
    seed: int,
    advance: Callable[[], object] = _nothing,
) -> float:
    """Temperature (Guo et al., ICML 2017, eq. 9) that minimises the log loss of held-out rows' softmax(score / T).

    The held-out scores come from folds of the training rows, which no group crosses; a single positive factor
    cannot change which class is largest. Too few rows of a class, or of groups, to hold any out: 1.
    """
    from scipy.optimize import minimize_scalar
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    n_classes, n_groups = int(labels.max()) + 1, len(np.unique(groups))
    if min(np.bincount(labels).min(), n_groups) < CALIBRATION_FOLDS:
        return 1.0
    grouped = n_groups < len(groups)
    kind = StratifiedGroupKFold if grouped else StratifiedKFold  # the first is slow on many groups
    splitter = kind(CALIBRATION_FOLDS, shuffle=True, random_state=seed)
    held_scores, held_labels = [], []
    for train, test in splitter.split(features, labels, groups if grouped else None):
        if len(np.unique(labels[train])) < n_classes:  # a class whose groups all fell into this fold
            continue
        fitted = _fit(make(), features[train], labels[train], None if weight is None else weight[train])
        held_scores.append(_scores(fitted, features[test], n_classes))
        held_labels.append(labels[test])
        advance()
    if not held_scores:
        return 1.0
    scores, truth = np.concatenate(held_scores), np.concatenate(held_labels)

    def log_loss(log_temperature: float) -> float:
        proba = _softmax(scores / np.exp(log_temperature))
        return -float(np.log(np.maximum(proba[np.arange(len(truth)), truth], 1e-12)).mean())

    return float(np.exp(minimize_scalar(log_loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded").x))
