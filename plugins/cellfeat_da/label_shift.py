"""Align `label-shift`: probabilities corrected for laboratories that see the classes in other proportions."""

from __future__ import annotations

from typing import Self

import numpy as np

from cellfeat import CellfeatError, Cells, Context, SavesState
from cellfeat_da.inputs import require


class LabelShift(SavesState):
    """Label shift: features stay, a target's probabilities are re-weighted by its class proportions, found by EM.

    Saerens, Latinne and Decaestecker, "Adjusting the Outputs of a Classifier to New a Priori Probabilities", Neural
    Computation 14(1), 2002. Eq. 2.4: p'(k | x) ~ p(k | x) prior_t(k) / prior_s(k). The target's prior comes from its
    unlabelled cells by expectation maximisation (eq. 2.9), started at prior_s: p' of all cells with the prior so far,
    then the mean of p' as the prior. It is the prior of greatest likelihood, each domain's by itself.

    iterations: at most; tolerance: EM ends when no class's prior changes by more.

    prior_s are the proportions of the labels seen in fit, a few revealed ones of targets included, as a classifier is
    trained on them; one that weights classes evenly has no such prior, and a badly calibrated one misleads EM. A domain
    whose cells were not shown for adapting keeps its probabilities, and so does a cell whose classes all got prior 0.
    Put it last in a chain (per-domain-z,label-shift): probabilities are corrected after the classifier.
    """

    reads, writes, uses_target, uses_labels = ("pooled",), "pooled", True, True
    paper = (
        'Saerens, Latinne and Decaestecker, "Adjusting the Outputs of a Classifier to New a Priori '
        'Probabilities", Neural Computation 14(1), 2002'
    )

    def __init__(self, iterations: int = 1000, tolerance: float = 1e-6) -> None:
        require("label-shift", "iterations", iterations, iterations >= 1, "at least 1")
        require("label-shift", "tolerance", tolerance, tolerance > 0, "above 0")
        self.iterations, self.tolerance = iterations, tolerance

    def fit(self, cells: Cells, context: Context) -> Self:
        known = cells.label[cells.label >= 0]
        if not len(known):
            raise CellfeatError("align 'label-shift' needs labelled cells for the classes' proportions and got none")
        self.source_prior_ = np.bincount(known) / len(known)
        self.target_prior_: dict[str, np.ndarray] = {}
        return self

    def transform(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, D) float32, unchanged, for cells of any domain."""
        return cells.pooled.astype(np.float32, copy=False)

    def fit_adjust(self, proba: np.ndarray, cells: Cells, context: Context) -> None:
        """Learn the class proportions of every domain of these cells from proba (M, K) of the classifier."""
        self.target_prior_ = {
            name: self._prior(proba[cells.domain == name], name, context) for name in sorted(set(cells.domain.tolist()))
        }

    def adjust(self, proba: np.ndarray, cells: Cells) -> np.ndarray:
        """(N, K) probabilities -> (N, K) float64, each row by itself."""
        adjusted = np.array(proba, dtype=np.float64)
        for name, prior in self.target_prior_.items():
            rows = np.flatnonzero(cells.domain == name)
            weighted = adjusted[rows] * (prior / self.source_prior_)
            total = weighted.sum(axis=1, keepdims=True)
            adjusted[rows] = np.where(total > 0, weighted / np.where(total > 0, total, 1), adjusted[rows])
        return adjusted

    def _prior(self, proba: np.ndarray, name: str, context: Context) -> np.ndarray:
        """(K,) proportions of greatest likelihood for cells with probabilities (M, K)."""
        likelihood = np.asarray(proba, np.float64) / self.source_prior_  # of a cell under each class, up to a factor
        prior = self.source_prior_
        for _ in range(self.iterations):
            posterior = likelihood * prior
            before, prior = prior, (posterior / posterior.sum(axis=1, keepdims=True)).mean(axis=0)
            if np.abs(prior - before).max() <= self.tolerance:
                return prior
        context.note(f"label-shift: the class proportions of {name!r} still changed after {self.iterations} iterations")
        return prior
