"""Many methods on the same cells: means with intervals, and which of them the paired test can tell apart.

All methods are measured in the same resampled cells and tested by the same exchanges (see `cellfeat.comparison`, of
which this is the table): a cell, or its whole group where groups repeat, is drawn or exchanged in all transfers that it
is a target of at once.

Two methods are told apart where their gap is larger, in standard errors of its own under exchange, than the largest of
all pairs' gaps is in 95 % of the exchanges (maximum statistic: Westfall and Young 1993). So the chance that a table
tells apart any two methods that are alike is 5 %, whichever of them happens to lead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cellfeat.metrics import INTERVAL, SCORES, scored_classes

DRAWS = 1000  # of the bootstrap, and as many exchanges
LEVEL = 0.95  # of all that two methods which are alike can differ by in one table
LINEAR = ("accuracy", "balanced_accuracy")  # sums over cells, so that exchanging answers flips a cell's sign
PAIRS_AT_ONCE = 4000


@dataclass(frozen=True)
class Field:
    """One transfer: its target's cells, and what every method answered on them.

    models: by method (n, m) predicted classes of its m models, -1 where a model was not asked; None: no answers.
    """

    target: str
    id: np.ndarray  # (n,)
    label: np.ndarray  # (n,) int, 0..K-1
    unit: np.ndarray  # (n,) what is drawn or exchanged as a whole: the cell, or its group
    grouped: bool
    models: Sequence[np.ndarray | None]

    @cached_property
    def classes(self) -> np.ndarray:
        """Those with enough cells to be averaged over."""
        return scored_classes(self.label, int(self.label.max()) + 1)

    @cached_property
    def right(self) -> np.ndarray:
        """(n, M) float32: the share of a method's models that were right; NaN for a method without answers."""
        return np.stack([self._share(answers) for answers in self.models], axis=1)

    def _share(self, answers: np.ndarray | None) -> np.ndarray:
        if answers is None:
            return np.full(len(self.label), np.nan, np.float32)
        asked = (answers >= 0).sum(1)
        return ((answers == self.label[:, None]).sum(1) / asked).astype(np.float32)


@dataclass(frozen=True)
class Standing:
    """A method in a table. group: 1 for those that the best is not surely ahead of, and so on; None: not ranked."""

    method: int
    mean: float
    low: float
    high: float
    group: int | None


class Standings:
    """Methods 0..M-1 on some transfers, as tables over any of these transfers."""

    def __init__(self, fields: Mapping[str, Field], methods: int, seed: int = 0) -> None:
        self.fields, self.methods = dict(fields), methods
        self._means: dict[str, np.ndarray] = {}  # by transfer: (3, M) scores
        self._drawn: dict[str, np.ndarray] = {}  # (3, B, M)
        self._swapped: dict[str, np.ndarray] = {}  # (2, B, M) the linear scores' sums under exchange
        for number, target in enumerate(sorted({field.target for field in fields.values()})):
            own = {name: field for name, field in fields.items() if field.target == target}
            self._measure(own, np.random.default_rng([seed, number]))

    def _measure(self, fields: Mapping[str, Field], rng: np.random.Generator) -> None:
        """Scores, resamples and exchanges of the transfers to one target, all in the same cells."""
        units, place, strata = _units(list(fields.values()))
        weights = _resample(rng, strata, DRAWS)
        signs = rng.integers(0, 2, (DRAWS, len(units)), dtype=np.int8).astype(np.float32) * 2 - 1
        for (name, field), rows in zip(fields.items(), place, strict=True):
            self._means[name] = _scores(np.ones((1, len(rows)), np.float32), field)[:, 0]
            self._drawn[name] = _scores(weights[:, rows], field)
            shares = _linear_weights(field)
            self._swapped[name] = np.stack([signs[:, rows] @ (share[:, None] * field.right) for share in shares])

    def mean(self, name: str, metric: str) -> np.ndarray:
        """(M,) the score of every method on one transfer; NaN where it has no answers."""
        return self._means[name][SCORES.index(metric)]

    def table(self, names: Sequence[str], metric: str, ranked: np.ndarray) -> list[Standing]:
        """Every method by its mean over these transfers: group by group, best first, those that do not rank last.

        ranked: (M,) bool, methods that may be in a group; one that lacks a transfer is in none.
        """
        kind = SCORES.index(metric)
        means = np.mean([self._means[name][kind] for name in names], axis=0)
        drawn = np.mean([self._drawn[name][kind] for name in names], axis=0)
        low, high = _quantiles(drawn)
        groups = self._groups(names, metric, means, drawn, np.flatnonzero(ranked & np.isfinite(means)))
        found = [
            Standing(i, float(means[i]), float(low[i]), float(high[i]), groups.get(i)) for i in range(self.methods)
        ]
        last = len(groups) + 1
        return sorted(found, key=lambda one: (one.group or last, np.isnan(one.mean), -one.mean, one.method))

    def _groups(
        self, names: Sequence[str], metric: str, means: np.ndarray, drawn: np.ndarray, ranked: np.ndarray
    ) -> dict[int, int]:
        """The best method and all that it is not told apart from are group 1; the best of the others leads group 2."""
        if metric in LINEAR:
            alike = np.mean([self._swapped[name][LINEAR.index(metric)][:, ranked] for name in names], axis=0)
        else:  # a score that is no sum over cells: the paired bootstrap around its mean
            alike = drawn[:, ranked] - drawn[:, ranked].mean(0)
        apart = told_apart(means[ranked], alike)
        left = np.argsort(-means[ranked], kind="stable")
        groups: dict[int, int] = {}
        number = 0
        while len(left):
            number += 1
            behind = apart[left[0], left]
            groups |= {int(ranked[i]): number for i in left[~behind]}
            left = left[behind]
        return groups


def told_apart(means: np.ndarray, alike: np.ndarray) -> np.ndarray:
    """(M, M) bool: which of M methods with these means differ by more than methods that are alike do.

    alike: (B, M) what the means deviate by, jointly, in B draws where the methods are alike.
    """
    first, second = np.triu_indices(len(means), 1)
    found = np.zeros((len(means), len(means)), bool)
    error = np.zeros(len(first))
    largest = np.zeros(len(alike))
    for start in range(0, len(first), PAIRS_AT_ONCE):
        some = slice(start, start + PAIRS_AT_ONCE)
        gaps = alike[:, first[some]] - alike[:, second[some]]
        error[some] = np.sqrt(np.nanmean(gaps**2, axis=0))
        known = error[some] > 0  # methods that answered every cell alike never differ
        if known.any():
            largest = np.fmax(largest, np.nanmax(np.abs(gaps[:, known]) / error[some][known], axis=1))
    differ = np.abs(means[first] - means[second]) > np.quantile(largest, LEVEL) * error
    found[first, second] = found[second, first] = differ & (error > 0)
    return found


def _quantiles(drawn: np.ndarray) -> np.ndarray:
    """(2, M) ends of the 95 % intervals of (B, M) replicates; NaN for a method without answers."""
    ends = np.full((2, drawn.shape[1]), np.nan)
    known = np.isfinite(drawn).any(0)
    tail = (1 - INTERVAL) / 2
    if known.any():
        ends[:, known] = np.nanquantile(drawn[:, known], [tail, 1 - tail], axis=0)
    return ends


def _units(fields: Sequence[Field]) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Units of a target, each field's cells as places among them, and the strata that units are drawn within.

    A cell is drawn among the cells of its class, a group among all groups.
    """
    units = np.unique(np.concatenate([field.unit for field in fields]))
    place = [np.searchsorted(units, field.unit) for field in fields]
    strata = np.zeros(len(units), int)
    for field, rows in zip(fields, place, strict=True):
        if not field.grouped:
            strata[rows] = field.label
    return units, place, strata


def _resample(rng: np.random.Generator, strata: np.ndarray, count: int) -> np.ndarray:
    """(B, U) float32: how often each unit is drawn, as many of every stratum as it has."""
    weights = np.zeros((count, len(strata)), np.float32)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        weights[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), count)
    return weights


def _linear_weights(field: Field) -> tuple[np.ndarray, np.ndarray]:
    """What a right answer on each cell adds to accuracy and to balanced accuracy, (n,) float32 each."""
    n = len(field.label)
    balanced = np.zeros(n, np.float32)
    for label in field.classes:
        own = field.label == label
        balanced[own] = 1 / (len(field.classes) * own.sum())
    return np.full(n, 1 / n, np.float32), balanced if len(field.classes) else np.full(n, np.nan, np.float32)


def _scores(weights: np.ndarray, field: Field) -> np.ndarray:
    """(3, B, M) accuracy, balanced accuracy and macro-F1 of every method under (B, n) weights of the cells."""
    columns = [answers for answers in field.models if answers is not None]
    found = np.full((len(SCORES), len(weights), len(field.models)), np.nan)
    if not columns:
        return found
    right = field.right
    with np.errstate(divide="ignore", invalid="ignore"):
        found[0] = (weights @ right) / weights.sum(1, keepdims=True)
        if len(field.classes):
            found[1] = _mean([_recall(weights, right, field.label == label) for label in field.classes])
            present = [i for i, answers in enumerate(field.models) if answers is not None]
            found[2][:, present] = _macro_f1(weights, field, columns)
    return found


def _recall(weights: np.ndarray, right: np.ndarray, own: np.ndarray) -> np.ndarray:
    return (weights[:, own] @ right[own]) / weights[:, own].sum(1, keepdims=True)


def _macro_f1(weights: np.ndarray, field: Field, columns: Sequence[np.ndarray]) -> np.ndarray:
    """(B, methods) mean over a method's models of the mean F1 over classes."""
    predicted = np.concatenate(columns, axis=1)
    starts = np.cumsum([0, *(answers.shape[1] for answers in columns[:-1])])
    every_model_asked = bool(np.all(predicted >= 0))
    each = []
    for label in field.classes:
        own = field.label == label
        chosen = (predicted == label).astype(np.float32)
        if every_model_asked:
            true = weights[:, own].sum(1, keepdims=True)
        else:
            true = weights[:, own] @ (predicted[own] >= 0).astype(np.float32)
        each.append(2 * (weights[:, own] @ chosen[own]) / (true + weights @ chosen))
    models = _mean(each)
    return np.add.reduceat(models, starts, axis=1) / [answers.shape[1] for answers in columns]


def _mean(each: Sequence[np.ndarray]) -> np.ndarray:
    """Over classes; a replicate that drew no cell of a class says nothing about it."""
    stacked = np.stack(each)
    counts = np.isfinite(stacked).sum(0)
    return np.where(counts > 0, np.nansum(stacked, axis=0) / np.maximum(counts, 1), np.nan)
