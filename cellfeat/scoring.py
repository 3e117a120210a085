"""Predictions of an evaluation to scores: what the labels of target cells are for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cellfeat import metrics
from cellfeat.results import Prediction, Result
from cellfeat.types import Cells


def score(result: Result, cells: Cells, n_classes: int) -> dict[str, metrics.Scored]:
    """Scores by target: the whole of each other domain, and the source itself by its held-out folds."""
    scored = {result.split.name: _score_inside(result.inside, cells, n_classes, result.seed)}
    for name, predictions in result.targets.items():
        answers = np.stack([prediction.classes for prediction in predictions])
        rows = predictions[0].rows
        scored[name] = metrics.evaluate(cells.label[rows], answers, n_classes, result.seed, groups=cells.group[rows])
    return scored


def _score_inside(folds: list[Prediction], cells: Cells, n_classes: int, seed: int) -> metrics.Scored:
    """Every source cell scored once, by the model that did not see it; the spread is over folds."""
    rows = np.concatenate([fold.rows for fold in folds])
    answers = np.concatenate([fold.classes for fold in folds])
    pooled = metrics.evaluate(cells.label[rows], answers, n_classes, seed, groups=cells.group[rows])
    classes = np.array(pooled.classes, int)
    single = [
        metrics.scores_of(metrics.confusion(cells.label[fold.rows], fold.classes, n_classes), classes) for fold in folds
    ]
    models = {name: [float(one[name]) for one in single] for name in metrics.SCORES}
    return replace(pooled, models=models, std={name: _spread(values) for name, values in models.items()})


def _spread(values: list[float]) -> float:
    """Standard deviation over the folds in which the score means something; NaN when there is none."""
    finite = [value for value in values if np.isfinite(value)]
    return float(np.std(finite)) if finite else float("nan")


def calibration(predictions: Sequence[Prediction], cells: Cells) -> dict[str, float]:
    """Mean over the models of how far their probabilities can be trusted, see `metrics.calibration`."""
    each = [metrics.calibration(cells.label[one.rows], one.proba) for one in predictions]
    return {name: float(np.mean([one[name] for one in each])) for name in each[0]}
