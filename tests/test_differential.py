"""Intervals of a differential count: against Jeffreys' where nothing is in doubt, and by simulation where it is."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import beta, binom

from cellfeat import CellfeatError, DetectorRecord
from cellfeat.differential import (
    UNANSWERED,
    Count,
    Line,
    checked_record,
    differential,
    missed_cells,
)
from cellfeat.differential_text import parsed_record, said_of_detector, said_of_outside, summary, tables
from cellfeat.smear_folder import write_counts

CLASSES = ("eosinophil", "lymphocyte", "neutrophil")
RECORD = DetectorRecord(400, 380, 8, "drawn smears")


def sure(*counts: int) -> np.ndarray:
    """(n, K) probabilities of cells that nobody doubts."""
    return np.repeat(np.eye(len(counts)), counts, axis=0)


def counted(proba: np.ndarray, answered: np.ndarray | None = None, record: DetectorRecord | None = None, **options):
    """The count of one patient."""
    there = np.ones(len(proba), bool) if answered is None else answered
    chosen = proba.argmax(axis=1) if len(proba) else np.zeros(0, int)
    [one] = differential(["p"], np.full(len(proba), "p"), chosen, proba, there, CLASSES, record=record, **options)
    return one


def widths(one) -> np.ndarray:
    return np.array([line.high - line.low for line in one.lines if line.low is not None])


def test_without_doubt_it_is_the_interval_of_jeffreys():
    """As printed by Brown, Cai and DasGupta for n = 10, x = 3 (0.093, 0.606), and by scipy for others."""
    three = counted(sure(3, 7, 0)).lines[0]
    assert (three.low, three.high) == pytest.approx((0.0927, 0.6058), abs=6e-4)
    for line, cells in zip(counted(sure(5, 40, 75)).lines, (5, 40, 75), strict=True):
        expected = beta.ppf([0.025, 0.975], cells + 0.5, 120 - cells + 0.5)
        assert (line.cells, line.share) == (cells, cells / 120)
        assert (line.low, line.high) == pytest.approx(expected, abs=4e-4)


def test_the_ends_of_the_scale():
    none = counted(np.zeros((0, 3)))
    assert [(line.cells, line.share, line.low, line.high) for line in none.lines] == [(0, None, 0.0, 1.0)] * 3
    first, second, _ = counted(sure(1, 0, 0)).lines
    assert (first.share, first.high) == (1.0, 1.0)
    assert (second.share, second.low) == (0.0, 0.0)
    assert first.low == pytest.approx(beta.ppf(0.025, 1.5, 0.5), abs=2e-3)
    everything = counted(sure(0, 300, 0), record=RECORD).lines[1]
    assert everything.high == 1.0
    assert 0.85 < everything.low < 0.97  # 5 % of the cells are not seen


@pytest.mark.parametrize("part", ["doubt", "record", "abstained"])
def test_every_doubt_widens(part):
    plain = counted(sure(20, 30, 50))
    if part == "doubt":
        other = counted(0.7 * sure(20, 30, 50) + 0.1)
    elif part == "record":
        other = counted(sure(20, 30, 50), record=RECORD)
    else:
        other = counted(sure(20, 30, 50), np.arange(100) % 10 > 0)
        assert other.lines[-1] == (UNANSWERED, 10, 0.1, *(None,) * 6)
        assert [line.cells for line in other.lines[:3]] == [18, 27, 45]
        assert (other.cells, other.unanswered) == (100, 10)
    assert np.all(widths(other) > widths(plain))
    for line in other.lines[:3]:
        assert line.low <= line.share <= line.high


def test_a_worse_detector_and_a_smaller_record_widen():
    better = widths(counted(sure(20, 30, 50), record=DetectorRecord(4000, 3990, 5, "x")))
    assert better == pytest.approx(widths(counted(sure(20, 30, 50))), rel=0.1)
    usual = widths(counted(sure(20, 30, 50), record=RECORD))
    worse = widths(counted(sure(20, 30, 50), record=DetectorRecord(400, 300, 90, "x")))
    few = widths(counted(sure(20, 30, 50), record=DetectorRecord(20, 19, 0, "x")))
    assert np.all(worse > usual)
    assert np.all(few > usual)


def test_plain_intervals_hold_the_share_as_often_as_they_say():
    """Summed over every count of 40 cells; Jeffreys' interval has 95 % on average, and less at some shares."""
    cells, shares = 40, np.linspace(0.02, 0.98, 97)
    lines = [counted(sure(count, cells - count, 0)).lines[0] for count in range(cells + 1)]
    low, high = (np.array([getattr(line, name) for line in lines]) for name in ("low", "high"))
    inside = (low[:, None] <= shares) & (shares <= high[:, None])
    coverage = (binom.pmf(np.arange(cells + 1)[:, None], cells, shares) * inside).sum(axis=0)
    assert 0.94 < coverage.mean() < 0.965
    assert coverage.min() > 0.87


def test_so_many_cells_were_missed():
    rng = np.random.default_rng(0)
    assert missed_cells(100, None, rng) is None
    assert missed_cells(0, RECORD, rng) == (0, 0)
    low, high = missed_cells(1000, DetectorRecord(4000, 3600, 0, "x"), rng)
    assert low < 1000 * 0.1 / 0.9 < high
    assert high - low < 60


def test_patients_all_together_and_what_was_not_taught():
    proba = sure(0, 12, 8)
    patient = np.array(["b"] * 12 + ["a"] * 8)
    arguments = (proba.argmax(axis=1), proba, np.ones(20, bool), CLASSES, ("eosinophil",))
    counts = differential(["a", "b", "none"], patient, *arguments)
    assert [(one.patient, one.cells) for one in counts] == [("a", 8), ("b", 12), ("none", 0), (None, 20)]
    assert counts[0].lines[0] == ("eosinophil", *(None,) * 8)
    assert [line.cells for line in counts[1].lines] == [None, 12, 0]
    alone = differential(["b"], patient[:12], *(part[:12] for part in arguments[:3]), *arguments[3:])
    assert alone == [counts[1]], "who else was counted changes nothing, and one patient is not shown twice"
    found = summary(counts, RECORD)
    assert [one["patient"] for one in found["patients"]] == ["a", "b", "none"]
    assert found["all"]["classes"]["neutrophil"]["cells"] == 8
    assert found["detector_record"]["found"] == 380
    assert summary(alone, None)["all"] is None
    assert len(list(tables(counts))) == 2
    assert len(list(tables(alone))) == 1


def test_names_are_names_whatever_they_look_like(tmp_path):
    """A patient may be called as the total is, a class as the line of cells without one; neither is markup, and no
    spreadsheet reads a formula."""
    classes = ("=1+1", "[/i]baso", UNANSWERED)
    proba = sure(4, 5, 6)
    whose = np.array(["all"] * 4 + ["[/x]"] * 11)
    answered = np.arange(15) > 0
    counts = differential(["[/x]", "all"], whose, proba.argmax(axis=1), proba, answered, classes)
    assert [(one.patient, one.cells) for one in counts] == [("[/x]", 11), ("all", 4), (None, 15)]
    assert list(counts[1].as_dict()["classes"]) == list(classes)
    console = Console(width=120, file=io.StringIO())
    for table in tables(counts):
        console.print(table)
    said = console.file.getvalue()
    assert all(name in said for name in ("[/i]baso", "[/x]", "all", "=1+1"))
    write_counts(tmp_path, counts, summary(counts, None))
    with (tmp_path / "differential.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert next((line["n"], line["class"]) for line in lines if line["patient"] == "all") == ("4", "'=1+1")
    assert {line["n"] for line in lines if not line["patient"]} == {"15"}


def test_a_record_of_ones_own():
    assert parsed_record("412, 398,9")[:3] == (412, 398, 9)
    with pytest.raises(CellfeatError, match="--detector-record 412: three whole numbers CELLS,FOUND,WRONG"):
        parsed_record("412")
    for numbers in ((0, 0, 0), (10, 11, 0), (10, 9, -1)):
        with pytest.raises(CellfeatError, match=r"of CELLS .* known ones FOUND are those that have a box"):
            checked_record(*numbers, "x")
    said = said_of_detector([counted(sure(20, 30, 50), record=RECORD)], RECORD, "finder")
    assert "of 400 cells 380 found, 8 boxes wrong" in said
    assert "intervals leave out cells that finder missed" in said_of_detector([], None, "finder")


def test_a_counted_share_that_the_probabilities_do_not_believe_is_told():
    """200 sure neutrophils, and 20 lymphocytes that would be neutrophils where there are so many more of these."""
    proba = np.concatenate([sure(0, 0, 200), np.tile([0.0, 0.9, 0.1], (20, 1))])
    one = counted(proba)
    _, lymphocyte, neutrophil = one.lines
    assert lymphocyte.share == pytest.approx(20 / 220)
    assert lymphocyte.estimate < 0.03
    assert lymphocyte.estimate_high < lymphocyte.share < lymphocyte.high, "as the source's shares, it would be believed"
    assert (lymphocyte.outside, neutrophil.outside, one.lines[0].outside) == ("more", "less", "")
    assert one.as_dict()["classes"]["lymphocyte"]["outside"] == "more"
    assert one.as_dict()["classes"]["eosinophil"]["outside"] is None
    said = said_of_outside([one])
    assert "p: lymphocyte 9.1 %, more than 0.0–" in said
    assert "p: neutrophil 90.9 %, less than" in said
    [table] = tables([one])
    assert any("counted more" in text for text in table.columns[3].cells)
    assert said_of_outside([counted(sure(20, 30, 50))]) == ""
    assert counted(proba, prior=(0.1, 0.1, 0.8)).lines[1].outside == "", "where neutrophils were so common, it is right"
    many = Count("q", 9, 0, tuple(Line(name, 9, 0.9, 0.1, 0.2, 0.9, 0.1, 0.1, 0.2) for name in "abcd"), None)
    said = said_of_outside([many, many, many])
    assert said.count("more than") == 6
    assert "and 6 others" in said
    assert "all together: a" in said_of_outside([many._replace(lines=()), many._replace(lines=()), many])
