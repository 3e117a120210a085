"""A differential count: cells by class, with intervals that carry counting, doubtful classes and a detector's mistakes.

What is estimated is the share t of a class among the patient's white cells, of which the n boxes are a sample. Each of
`DRAWS` draws goes through these steps:

1. Class: every cell's class is drawn from its calibrated probabilities, which gives c boxes of the class.
2. False boxes: a box is a cell with probability q ~ Beta(right + 1/2, wrong + 1/2), by the detector's record; as many
   boxes of each class stay.
3. Counting: among what was seen, s ~ Beta(c + 1/2, n - c + 1/2).
4. Cells without an answer (of the share w) and cells that were not found (a share 1 - r of all, with recall
   r ~ Beta(found + 1/2, missed + 1/2)): t = r ((1 - w) s + w a) + (1 - r) m, where a and m are their own mixtures.

Whether what is not known resembles what is known, nobody can tell from the data, so that two extremes are computed.
`alike`: false boxes are as common in every class, m = s, and a cell without an answer is what its probabilities say.
`apart`: the mixtures of the missed, of the unanswered and of the false boxes are each drawn from Dirichlet(1/K, ..,
1/K), as if nothing were known of them but that they are mostly of a few classes, as a detector's misses are. The
interval runs from the lower of both 2.5 % quantiles to the upper of both 97.5 % quantiles, and always holds the share
that was counted. It is so too wide rather than too narrow.

Without doubtful cells and without a record it is the Jeffreys interval of each class against the rest, its bounds 0 and
1 where no cell, or every cell, is of the class (Brown, Cai and DasGupta, Statistical Science 16, 2001, doi:
10.1214/ss/1009213286). Beta(1/2, 1/2) is Jeffreys' prior of a share too for q and r; Dirichlet(1/K) is Perks' of K
shares (Journal of the Institute of Actuaries 73, 1947; Berger, Bernardo and Sun, Bayesian Analysis 10, 2015, doi:
10.1214/14-BA915). Data that are missing, at random or not: Gelman et al., Bayesian Data Analysis, 3rd ed., chapter 8.
It does not carry: errors that many cells share, as those of a stain that the run has not seen; cells that lie in two
photographs; a record that was made on other smears than these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cellfeat.errors import CellfeatError
from cellfeat.predicted import CONFIDENCE
from cellfeat.slots import DetectorRecord

DRAWS = 4000
TAIL = (1 - CONFIDENCE) / 2
SURE = 1 - 1e-9  # of a cell's largest probability: there is nothing to draw
CHUNK = 250  # cells whose classes are drawn at once
ALL = "all"  # patients together, in what is shown; a patient may be called so too
UNANSWERED = "(not classified)"


class Line(NamedTuple):
    """One class of a patient. cells: answered with it. share: of the answered. low, high: 95 % interval. probability:
    its mean over all boxes. All None of a class that was not taught, which nobody looked for."""

    name: str
    cells: int | None
    share: float | None
    low: float | None
    high: float | None
    probability: float | None


class Count(NamedTuple):
    """A patient's cells by class. patient: None for all of several together. cells: boxes. missed: 95 % interval of the
    number of cells that were not found; None without a record of the detector."""

    patient: str | None
    cells: int
    unanswered: int
    lines: tuple[Line, ...]
    missed: tuple[int, int] | None

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        taught = self.lines[:-1] if self.unanswered else self.lines  # a class, too, may be called as the last line is
        classes = {line.name: dict(zip(Line._fields[1:], line[1:], strict=True)) for line in taught}
        found = {"patient": self.patient, "cells": self.cells, "not_classified": self.unanswered, "classes": classes}
        return found | {"missed": None if self.missed is None else list(self.missed)}


def differential(
    patients: Sequence[str],
    patient: np.ndarray,
    chosen: np.ndarray,
    proba: np.ndarray,
    answered: np.ndarray,
    classes: Sequence[str],
    untaught: Sequence[str] = (),
    record: DetectorRecord | None = None,
    seed: int = 0,
) -> list[Count]:
    """The counts of every patient and, where there are several, at the end of all together, the cells being the unit.

    patients: names in the order of the answer, also of those without a cell. patient: (n,) str. chosen: (n,) int64 into
    `classes`. proba: (n, K) float, calibrated. answered: (n,) bool. record: of the detector; None leaves its mistakes
    out of the intervals. One seed gives one answer, whichever other patients there are.
    """
    found = []
    together: list[str | None] = [None] if len(patients) > 1 else []
    for name in [*patients, *together]:
        rows = np.arange(len(patient)) if name is None else np.flatnonzero(patient == name)
        rng = np.random.default_rng(seed)
        found.append(_count(name, chosen[rows], proba[rows], answered[rows], classes, untaught, record, rng))
    return found


def _count(
    name: str | None,
    chosen: np.ndarray,
    proba: np.ndarray,
    answered: np.ndarray,
    classes: Sequence[str],
    untaught: Sequence[str],
    record: DetectorRecord | None,
    rng: np.random.Generator,
) -> Count:
    taught = [place for place, one in enumerate(classes) if one not in untaught]
    low, high = share_intervals(proba[:, taught], answered, record, rng)
    counts = np.bincount(chosen[answered], minlength=len(classes))
    total, lines = int(answered.sum()), []
    for place, one in enumerate(classes):
        if one in untaught:
            lines.append(Line(one, *(None,) * 5))
            continue
        cells, at = int(counts[place]), taught.index(place)
        share = cells / total if total else None
        bounds = _bounds(float(low[at]), float(high[at]), cells, total, len(chosen))
        lines.append(Line(one, cells, share, *bounds, float(proba[:, place].mean()) if len(proba) else None))
    without = len(chosen) - total
    if without:
        lines.append(Line(UNANSWERED, without, without / len(chosen), None, None, None))
    return Count(name, len(chosen), without, tuple(lines), missed_cells(len(chosen), record, rng))


def _bounds(low: float, high: float, cells: int, answered: int, boxes: int) -> tuple[float, float]:
    """Those of the quantiles, so widened that they hold the counted share; 0 and 1 where the count is at its end."""
    share = cells / answered if answered else 0.5
    return 0.0 if cells == 0 else min(low, share), 1.0 if cells == boxes else max(high, share)


def share_intervals(
    proba: np.ndarray,
    answered: np.ndarray,
    record: DetectorRecord | None,
    rng: np.random.Generator,
    draws: int = DRAWS,
) -> tuple[np.ndarray, np.ndarray]:
    """The lower and upper bounds, (K,) each, of the module's model, for n boxes.

    proba: (n, K), rows of sum 1 over the taught classes. answered: (n,) bool.
    """
    seen, open_ = drawn_counts(proba[answered], draws, rng), drawn_counts(proba[~answered], draws, rng)
    width = proba.shape[1]
    kept, recall = np.ones(draws), np.ones(draws)
    if record is not None:
        kept = rng.beta(record.found + 0.5, record.wrong + 0.5, draws)
        recall = rng.beta(record.found + 0.5, record.cells - record.found + 0.5, draws)
    alike = _shares(rng.binomial(seen + open_, kept[:, None]) if record else seen + open_, rng)
    apart = _shares(_without_some(seen, kept, rng) if record else seen, rng)
    if len(proba) > answered.sum():
        weight = rng.beta(len(proba) - answered.sum() + 0.5, answered.sum() + 0.5, draws)[:, None]
        apart = (1 - weight) * apart + weight * _unknown(draws, width, rng)
    apart = recall[:, None] * apart + (1 - recall[:, None]) * (_unknown(draws, width, rng) if record else 0)
    both = np.stack([np.quantile(one, (TAIL, 1 - TAIL), axis=0) for one in (alike, apart)])
    return both[:, 0].min(axis=0), both[:, 1].max(axis=0)


def drawn_counts(proba: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """(draws, K) int64 cells by class, every one of (n, K) drawn from its row."""
    sure = proba.max(axis=1, initial=0.0) >= SURE
    counts = np.tile(np.bincount(proba[sure].argmax(axis=1), minlength=proba.shape[1]), (draws, 1))
    steps = proba[~sure].cumsum(axis=1)
    steps /= steps[:, -1:]
    for start in range(0, len(steps), CHUNK):
        part = steps[start : start + CHUNK]
        above = rng.random((draws, len(part)))
        reached = [(above < part[:, place]).sum(axis=1) for place in range(part.shape[1])]
        counts += np.diff(np.stack(reached, axis=1), axis=1, prepend=0)
    return counts


def _shares(counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(draws, K) Beta(c + 1/2, n - c + 1/2) of each class by itself, at evenly spread quantiles, so that the draws of
    counts that are all equal have the distribution's own quantiles."""
    from scipy.special import betaincinv

    draws, width = counts.shape
    rest = counts.sum(axis=1, keepdims=True) - counts
    spread = np.stack([(rng.permutation(draws) + 0.5) / draws for _ in range(width)], axis=1)
    return betaincinv(counts + 0.5, rest + 0.5, spread)


def _unknown(draws: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(draws, K) mixtures of cells whose classes are not known; most are of few classes, each as likely as another."""
    return rng.dirichlet(np.full(width, 1 / width), draws)


def _without_some(counts: np.ndarray, kept: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The counts less false boxes of a mixture of their own; no class has more of them than it has boxes."""
    false = rng.binomial(counts.sum(axis=1), 1 - kept)
    return np.maximum(counts - rng.multinomial(false, _unknown(len(counts), counts.shape[1], rng)), 0)


def missed_cells(boxes: int, record: DetectorRecord | None, rng: np.random.Generator) -> tuple[int, int] | None:
    """The 95 % interval of the number of cells that were not found: of boxes that are cells by the drawn precision,
    NegativeBinomial(cells, recall), the failures before the last success. None without a record."""
    if record is None:
        return None
    precision = rng.beta(record.found + 0.5, record.wrong + 0.5, DRAWS)
    recall = rng.beta(record.found + 0.5, record.cells - record.found + 0.5, DRAWS)
    cells = rng.binomial(boxes, precision)
    missed = np.where(cells > 0, rng.negative_binomial(np.maximum(cells, 1), recall), 0)
    low, high = np.quantile(missed, (TAIL, 1 - TAIL), method="closest_observation")
    return int(low), int(high)


def checked_record(cells: int, found: int, wrong: int, on: str) -> DetectorRecord:
    """Raises: CellfeatError for numbers that no detector can have reached."""
    if cells < 1 or not 0 <= found <= cells or wrong < 0:
        raise CellfeatError(
            f"--detector-record {cells},{found},{wrong}: of CELLS (1 or more) known ones FOUND are those that have a "
            "box, and WRONG the boxes that are no white cell, as in 412,398,9"
        )
    return DetectorRecord(cells, found, wrong, on)
