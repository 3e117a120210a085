"""How well classifiers tell the domains apart: numbers for what an alignment leaves of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cellfeat import metrics

FOLDS = 5
LEAST = 10  # cells of a domain
NEIGHBOURS = 15


class Share(NamedTuple):
    """Balanced accuracy with its 95 % interval over cells."""

    accuracy: float
    low: float
    high: float


class Invariance(NamedTuple):
    """How well the domain is found by a linear classifier, and by the nearest neighbours; chance, cells, domains."""

    linear: Share
    neighbours: Share
    chance: float
    cells: int
    domains: tuple[str, ...]


def domain_classifiers(
    values: np.ndarray, domain: np.ndarray, group: np.ndarray | None = None, seed: int = 0
) -> Invariance | None:
    """Logistic regression and 15 nearest neighbours on standardised (n, k) features, each tested by 5 folds that no
    group crosses; None where fewer than two domains have enough cells.

    1 / number of domains is what features give that say nothing of the domain. A linear classifier sees differences
    of means; where domains form islands of their own around a common mean, the neighbours see them alone. They are
    weighted by their domain's size, so that the largest domain does not always win.
    """
    from sklearn.linear_model import LogisticRegression

    counts = np.unique(domain, return_counts=True)
    kept = np.isin(domain, counts[0][counts[1] >= LEAST])
    values, domain, group = values[kept], domain[kept], None if group is None else group[kept]
    names, label = np.unique(domain, return_inverse=True)
    if len(names) < 2:
        return None

    def linear(features: np.ndarray, known: np.ndarray, asked: np.ndarray) -> np.ndarray:
        return LogisticRegression(max_iter=2_000, class_weight="balanced").fit(features, known).predict(asked)

    folds = _folds(values, label, group, seed)
    found = [_share(values, label, group, folds, work, seed) for work in (linear, _by_neighbours)]
    return Invariance(found[0], found[1], 1 / len(names), len(label), tuple(names.tolist()))


def _by_neighbours(features: np.ndarray, known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(features))).fit(features)
    votes = np.eye(known.max() + 1)[known[near.kneighbors(asked, return_distance=False)]].sum(axis=1)
    return (votes / np.bincount(known)).argmax(axis=1)


def _folds(
    values: np.ndarray, label: np.ndarray, group: np.ndarray | None, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    grouped = group is not None and len(np.unique(group)) < len(group)
    kind = StratifiedGroupKFold if grouped else StratifiedKFold
    return list(kind(FOLDS, shuffle=True, random_state=seed).split(values, label, group if grouped else None))


def _share(
    values: np.ndarray,
    label: np.ndarray,
    group: np.ndarray | None,
    folds: list[tuple[np.ndarray, np.ndarray]],
    answer: Callable[[np.ndarray, np.ndarray, np.ndarray], Any],
    seed: int,
) -> Share:
    from sklearn.preprocessing import StandardScaler

    answers = np.full(len(label), 0)
    for train, test in folds:
        scaler = StandardScaler().fit(values[train])
        answers[test] = answer(scaler.transform(values[train]), label[train], scaler.transform(values[test]))
    scored = metrics.evaluate(label, answers, int(label.max()) + 1, seed, groups=group)
    return Share(*(getattr(scored, part)["balanced_accuracy"] for part in ("mean", "low", "high")))
