"""How well a linear classifier tells the domains apart: a number for what an alignment leaves of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cellfeat import metrics

FOLDS = 5
LEAST = 10  # cells of a domain


class Invariance(NamedTuple):
    """Balanced accuracy of the domain classifier with its 95 % interval over cells, chance level, cells, domains."""

    accuracy: float
    low: float
    high: float
    chance: float
    cells: int
    domains: tuple[str, ...]


def domain_classifier(
    values: np.ndarray, domain: np.ndarray, group: np.ndarray | None = None, seed: int = 0
) -> Invariance | None:
    """Logistic regression on standardised (n, k) features, tested by 5 folds that no group crosses; None where fewer
    than two domains have enough cells.

    1 / number of domains is what features give that say nothing of the domain to a linear classifier; another kind of
    classifier may still see it in them.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    names, label, counts = np.unique(domain, return_inverse=True, return_counts=True)
    kept = counts[label] >= LEAST
    values, group = values[kept], None if group is None else group[kept]
    names, label = np.unique(domain[kept], return_inverse=True)
    if len(names) < 2:
        return None
    grouped = group is not None and len(np.unique(group)) < len(group)
    kind = StratifiedGroupKFold if grouped else StratifiedKFold
    answers = np.full(len(label), -1)
    for train, test in kind(FOLDS, shuffle=True, random_state=seed).split(values, label, group if grouped else None):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2_000, class_weight="balanced"))
        answers[test] = model.fit(values[train], label[train]).predict(values[test])
    scored = metrics.evaluate(label, answers, len(names), seed, groups=group)
    mean, low, high = (getattr(scored, part)["balanced_accuracy"] for part in ("mean", "low", "high"))
    return Invariance(mean, low, high, 1 / len(names), len(label), tuple(names.tolist()))
