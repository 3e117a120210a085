"""Align `importance`: source cells weighted by how much they look like the targets' cells."""

from __future__ import annotations

from typing import Self

import numpy as np

from cellfeat import Cells, Context, SavesState
from cellfeat_da.inputs import require, require_sources, target_names

LEAST = 1e-6  # of a mean weight: no cell is lost altogether, and with it perhaps the last of its class


class ImportanceWeighting(SavesState):
    """Importance weighting: features stay, the classifier's source cells weigh p_target(x) / p_source(x).

    Shimodaira, Journal of Statistical Planning and Inference 90, 2000, for covariate shift; the ratio of densities is
    the odds of a domain classifier times a constant (Bickel, Brückner and Scheffer, ICML 2007): here scikit-learn's
    logistic regression on standardised features, all source against all target cells.

    l2: penalty |w|^2 l2 / 2 on the mean loss of a cell, for the same smoothness with few cells and with many. quantile:
    weights above this quantile of the source cells' are lowered to it; 1 clips nothing.

    Weights have mean 1 over the source cells of fit. Labelled cells of a target domain weigh 1: they are what the
    sources are weighted to look like. Without target cells all weigh 1. Classifiers that take no weights are
    refused by the run. Departures: nothing is cross-fitted, since a weight must be found again for a cell by its
    features alone; where laboratories are easily told apart, l2 and quantile keep a handful of cells from taking all.
    """

    reads, writes, uses_target, uses_labels = ("pooled",), "pooled", True, False
    paper = "Shimodaira, Journal of Statistical Planning and Inference 90, 2000"

    def __init__(self, l2: float = 0.01, quantile: float = 0.95) -> None:
        require("importance", "l2", l2, l2 > 0, "above 0")
        require("importance", "quantile", quantile, 0 < quantile <= 1, "above 0 and at most 1")
        self.l2, self.quantile = l2, quantile

    def fit(self, cells: Cells, context: Context) -> Self:
        require_sources("importance", cells)
        self.targets_ = target_names(cells)
        pooled = cells.pooled.astype(np.float64)
        self.direction_, self.log_cap_, self.log_mean_ = np.zeros(pooled.shape[1]), 0.0, 0.0
        if not self.targets_:
            return self
        of_target = np.isin(cells.domain, self.targets_)
        self.direction_ = self._direction(pooled, of_target)
        scores = pooled[~of_target] @ self.direction_
        self.log_cap_ = float(np.quantile(scores, self.quantile))
        self.log_mean_ = float(np.log(np.exp(np.minimum(scores - self.log_cap_, 0)).mean())) + self.log_cap_
        return self

    def transform(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, D) float32, unchanged, for cells of any domain."""
        return cells.pooled.astype(np.float32, copy=False)

    def sample_weight(self, cells: Cells) -> np.ndarray:
        """(N,) float64 above 0, of mean 1 over the source cells of fit."""
        scores = np.minimum(cells.pooled.astype(np.float64) @ self.direction_, self.log_cap_)
        weight = np.maximum(np.exp(scores - self.log_mean_), LEAST)
        return np.where(np.isin(cells.domain, self.targets_), 1.0, weight)

    def _direction(self, pooled: np.ndarray, of_target: np.ndarray) -> np.ndarray:
        """(D,): a cell's log odds of being a target's are this times its features, up to a constant."""
        from sklearn.linear_model import LogisticRegression

        mean, spread = pooled.mean(axis=0), pooled.std(axis=0)
        spread = np.where(spread <= np.finfo(np.float32).eps * np.abs(mean), 1.0, spread)
        model = LogisticRegression(C=1 / (self.l2 * len(pooled)), max_iter=1000)
        return model.fit((pooled - mean) / spread, of_target).coef_[0] / spread
