"""A differential count: cells by class, with intervals that carry counting, doubtful classes and a detector's mistakes.

What is estimated is the share t of a class among the patient's white cells, of which the n boxes are a sample. Each of
`DRAWS` draws goes through these steps:

1. Class: every cell's class is drawn, which gives c boxes of the class. Two models, and both count: `class_shares.
   drawn_counts` takes the probabilities as they are, right where the patient's classes have the shares of the run's
   source; `shifted_counts` leaves the shares to the patient's cells, and is right where only the shares differ.
2. False boxes: f ~ Binomial(n, 1 - q) of the boxes are no cells, q ~ Beta(right + 1/2, wrong + 1/2) by the detector's
   record. A share 1 - r of the cells was not found, with recall r ~ Beta(found + 1/2, missed + 1/2).
3. What classes these are, and the u boxes without an answer, nobody can tell from the data. So of each class there are
   a least and a greatest number: `low` takes all f from its boxes, and gives it none of the u and of the missed; `high`
   takes the f from the others, and gives it all u and all missed. With n - f boxes left, d of them of the class,
4. Counting: s ~ Beta(d + 1/2, n - f - d + 1/2), but 0 in `low` where d = 0, and 1 in `high` where d = n - f; t = r s
   for `low`, t = r s + 1 - r for `high`.

A model's interval runs from the 2.5 % quantile of `low` to the 97.5 % quantile of `high`, and that of the class from
the lower end of both to the upper. The counted share need not lie in that of the corrected model: a run that takes one
neutrophil of fifty for a basophil counts basophils where there are none.

Without doubtful cells and without a record it is the Jeffreys interval of each class against the rest, its bounds 0 and
1 where no cell, or every cell, is of the class (Brown, Cai and DasGupta, Statistical Science 16, 2001, doi:
10.1214/ss/1009213286). Beta(1/2, 1/2) is Jeffreys' prior of a share too for q and r. Bounds by the extremes of what is
not known: Manski, Partial Identification of Probability Distributions, 2003; missing data: Gelman et al., Bayesian Data
Analysis, 3rd ed., chapter 8. It does not carry: errors that many cells share, as those of a stain that the run has not
seen, or cells of a class that look otherwise than the source's; how exact the source's calibration is; cells
that lie in two photographs; a record that was made on other smears than these, as its recall is of the classes' shares
there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cellfeat.class_shares import drawn_counts, shifted_counts
from cellfeat.errors import CellfeatError
from cellfeat.predicted import CONFIDENCE
from cellfeat.slots import DetectorRecord

DRAWS = 4000
TAIL = (1 - CONFIDENCE) / 2
ALL = "all"  # patients together, in what is shown; a patient may be called so too
UNANSWERED = "(not classified)"


class Line(NamedTuple):
    """One class of a patient. cells: answered with it. share: of the answered. low, high: 95 % interval. probability:
    its mean over all boxes. estimate: its share of the boxes, corrected for shares of the classes unlike the source's;
    estimate_low, estimate_high: the interval of that model alone. All None of a class that was not taught, which nobody
    looked for."""

    name: str
    cells: int | None
    share: float | None
    low: float | None
    high: float | None
    probability: float | None
    estimate: float | None
    estimate_low: float | None
    estimate_high: float | None

    @property
    def outside(self) -> str:
        """What the counted share is against the interval of the corrected model: "more", "less" or ""."""
        if self.share is None or self.estimate_low is None or self.estimate_high is None:
            return ""
        return "less" if self.share < self.estimate_low else "more" if self.share > self.estimate_high else ""


class Intervals(NamedTuple):
    """Shares (K,) of the classes, as `Line` has them."""

    low: np.ndarray
    high: np.ndarray
    estimate: np.ndarray
    estimate_low: np.ndarray
    estimate_high: np.ndarray


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
        classes: dict[str, dict[str, Any]] = {
            line.name: {**dict(zip(Line._fields[1:], line[1:], strict=True)), "outside": line.outside or None}
            for line in taught
        }
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
    prior: Sequence[float] | None = None,
    held: Sequence[int] | None = None,
) -> list[Count]:
    """The counts of every patient and, where there are several, at the end of all together, the cells being the unit.

    patients: names in the order of the answer, also of those without a cell. patient: (n,) str. chosen: (n,) int64 into
    `classes`. proba: (n, K) float, calibrated. answered: (n,) bool. record: of the detector; None leaves its mistakes
    out of the intervals. prior: (K,), the shares for which proba is right, as `Confidence.prior`; None takes even ones,
    as a training set has them that was drawn evenly. held: (K,) held-out cells that told it; None takes it as exact.
    One seed gives one answer, whichever other patients there are.
    """
    found = []
    together: list[str | None] = [None] if len(patients) > 1 else []
    for name in [*patients, *together]:
        rows = np.arange(len(patient)) if name is None else np.flatnonzero(patient == name)
        rng = np.random.default_rng(seed)
        found.append(
            _count(name, chosen[rows], proba[rows], answered[rows], classes, untaught, record, rng, prior, held)
        )
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
    prior: Sequence[float] | None,
    held: Sequence[int] | None,
) -> Count:
    taught = [place for place, one in enumerate(classes) if one not in untaught]
    shares, told = (None if one is None else np.asarray(one)[taught] for one in (prior, held))
    found = share_intervals(proba[:, taught], answered, record, rng, prior=shares, held=told)
    counts = np.bincount(chosen[answered], minlength=len(classes))
    total, lines = int(answered.sum()), []
    for place, one in enumerate(classes):
        if one in untaught:
            lines.append(Line(one, *(None,) * 8))
            continue
        cells, at = int(counts[place]), taught.index(place)
        share = cells / total if total else None
        low, high, estimate, *corrected = (float(values[at]) for values in found)
        mean, expected = (float(proba[:, place].mean()), estimate) if len(proba) else (None, None)
        lines.append(Line(one, cells, share, low, high, mean, expected, *corrected))
    without = len(chosen) - total
    if without:
        lines.append(Line(UNANSWERED, without, without / len(chosen), *(None,) * 6))
    return Count(name, len(chosen), without, tuple(lines), missed_cells(len(chosen), record, rng))


def share_intervals(
    proba: np.ndarray,
    answered: np.ndarray,
    record: DetectorRecord | None,
    rng: np.random.Generator,
    draws: int = DRAWS,
    prior: np.ndarray | None = None,
    held: np.ndarray | None = None,
) -> Intervals:
    """By the module's model, for n boxes.

    proba: (n, K), rows of sum 1 over the taught classes. answered: (n,) bool. prior: (K,), None for even shares. held:
    (K,), as `shifted_counts` has it.
    """
    boxes, width = proba.shape
    if prior is None:
        prior = np.full(width, 1 / width)
    counts, others = shifted_counts(proba, prior, answered, draws, rng, held)
    kept, recall = np.ones(draws), np.ones(draws)
    if record is not None:
        kept = rng.beta(record.found + 0.5, record.wrong + 0.5, draws)
        recall = rng.beta(record.found + 0.5, record.cells - record.found + 0.5, draws)
    false = rng.binomial(boxes, 1 - kept)[:, None]
    ends = []
    as_they_are = drawn_counts(proba[answered], draws, rng)
    for seen in [counts] if np.array_equal(as_they_are, counts) else [as_they_are, counts]:
        least, most = np.maximum(seen - false, 0), np.minimum(seen + (~answered).sum(), boxes - false)
        few = _shares(least, boxes - false, rng)
        many = few if np.array_equal(least, most) else _shares(most, boxes - false, rng)
        low = np.where(least > 0, few, 0) * recall[:, None]
        high = 1 - np.where(most < boxes - false, 1 - many, 0) * recall[:, None]
        ends.append((np.quantile(low, TAIL, axis=0), np.quantile(high, 1 - TAIL, axis=0)))
    low, high = (np.array(one) for one in zip(*ends, strict=True))
    estimate = (counts + others).mean(axis=0) / max(boxes, 1)
    return Intervals(low.min(axis=0), high.max(axis=0), estimate, low[-1], high[-1])


def _shares(counts: np.ndarray, boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(draws, K) Beta(c + 1/2, n - c + 1/2) of each class by itself, at evenly spread quantiles, so that the draws of
    counts that are all equal have the distribution's own quantiles. boxes: (draws, 1), n."""
    from scipy.special import betaincinv

    draws, width = counts.shape
    spread = np.stack([(rng.permutation(draws) + 0.5) / draws for _ in range(width)], axis=1)
    return betaincinv(counts + 0.5, boxes - counts + 0.5, spread)


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
