"""Figures of predictions: counts that agree, intervals, what is not drawn."""

from __future__ import annotations

import numpy as np
from reporting import SCORED, drawn_texts, record

from cellfeat import rendering
from cellfeat.prediction_figures import confusions, recall, scores
from cellfeat.reliability_figures import calibration
from cellfeat.run_pictures import galleries
from cellfeat.transfers import Scored, Transfer


def test_a_confusion_matrix_shows_shares_and_counts():
    figure = confusions([SCORED])
    shown = drawn_texts(rendering.for_page(figure.panels[0], "p"))
    for text in ("80", "8", "20", "2", "10", "1", "90", "9", "a (n = 10)", "b (n = 10)"):
        assert text in shown
    assert [list(row) for row in figure.numbers.rows] == [["s → t", "a", "8", "2"], ["s → t", "b", "1", "9"]]
    assert "20 % of a called b" in figure.panels[0].alt
    seeds = confusions([Scored("s → t", [record([[10, 0], [0, 10]]), record([[8, 2], [1, 9]])], None)])
    assert list(seeds.numbers.rows[0]) == ["s → t", "a", "9", "1"]


def test_seeds_that_score_different_cells_agree_in_their_counts():
    label, proba = np.array([0] * 3 + [1] * 3), np.tile([0.9, 0.1], (6, 1))
    ids = np.array([f"{i}" for i in range(6)])
    hit = proba[:, 0] > 1 / 2
    some = Transfer("s", "t", ids, label, proba, hit.astype(float), np.full(8, 0.9), np.full(8, True), 2)
    seeds = [record([[2, 0], [1, 1]]), record([[2, 0], [0, 2]], seed=2)]
    one = Scored("s → t", seeds, some)
    assert (one.cells, one.class_counts, some.said_models) == (6, {"a": 3, "b": 3}, "up to 2 models")
    assert "n = 6 cells × up to 2 models" in confusions([one]).panels[0].alt
    assert "as the mean over seeds" in confusions([one]).caption
    assert "n = 8 answers on 6 cells" in calibration([one]).panels[0].alt
    assert [row[2] for row in recall([one], {}).numbers.rows] == ["3", "3"]
    assert "the mean over up to 2 models" in galleries([one], None)[0].said_of_doubts


def test_scores_have_a_row_for_each_transfer_and_say_what_is_not_drawn():
    high = {"balanced_accuracy": {"mean": 0.85, "low": 0.6, "high": 0.9}}
    seeds = [record([[8, 2], [1, 9]]), record([[8, 2], [1, 9]], seed=2, scores=high)]
    figure = scores([Scored("s → t", seeds, None)])
    assert figure.panels[0].alt == "Balanced accuracy by transfer: s → t 80.0 %"
    assert "n: t 20 cells. Of 2 seeds: the mean, with the lowest and highest bound" in figure.caption
    many = scores([Scored(f"s → {i}", seeds, None) for i in range(45)])
    assert many.panels[0].alt.count("→") == 36
    assert "Drawn are 36 of 45 transfers; the table has all." in many.caption


def test_counts_of_a_matrix_are_whole_from_a_hundred_on():
    texts = drawn_texts(
        rendering.for_page(confusions([Scored("s", [record([[1531.8, 0], [99.5, 3]])], None)]).panels[0], "p")
    )
    assert {"1,532", "99.5", "3"} <= set(texts)
    assert "1,531.8" not in texts


def test_recall_takes_the_intervals_that_the_run_kept():
    kept = {("s", "t"): {"a": [0.5, 0.95], "b": [0.7, 1.0]}}
    rows = [list(row) for row in recall([SCORED], kept).numbers.rows]
    assert rows == [["s → t", "a", "10", "80.0", "[50.0, 95.0]"], ["s → t", "b", "10", "90.0", "[70.0, 100.0]"]]
    older = recall([SCORED], {})
    assert "groups are not known" in older.caption
    assert recall([SCORED._replace(transfer=None)], {}) is None


def test_a_reliability_curve_says_error_binning_and_n():
    figure = calibration([SCORED])
    assert "ECE 12.3 %, n = 20 answers on 20 cells" in drawn_texts(rendering.for_page(figure.panels[0], "p"))
    assert "15 bins" in figure.caption
    assert "of all (%)" in drawn_texts(rendering.for_page(figure.panels[0], "p"))
    assert [row[2] for row in figure.numbers.rows] == ["10", "10"]
    assert "not sure enough" in figure.panels[0].alt
    assert calibration([SCORED._replace(transfer=None)]) is None


def test_scores_that_nobody_can_compute_are_left_out():
    empty = record([[1, 0], [0, 1]], scores={"balanced_accuracy": {"mean": None, "low": None, "high": None}})
    text = rendering.for_page(scores([SCORED, Scored("s → u", [empty], None)]).panels[0], "p")
    assert {"s → t", "s → u"} <= set(drawn_texts(text))
