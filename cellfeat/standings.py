"""Many methods on the same cells: means with intervals, and which of them the paired test can tell apart.

All methods are measured in the same resampled cells and tested by the same exchanges (see `cellfeat.comparison`, whose
statistics these are for a whole table at once): a cell, or its whole group where groups repeat, is drawn or exchanged
in all transfers that it is a target of at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cellfeat.comparison import holm
from cellfeat.metrics import INTERVAL, SCORES, scored_classes

DRAWS = 1000  # of the bootstrap
SWAPS = 10_000  # of the exchange test; more where a table has more rows than these can tell apart
SWAPS_PER_METHOD = 40  # Holm's correction for M comparisons needs p-values below 0.05 / M
MOST_SWAPS = 40_000
SIGNIFICANT = 0.05
LINEAR = ("accuracy", "balanced_accuracy")  # sums over cells, so that exchanging answers flips a cell's sign
AT_ONCE = 1000  # replicates
ROUNDING = 1e-6  # of float32 sums over some thousand cells


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
        self._swapped: dict[str, np.ndarray] = {}  # (2, R, M) the linear scores' sums under exchange
        for number, target in enumerate(sorted({field.target for field in fields.values()})):
            own = {name: field for name, field in fields.items() if field.target == target}
            self._measure(own, np.random.default_rng([seed, number]))

    def _measure(self, fields: Mapping[str, Field], rng: np.random.Generator) -> None:
        """Scores, resamples and exchanges of the transfers to one target, all in the same cells."""
        units, place, strata = _units(list(fields.values()))
        weights = _resample(rng, strata, DRAWS)
        swaps = min(max(SWAPS, SWAPS_PER_METHOD * self.methods), MOST_SWAPS)
        for (name, field), rows in zip(fields.items(), place, strict=True):
            self._means[name] = _scores(np.ones((1, len(rows)), np.float32), field)[:, 0]
            self._drawn[name] = _scores(weights[:, rows], field)
            self._swapped[name] = np.empty((len(LINEAR), swaps, self.methods), np.float32)
        for start in range(0, swaps, AT_ONCE):
            count = min(AT_ONCE, swaps - start)
            signs = rng.integers(0, 2, (count, len(units)), dtype=np.int8).astype(np.float32) * 2 - 1
            for (name, field), rows in zip(fields.items(), place, strict=True):
                for kind, share in enumerate(_linear_weights(field)):
                    products = signs[:, rows] @ (share[:, None] * field.right)
                    self._swapped[name][kind, start : start + count] = products

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
        groups = self._groups(names, metric, means, drawn, ranked & np.isfinite(means))
        found = [
            Standing(i, float(means[i]), float(low[i]), float(high[i]), groups.get(i)) for i in range(self.methods)
        ]
        last = len(groups) + 1
        return sorted(found, key=lambda one: (one.group or last, np.isnan(one.mean), -one.mean, one.method))

    def _groups(
        self, names: Sequence[str], metric: str, means: np.ndarray, drawn: np.ndarray, ranked: np.ndarray
    ) -> dict[int, int]:
        """The best method and all that it is not surely ahead of (paired test, Holm) are group 1; and so on."""
        swapped = None
        if metric in LINEAR:
            swapped = np.mean([self._swapped[name][LINEAR.index(metric)] for name in names], axis=0)
        left = np.flatnonzero(ranked)
        left = left[np.argsort(-means[left], kind="stable")]
        groups: dict[int, int] = {}
        number = 0
        while len(left):
            number += 1
            leader, others = left[0], left[1:]
            gaps = means[leader] - means[others]
            p = _by_exchange(swapped, leader, others, gaps) if swapped is not None else _by_draws(drawn, leader, others)
            worse = np.array(holm(p.tolist()), float) < SIGNIFICANT
            groups |= {int(leader): number, **{int(i): number for i in others[~worse]}}
            left = others[worse]
        return groups


def _quantiles(drawn: np.ndarray) -> np.ndarray:
    """(2, M) ends of the 95 % intervals of (B, M) replicates; NaN for a method without answers."""
    ends = np.full((2, drawn.shape[1]), np.nan)
    known = np.isfinite(drawn).any(0)
    tail = (1 - INTERVAL) / 2
    if known.any():
        ends[:, known] = np.nanquantile(drawn[:, known], [tail, 1 - tail], axis=0)
    return ends


def _by_exchange(swapped: np.ndarray, leader: int, others: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """p-values of the leader's gaps: how often exchanging answers at random gives as large ones."""
    exceeding = np.sum(np.abs(swapped[:, [leader]] - swapped[:, others]) >= np.abs(gaps) - ROUNDING, axis=0)
    return (1 + exceeding) / (1 + len(swapped))


def _by_draws(drawn: np.ndarray, leader: int, others: np.ndarray) -> np.ndarray:
    """p-values by the paired bootstrap, for a score that is no sum over cells."""
    gaps = drawn[:, [leader]] - drawn[:, others]
    tail = np.minimum(np.sum(gaps <= 0, axis=0), np.sum(gaps >= 0, axis=0))
    return np.minimum(1, 2 * (1 + tail) / (1 + len(drawn)))


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
