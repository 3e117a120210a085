"""How well classifiers tell the domains apart: numbers for what an alignment leaves of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

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
    """How well the domain is found by a linear classifier, and by the nearest neighbours; chance, cells, domains; how
    many folds tested it."""

    linear: Share
    neighbours: Share
    chance: float
    cells: int
    domains: tuple[str, ...]
    folds: int = FOLDS


class Untold(NamedTuple):
    """Stands where no such number can be given, and why."""

    reason: str
    accuracy: None = None


def domain_classifiers(
    values: np.ndarray, domain: np.ndarray, group: np.ndarray | None = None, seed: int = 0
) -> Invariance | Untold:
    """Logistic regression on standardised (n, k) features and 15 nearest neighbours on these as they are.

    Each is tested by 5 folds that no group crosses, fewer where a domain has fewer groups; `Untold` where fewer than
    two domains have 10 cells, or one of them a single group: what no model was trained on none can answer.
    1 / number of domains is what features give that say nothing of the domain. A linear classifier sees differences
    of means; where domains form islands of their own around a common mean, the neighbours see them alone. They are
    weighted by their domain's size, so that the largest domain does not always win. Distances are not standardised:
    a principal component of noise would weigh as much as the first.
    """
    counts = np.unique(domain, return_counts=True)
    kept = np.isin(domain, counts[0][counts[1] >= LEAST])
    values, domain, group = values[kept], domain[kept], None if group is None else group[kept]
    names, label = np.unique(domain, return_inverse=True)
    if len(names) < 2:
        return Untold(f"fewer than two laboratories have {LEAST} cells in the sample")
    folds = _folds(label, names.tolist(), group, seed)
    if isinstance(folds, Untold):
        return folds
    found = [_share(values, label, group, folds, work, seed) for work in (_by_line, _by_neighbours)]
    return Invariance(found[0], found[1], 1 / len(names), len(label), tuple(names.tolist()), len(folds))


def _by_line(features: np.ndarray, known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2_000, class_weight="balanced"))
    return np.asarray(model.fit(features, known).predict(asked))


def _by_neighbours(features: np.ndarray, known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(features))).fit(features)
    votes = np.eye(known.max() + 1)[known[near.kneighbors(asked, return_distance=False)]].sum(axis=1)
    return np.asarray((votes / np.maximum(np.bincount(known), 1)).argmax(axis=1))


Folds = list[tuple[np.ndarray, np.ndarray]]


def _folds(label: np.ndarray, names: Sequence[str], group: np.ndarray | None, seed: int) -> Folds | Untold:
    """Rows to train on and rows to test, every domain in all of the former."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if group is None or len(np.unique(group)) == len(group):
        return list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(label, label))
    groups = [len(np.unique(group[label == number])) for number in range(len(names))]
    alone = [name for name, count in zip(names, groups, strict=True) if count < 2]
    if alone:
        return Untold(
            f"all sampled cells of {', '.join(alone)} belong to one group (a patient or slide), so that no model that "
            "is tested on it has seen the laboratory"
        )
    splitter = StratifiedGroupKFold(min(FOLDS, *groups), shuffle=True, random_state=seed)
    folds = list(splitter.split(label, label, group))
    if any(len(np.unique(label[train])) < len(names) for train, _ in folds):  # groups that lie in several domains
        return Untold("groups (patients or slides) that are in several laboratories leave one of them out of a model")
    return folds


def _share(
    values: np.ndarray,
    label: np.ndarray,
    group: np.ndarray | None,
    folds: Folds,
    answer: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    seed: int,
) -> Share:
    answers = np.full(len(label), 0)
    for train, test in folds:
        answers[test] = answer(values[train], label[train], values[test])
    scored = metrics.evaluate(label, answers, int(label.max()) + 1, seed, groups=group)
    return Share(*(getattr(scored, part)["balanced_accuracy"] for part in ("mean", "low", "high")))
