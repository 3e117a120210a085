"""Two methods on the same cells: the difference of their balanced accuracies, its interval and its p-value.

Both are compared in the cells that both answered, transfer by transfer (a source and a target), each cell by the share
of the models (folds, seeds) that were right. What is drawn anew, or swapped, is the cell, or its whole group where
groups repeat, in all transfers that it is a target of at once: one cell tells only once how hard it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cellfeat.metrics import INTERVAL, MINIMUM_CELLS

REPLICATES = 10_000
AT_ONCE = 250  # replicates


class Answers(NamedTuple):
    """One method on one transfer: ids (n,) of the target's cells, and the share of its models that were right (n,)."""

    id: np.ndarray
    right: np.ndarray


class Truth(NamedTuple):
    """Of every cell of the data, by its id: label, domain and group, each a name."""

    label: Mapping[str, str]
    domain: Mapping[str, str]
    group: Mapping[str, str]


@dataclass(frozen=True)
class Comparison:
    """First less second: mean over transfers of the difference in balanced accuracy, with its 95 % interval.

    p: of the two-sided test by random swaps. transfers: the difference on each.
    """

    difference: float
    low: float
    high: float
    p: float
    transfers: dict[str, float]
    classes: dict[str, list[str]]  # averaged over, by transfer


def compare(
    first: Mapping[str, Answers],
    second: Mapping[str, Answers],
    truth: Truth,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Comparison:
    """Compare two methods on the transfers that both have.

    The interval is a percentile bootstrap over cells within target and class, or over groups within a target. The test
    exchanges the two methods' answers of randomly chosen cells (or groups): under the hypothesis that the methods are
    alike every exchange is as likely as what was seen (Fisher's randomisation). p = (1 + exceedances) / (1 +
    replicates), after Phipson and Smyth 2010.

    A transfer in which no class has enough cells says nothing and is left out.

    Raises: ValueError where the two share no transfer, or none that says anything.
    """
    names = [name for name in first if name in second]
    if not names:
        raise ValueError("the two have no transfer in common")
    table = _Table.of([(first[name], second[name]) for name in names], truth)
    if not all(table.classes):
        said = {name: first[name] for name, classes in zip(names, table.classes, strict=True) if classes}
        if not said:
            raise ValueError(f"their common transfers have no class with at least {MINIMUM_CELLS} cells")
        return compare(said, second, truth, seed, replicates)
    means = table.means(np.ones((1, len(table.names))))
    rng = np.random.default_rng(seed)
    drawn, swapped = [], []
    for start in range(0, replicates, AT_ONCE):
        count = min(AT_ONCE, replicates - start)
        drawn.append(table.means(table.resample(rng, count)).mean(1))
        signs = rng.integers(0, 2, (count, len(table.names))) * 2.0 - 1.0
        swapped.append(table.means(np.ones((count, len(table.names))), signs).mean(1))
    observed = float(means.mean())
    tail = (1 - INTERVAL) / 2
    low, high = np.nanquantile(np.concatenate(drawn), [tail, 1 - tail])
    # Rounding must not make a draw that equals what was seen smaller than it.
    exceeding = int(np.sum(np.abs(np.concatenate(swapped)) >= abs(observed) - 1e-12))
    return Comparison(
        observed,
        float(low),
        float(high),
        (1 + exceeding) / (1 + replicates),
        dict(zip(names, means[0].tolist(), strict=True)),
        dict(zip(names, table.classes, strict=True)),
    )


@dataclass(frozen=True)
class _Table:
    """Differences and counts by exchangeable unit (a cell or a group), one column per transfer and class."""

    names: np.ndarray  # (U,) units
    strata: np.ndarray  # (U,) units of one number are drawn among each other
    difference: np.ndarray  # (U, C) sum of first less second over the unit's cells of a class
    count: np.ndarray  # (U, C) the unit's cells of a class
    transfer: np.ndarray  # (C,) which transfer a column belongs to
    classes: list[list[str]]

    @classmethod
    def of(cls, pairs: Sequence[tuple[Answers, Answers]], truth: Truth) -> _Table:
        columns: list[tuple[np.ndarray, np.ndarray, int]] = []
        classes: list[list[str]] = []
        strata: dict[str, str] = {}
        for number, (one, other) in enumerate(pairs):
            ids, left, right = np.intersect1d(one.id, other.id, return_indices=True)
            gap = one.right[left] - other.right[right]
            labels = np.array([truth.label[name] for name in ids])
            domains = [truth.domain[name] for name in ids]
            groups = np.array([f"{d}|{truth.group[name]}" for d, name in zip(domains, ids, strict=True)])
            grouped = len(np.unique(groups)) < len(groups)
            units = groups if grouped else ids
            kinds = domains if grouped else [f"{d}|{c}" for d, c in zip(domains, labels, strict=True)]
            scored = [name for name in np.unique(labels) if np.sum(labels == name) >= MINIMUM_CELLS]
            classes.append([str(name) for name in scored])
            columns += [(units[labels == name], gap[labels == name], number) for name in scored]
            strata |= {unit: kind for unit, kind, c in zip(units.tolist(), kinds, labels, strict=True) if c in scored}
        names = np.array(sorted(strata))
        difference, count = np.zeros((2, len(names), len(columns)))
        for column, (units, gap, _) in enumerate(columns):
            rows = np.searchsorted(names, units)
            np.add.at(difference[:, column], rows, gap)
            np.add.at(count[:, column], rows, 1)
        kinds = [strata[name] for name in names.tolist()]
        transfer = np.array([column[2] for column in columns], int)
        return cls(names, np.unique(kinds, return_inverse=True)[1], difference, count, transfer, classes)

    def resample(self, rng: np.random.Generator, replicates: int) -> np.ndarray:
        """(R, U) how often each unit is drawn, as many of every stratum as it has."""
        weights = np.zeros((replicates, len(self.names)))
        for stratum in np.unique(self.strata):
            members = np.flatnonzero(self.strata == stratum)
            weights[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), replicates)
        return weights

    def means(self, weights: np.ndarray, signs: np.ndarray | None = None) -> np.ndarray:
        """(R, T) difference in balanced accuracy of every transfer under (R, U) weights and exchanges."""
        signed = weights if signs is None else weights * signs
        with np.errstate(divide="ignore", invalid="ignore"):
            recall = (signed @ self.difference) / (weights @ self.count)
        kinds = range(len(self.classes))
        return np.stack([np.nanmean(recall[:, self.transfer == kind], axis=1) for kind in kinds], axis=1)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979): the chance of any false finding among them stays below."""
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    steps = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(steps, 1)
    return corrected.tolist()
