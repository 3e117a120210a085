"""Scores of predictions and masks, with bootstrap intervals. Labels are 0..K-1; a prediction may be any class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

MINIMUM_CELLS = 10  # a class with fewer target cells says too little about recall
INTERVAL = 0.95
AT_ONCE = 50  # replicates of a bootstrap over groups
SCORES = ("accuracy", "balanced_accuracy", "macro_f1")


def confusion(labels: np.ndarray, predictions: np.ndarray, n_classes: int) -> np.ndarray:
    """(K, K) int64: rows are true classes, columns predicted ones."""
    pairs = np.asarray(labels, np.int64) * n_classes + np.asarray(predictions, np.int64)
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def scored_classes(labels: np.ndarray, n_classes: int, minimum: int = MINIMUM_CELLS) -> np.ndarray:
    """The classes with at least `minimum` true cells, over which recall and F1 are averaged."""
    return np.flatnonzero(np.bincount(np.asarray(labels, np.int64), minlength=n_classes) >= minimum)


def scores_of(matrix: np.ndarray, classes: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy, balanced accuracy and macro-F1 of (..., K, K) confusion matrices; NaN where nothing can be said.

    Balanced accuracy is the mean recall, macro-F1 the mean F1, over `classes`; predictions of other classes count
    as errors and cells of other classes as false positives. With all classes these are scikit-learn's scores.
    """
    matrix = np.asarray(matrix, float)
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    true, predicted = matrix.sum(-1), matrix.sum(-2)
    with np.errstate(divide="ignore", invalid="ignore"):
        recall = hits / true
        f1 = 2 * hits / (true + predicted)
        accuracy = hits.sum(-1) / true.sum(-1)
    nothing = np.full(matrix.shape[:-2], np.nan)
    return {
        "accuracy": accuracy,
        "balanced_accuracy": recall[..., classes].mean(-1) if len(classes) else nothing,
        "macro_f1": f1[..., classes].mean(-1) if len(classes) else nothing,
    }


@dataclass(frozen=True)
class Scored:
    """Scores of one or several models on the same cells: mean and spread over models, interval over cells."""

    mean: dict[str, float]
    std: dict[str, float]  # over models, ddof 0 as published
    low: dict[str, float]
    high: dict[str, float]
    models: dict[str, list[float]]
    classes: list[int]  # those averaged over
    confusion: list[list[float]]  # mean over models

    def record(self) -> dict[str, Any]:
        """As JSON: {score: {mean, std, low, high, models}}; what cannot be computed is null."""

        def number(value: float) -> float | None:
            return None if np.isnan(value) else float(value)

        return {
            name: {
                "mean": number(self.mean[name]),
                "std": number(self.std[name]),
                "low": number(self.low[name]),
                "high": number(self.high[name]),
                "models": [number(value) for value in self.models[name]],
            }
            for name in SCORES
        }


def evaluate(
    labels: np.ndarray,
    predictions: np.ndarray,
    n_classes: int,
    seed: int = 0,
    replicates: int = 1000,
    groups: np.ndarray | None = None,
) -> Scored:
    """Score the predictions (M, N) of M models on N labelled cells.

    The 95 % interval is a percentile bootstrap, each replicate scored by the mean over the M models: over cells, drawn
    within each class so that a replicate keeps the class sizes; where `groups` (N,) repeat, over whole groups, since
    cells of one patient err alike, and class sizes vary as they would.
    """
    labels = np.asarray(labels, np.int64)
    predictions = np.atleast_2d(np.asarray(predictions, np.int64))
    classes = scored_classes(labels, n_classes)
    matrices = np.stack([confusion(labels, row, n_classes) for row in predictions])
    single = scores_of(matrices, classes)
    if groups is not None and len(np.unique(groups)) < len(groups):
        replicated = _bootstrap_groups(labels, predictions, groups, n_classes, seed, replicates)
    else:
        replicated = _bootstrap(labels, predictions, n_classes, seed, replicates)
    drawn = scores_of(replicated, classes)
    tail = (1 - INTERVAL) / 2
    # A replicate that drew no group with some class says nothing about its recall.
    bounds = {name: _quantiles(drawn[name].mean(-1), [tail, 1 - tail]) for name in SCORES}
    return Scored(
        mean={name: float(single[name].mean()) for name in SCORES},
        std={name: float(single[name].std()) for name in SCORES},
        low={name: float(bounds[name][0]) for name in SCORES},
        high={name: float(bounds[name][1]) for name in SCORES},
        models={name: single[name].tolist() for name in SCORES},
        classes=classes.tolist(),
        confusion=matrices.mean(0).tolist(),
    )


def _bootstrap(labels: np.ndarray, predictions: np.ndarray, k: int, seed: int, replicates: int) -> np.ndarray:
    """(R, M, K, K) confusion matrices of R resamples within class.

    Cells of one class that all models predicted alike are interchangeable, so resampling n cells is one multinomial
    draw over the distinct columns of predictions: exact, and cheap for any N.
    """
    rng = np.random.default_rng(seed)
    matrices = np.zeros((replicates, len(predictions), k, k))
    for true in np.unique(labels):
        patterns, counts = np.unique(predictions[:, labels == true], axis=1, return_counts=True)
        draws = rng.multinomial(counts.sum(), counts / counts.sum(), size=replicates)
        for model, row in enumerate(patterns):
            matrices[:, model, true] = draws @ np.eye(k)[row]
    return matrices


def _quantiles(values: np.ndarray, shares: list[float]) -> np.ndarray:
    finite = values[np.isfinite(values)]
    return np.quantile(finite, shares) if len(finite) else np.full(len(shares), np.nan)


def _bootstrap_groups(
    labels: np.ndarray, predictions: np.ndarray, groups: np.ndarray, k: int, seed: int, replicates: int
) -> np.ndarray:
    """(R, M, K, K) confusion matrices of R resamples of whole groups."""
    names, member = np.unique(groups, return_inverse=True)
    of_groups = np.zeros((len(predictions), len(names), k * k))
    for own, row in zip(of_groups, predictions, strict=True):
        np.add.at(own, (member, labels * k + row), 1)
    flat, rng = of_groups.transpose(1, 0, 2).reshape(len(names), -1), np.random.default_rng(seed)
    parts = [
        rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=min(AT_ONCE, replicates - start)) @ flat
        for start in range(0, replicates, AT_ONCE)
    ]
    return np.concatenate(parts).reshape(replicates, len(predictions), k, k)


def recalls(matrix: np.ndarray) -> np.ndarray:
    """(K,) recall of every class of a (K, K) confusion matrix; NaN for a class without true cells."""
    matrix = np.asarray(matrix, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.diagonal(matrix) / matrix.sum(1)


def ceiling(labels: np.ndarray, reachable: np.ndarray, n_classes: int) -> dict[str, float]:
    """The best scores that predictions of the `reachable` classes alone can have on these cells."""
    labels, reachable = np.asarray(labels, np.int64), np.asarray(reachable, np.int64)
    best = np.where(np.isin(labels, reachable), labels, reachable[0])
    matrix = confusion(labels, best, n_classes)
    scored = scores_of(matrix, scored_classes(labels, n_classes))
    return {name: float(scored[name]) for name in ("accuracy", "balanced_accuracy")}


CALIBRATION_BINS = 15


def calibration(labels: np.ndarray, proba: np.ndarray) -> dict[str, float]:
    """How far (N, K) probabilities can be trusted on N labelled cells.

    expected_error: mean distance of confidence and accuracy over 15 bins of equal width of the largest probability,
    weighted by the cells in them (Guo et al., ICML 2017, eq. 3). brier: mean squared distance to the one-hot label
    (Brier 1950), 0..2. log_loss: mean negative log probability of the true class, at least 1e-12, in nats.
    """
    labels, proba = np.asarray(labels, np.int64), np.asarray(proba, float)
    confidence, right = proba.max(1), proba.argmax(1) == labels
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, confidence - right, CALIBRATION_BINS)
    of_truth = proba[np.arange(len(labels)), labels]
    return {
        "expected_error": float(np.abs(gaps).sum() / len(labels)),
        "brier": float(((proba - np.eye(proba.shape[1])[labels]) ** 2).sum(1).mean()),
        "log_loss": float(-np.log(np.maximum(of_truth, 1e-12)).mean()),
    }


def majority(labels: np.ndarray, n_classes: int) -> dict[str, float]:
    """The scores of always answering the commonest class of these very cells: what costs nothing."""
    labels = np.asarray(labels, np.int64)
    commonest = np.bincount(labels, minlength=n_classes).argmax()
    matrix = confusion(labels, np.full_like(labels, commonest), n_classes)
    return {name: float(v) for name, v in scores_of(matrix, scored_classes(labels, n_classes)).items()}


def intersection_over_union(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(N, H, W) bool pairs -> (N,) IoU; 1 where both are empty."""
    axes = tuple(range(1, np.ndim(true)))
    either = (predicted | true).sum(axes)
    return np.where(either > 0, (predicted & true).sum(axes) / np.maximum(either, 1), 1.0)


def dice(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(N, H, W) bool pairs -> (N,) Dice coefficient, 2·IoU / (1 + IoU)."""
    iou = intersection_over_union(predicted, true)
    return 2 * iou / (1 + iou)
