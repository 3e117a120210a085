"""Conformal prediction sets: how improbable a true class was on held-out cells, and the sets that follow for others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST = 1000  # scores that are kept of a class: more would tell a threshold no better
CLOSE = 1e-9  # levels are sums of fractions; probabilities are computed in batches of other sizes


@dataclass(frozen=True)
class Scores:
    """Nonconformity 1 - p(true class) of held-out cells of one class (LAC; Sadinle, Lei and Wasserman, JASA 2019).

    score: (m,) float, ascending. level: (m,) float, the coverage that a threshold at the score gives for a new cell. n,
    groups: how many cells, and how many groups (patients) these came from.
    """

    score: np.ndarray
    level: np.ndarray
    n: int
    groups: int

    @classmethod
    def of(cls, score: np.ndarray, group: np.ndarray) -> Scores:
        """From the scores of n cells and what they belong to.

        Each of g groups weighs 1 / (g + 1), shared by its cells, and 1 / (g + 1) stands for the new cell's own group at
        infinity (Lee, Barber and Willett 2023, hierarchical conformal prediction). Where every cell is a group by
        itself the threshold is the usual one, the score of rank ⌈(n + 1) · coverage⌉.
        """
        names, member, size = np.unique(group, return_inverse=True, return_counts=True)
        order = np.argsort(score, kind="stable")
        level = np.cumsum(1 / ((len(names) + 1) * size[member][order]))
        kept = np.unique(np.linspace(0, len(order) - 1, min(len(order), MOST)).round().astype(int))
        return cls(np.asarray(score, float)[order][kept], level[kept], len(order), len(names))

    def threshold(self, coverage: float) -> float:
        """The least score kept whose level is the coverage at least; infinity where so few groups cannot promise it."""
        place = int(np.searchsorted(self.level, coverage - CLOSE))
        return float(self.score[place]) if place < len(self.score) else float("inf")


def scores(proba: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,) 1 - p of the true class, of (n, K) probabilities of n cells."""
    return 1 - np.asarray(proba, float)[np.arange(len(labels)), labels]


def sets(proba: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """(N, K) bool: the classes whose score is at most their (K,) threshold, and always the most probable one.

    LAC alone leaves a set empty where no class is as probable as it commonly is; the best class in it can only raise
    the coverage. A threshold of -infinity keeps a class out.
    """
    found = 1 - np.asarray(proba, float) <= np.asarray(thresholds) + CLOSE
    found[np.arange(len(found)), np.asarray(proba).argmax(axis=1)] = True
    return found
