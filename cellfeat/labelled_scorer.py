"""`cellfeat.scorer`: scikit-learn's scores on the cells whose label is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cellfeat.class_labels import BadLabels, hidden
from cellfeat.errors import CellfeatError, unknown


@dataclass(frozen=True)
class LabelledScorer:
    """A scorer of scikit-learn that is shown no cell whose label is hidden. scoring: its name, for copies."""

    scoring: str | Callable[..., float]

    def __call__(self, estimator: Any, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The score of a fitted estimator on the labelled cells of X, (N,) labels y and (N,) weights or none.

        Raises: a ValueError where no label is known.
        """
        from sklearn.metrics import get_scorer
        from sklearn.utils import _safe_indexing

        labels = np.asarray(y, dtype=object).ravel()
        rows = np.flatnonzero([not hidden(label) for label in labels])
        if not len(rows):
            raise BadLabels(f"no cell has a label to score with {self.scoring}")
        known = np.array(labels[rows].tolist())  # of their own kind again: numbers, or texts
        weight = {} if sample_weight is None else {"sample_weight": np.asarray(sample_weight)[rows]}
        return float(get_scorer(self.scoring)(estimator, _safe_indexing(X, rows), known, **weight))


def scorer(scoring: str | Callable[..., float] = "balanced_accuracy") -> LabelledScorer:
    """What `cross_val_score`, `GridSearchCV` and others take as `scoring`, for y in which labels are hidden.

    scikit-learn's own scorers know no hidden labels: to them, -1 is a class, and every such cell is a mistake. scoring:
    a name of `sklearn.metrics.get_scorer_names`, or a scorer. Labels are hidden as `CellFeatures.fit` says.

    Raises: CellfeatError for a name that scikit-learn does not know.
    """
    from sklearn.metrics import get_scorer_names

    if isinstance(scoring, str) and scoring not in get_scorer_names():
        raise CellfeatError(unknown("scorer of scikit-learn", scoring, get_scorer_names()))
    return LabelledScorer(scoring)
