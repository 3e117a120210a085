"""Weights by which every class counts the same, for classifiers that have no option of that name."""

from __future__ import annotations

from typing import Any

import numpy as np


def balanced_weight(labels: np.ndarray, sample_weight: np.ndarray | None = None) -> np.ndarray:
    """(N,) float64: W / (K W_c) times the weight that a cell has already, W_c being the sum of these in its class.

    Without weights n / (K n_c), scikit-learn's "balanced" (King and Zeng, Political Analysis 9, 2001). The classes'
    sums are equal, and the sum of all is W, as before.
    """
    classes, places = np.unique(labels, return_inverse=True)
    weight = np.ones(len(places)) if sample_weight is None else np.asarray(sample_weight, float)
    sums = np.bincount(places, weights=weight)
    return weight * weight.sum() / (len(classes) * np.where(sums > 0, sums, 1.0))[places]


class BalancedFit:
    """Before a classifier of scikit-learn's kind in the bases: its fit with balanced weights."""

    def fit(self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None) -> Any:
        """As the classifier's own; `sample_weight` (N,) is multiplied by the balanced weight."""
        return super().fit(X, y, sample_weight=balanced_weight(y, sample_weight))  # type: ignore[misc]
