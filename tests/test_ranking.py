"""Rankings and comparisons from records and predictions that are made up, so that every figure is known."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from cellfeat import CellfeatError, Cells, answers, metrics, records, results_folder
from cellfeat.ranking import Ranking, read_rankings
from cellfeat.row_comparison import compared

CLASSES = ("x", "y")
PER_CLASS = 20


def cells_of(per_class: int) -> Cells:
    label = np.tile(np.repeat([0, 1], per_class), 3)
    domain = np.repeat(["a", "b", "c"], 2 * per_class)
    return Cells.from_arrays(label, id=[f"{d}{i:03d}" for i, d in enumerate(domain)], domain=domain)


class Folder:
    """A results folder in the making; transfers from `a` to `b` and `c`."""

    def __init__(self, path, per_class=PER_CLASS):
        self.path, self.cells, self.digest = path, cells_of(per_class), "data"
        answers.KnownCells(path / results_folder.CELLS).add(self.cells, CLASSES)

    def add(
        self, row, right=(1.0, 1.0), *, adapt="none", saw=None, classifier="lr", protocol="p", seed=1, targets="bc"
    ):
        """A fit: of each target's classes x and y the first such share of cells is answered rightly.

        right, saw: by target."""
        tables = []
        for target in targets:
            rows = np.flatnonzero(self.cells.domain == target)
            label = self.cells.label[rows]
            place = np.where(label == 0, np.arange(len(rows)), np.arange(len(rows)) - len(rows) // 2)
            shares = right[target] if isinstance(right, dict) else right
            hits = place < np.array(shares)[label] * (len(rows) // 2)
            n = len(rows)
            columns = {"protocol": [protocol] * n, "classifier": [classifier] * n, "seed": [seed] * n}
            columns |= {"source": ["a"] * n, "target": [target] * n, "fold": [0] * n}
            columns |= {"id": self.cells.id[rows].tolist()}
            tables.append(
                pa.table(columns | {"predicted": np.array(CLASSES)[np.where(hits, label, 1 - label)].tolist()})
            )
            mean = None if n < 20 else float(np.mean([hits[label == c].mean() for c in (0, 1)]))
            record = {
                "schema": 1,
                "address": f"{row}/{protocol}/{classifier}/{seed}",
                **{"row": row, "protocol": protocol, "classifier": classifier, "seed": seed, "adapt": adapt},
                **{"source": "a", "target": target, "held_out_folds": False, "seconds": 2.0},
                "weights_saw_target": (saw or {}).get(target, False),
                **{
                    "shots": 0,
                    "dataset": {"digest": self.digest, "manifest": "m.csv"},
                    "recipe": {"protocol": {"seeds": [seed]}, "row": row},
                },
                **{"cells": n, "class_counts": dict.fromkeys(CLASSES, n // 2), "classes": list(CLASSES)},
                **{"scored_classes": list(CLASSES) if mean else [], "confusion": [[0, 0], [0, 0]]},
                "scores": {name: {"mean": mean} for name in metrics.SCORES},
                **{"recall": {}, "calibration": {}, "weights_saw": None, "uses_target": False, "uses_labels": False},
                **{"backbone": {"weights_sha256": None, "used": True}, "encoding": {"precision": "float32"}},
                **{"plugins": {}, "versions": {}, "hardware": {}, "peak_memory_mb": None, "recipe_digest": row},
                "created": "2026-01-01T00:00:00+00:00",
                "majority": {"balanced_accuracy": mean and 0.5},
                "ceiling": {"balanced_accuracy": mean and 1.0},
                "predictions": {"file": f"predictions/{row}.parquet", "sha256": "0" * 64},
            }
            records.append(self.path / results_folder.RECORDS, [results_folder.with_id(record)])
        answers.add(self.path / "predictions" / f"{row}.parquet", pa.concat_tables(tables))


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path)


class Row(NamedTuple):
    row: str
    group: int | None
    mean: float
    low: float
    high: float
    marks: dict[str, str]


def rows_of(ranking: Ranking) -> list[Row]:
    """The rows in their order, by the transfers that count."""
    board = ranking.board
    found = [(board.methods[one.method], one) for one in board.table(board.transfers)]
    return [Row(method.row, one.group, one.mean, one.low, one.high, method.marks) for method, one in found]


def shown(table) -> str:
    console = Console(width=300, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(table)
    return console.export_text()


def test_rows_come_best_first_with_mean_interval_majority_and_ceiling(folder):
    folder.add("worse", (0.5, 0.7))
    folder.add("better", (0.8, 1.0))
    folder.add("better", (0.6, 1.0), seed=2)
    [ranking], failures = read_rankings(folder.path)
    assert failures == []
    board = ranking.board
    assert (board.protocol, board.adapt) == ("p", "none")
    assert board.transfers == board.counted(board.transfers) == ("a → b", "a → c")
    assert [(one.row, one.seeds, one.seconds) for one in board.methods] == [
        ("worse", [1], 2.0),
        ("better", [1, 2], 4.0),
    ]
    best = rows_of(ranking)[0]
    assert (best.row, best.mean) == ("better", pytest.approx(0.85))
    assert best.low < best.mean < best.high
    first, second, majority, ceiling = ranking.lines()
    assert first[:2] == ["1", "better/lr"]
    assert first[3:] == ["85.0", "85.0", "2", "4"]
    assert second[:2] == ["2", "worse/lr"]
    assert re.fullmatch(r"60\.0 \[\d\d\.\d, \d\d\.\d\]", second[2])
    assert majority == ["", "majority class", "", "50.0", "50.0", "", ""]
    assert ceiling == ["", "ceiling", "", "100.0", "100.0", "", ""]
    assert len(ranking.headings) == len(first) == len(ceiling)


def test_rows_that_were_shown_different_things_stand_in_different_tables(folder):
    for row, adapt in {"t": "test", "n": "none", "h": "heldout"}.items():
        folder.add(row, adapt=adapt)
    folder.add("n", protocol="q")
    rankings, _ = read_rankings(folder.path)
    found = [(one.board.protocol, one.board.adapt, [row.row for row in rows_of(one)]) for one in rankings]
    assert found == [("p", "none", ["n"]), ("p", "heldout", ["h"]), ("p", "test", ["t"]), ("q", "none", ["n"])]
    assert "no target cell shown" in rankings[0].board.title
    [only], _ = read_rankings(folder.path, "q")
    assert only.board.protocol == "q"
    with pytest.raises(CellfeatError, match=r"no protocol named 'r'. Available: p, q"):
        read_rankings(folder.path, "r")
    with pytest.raises(CellfeatError, match=r"no classifier named 'svm'. Available: lr"):
        read_rankings(folder.path, None, "svm")


def test_a_classifier_alone_can_be_shown(folder):
    folder.add("n", classifier="lr")
    folder.add("n", classifier="rf")
    [both], _ = read_rankings(folder.path)
    [alone], _ = read_rankings(folder.path, None, "rf")
    assert sorted(one.classifier for one in both.board.methods) == ["lr", "rf"]
    assert [one.classifier for one in alone.board.methods] == ["rf"]


def test_without_adaptation_a_target_that_weights_have_seen_is_marked_and_does_not_rank(folder):
    folder.add("clean", (0.7, 0.7))
    folder.add("knows", (1.0, 1.0), saw={"b": True})
    [ranking], _ = read_rankings(folder.path)
    assert ranking.board.counted(ranking.board.transfers) == ("a → c",)
    first, second = rows_of(ranking)
    assert (first.mean, first.marks) == (1, {"a → b": "†"})
    assert (second.mean, second.marks) == (pytest.approx(0.7), {})
    first, second = ranking.lines()[:2]
    assert ranking.headings[2:6] == ["mean of 1", "of all 2", "a → b", "a → c"]
    assert first[3].endswith("†")
    assert first[4:6] == ["100.0†", "100.0"]
    assert second[4:6] == ["70.0", "70.0"]
    assert any(note.startswith("† pretrained weights in this row have seen") for note in ranking.notes())
    assert "Ranked by a → c." in ranking.notes()
    assert not any("‡" in note for note in ranking.notes())


def test_the_rank_goes_by_unseen_targets_alone(folder):
    """Better over all, worse where nothing was seen: second."""
    folder.add("clean", {"b": (0.2, 0.2), "c": (0.9, 0.9)})
    folder.add("knows", {"b": (1.0, 1.0), "c": (0.8, 0.8)}, saw={"b": True})
    [ranking], _ = read_rankings(folder.path)
    assert [(one.row, round(one.mean, 6)) for one in rows_of(ranking)] == [("clean", 0.9), ("knows", 0.8)]
    assert [line[3].split()[0] for line in ranking.lines()[:2]] == ["55.0", "90.0"]


def test_where_weights_have_seen_every_target_rows_that_have_not_rank_alone(folder):
    folder.add("clean", (0.7, 0.7))
    folder.add("knows", (1.0, 1.0), saw={"b": True, "c": True})
    [ranking], _ = read_rankings(folder.path)
    assert ranking.board.counted(ranking.board.transfers) == ranking.board.transfers
    assert [(one.row, one.group) for one in rows_of(ranking)] == [("clean", 1), ("knows", None)]


def test_rows_that_the_paired_test_cannot_tell_apart_share_a_number(folder):
    folder.add("best", (1.0, 1.0))
    folder.add("level", (1.0, 0.95))
    folder.add("behind", (0.6, 0.6))
    folder.add("beside", (0.6, 0.55))
    [ranking], _ = read_rankings(folder.path)
    assert [(one.row, one.group) for one in rows_of(ranking)] == [
        ("best", 1),
        ("level", 1),
        ("behind", 2),
        ("beside", 2),
    ]
    assert [line[0] for line in ranking.lines()] == ["1", "1", "2", "2", "", ""]


def test_weights_of_which_nobody_knows_are_marked_and_rank_nothing(folder):
    folder.add("unsure", saw={"b": None, "c": None})
    [ranking], _ = read_rankings(folder.path)
    counted = ranking.board.counted(ranking.board.transfers)
    assert counted == ("a → b", "a → c"), "what one row does not know must not unrank the others"
    assert rows_of(ranking)[0].group is None
    assert rows_of(ranking)[0].marks == {"a → b": "‡", "a → c": "‡"}
    assert ranking.lines()[0][0] == "", "no rank"
    assert any(note.startswith("‡ nobody knows") for note in ranking.notes())
    folder.add("sure")
    [ranking], _ = read_rankings(folder.path)
    assert [(one.row, one.group) for one in rows_of(ranking)] == [("sure", 1), ("unsure", None)]


def test_records_of_several_data_sets_or_recipes_stand_in_no_figure(folder):
    folder.add("one")
    folder.digest = "other"
    folder.add("two")
    with pytest.raises(CellfeatError, match="records of 2 different data sets cannot stand in one figure"):
        read_rankings(folder.path)
    with pytest.raises(CellfeatError, match="2 different data sets"):
        compared(folder.path, ["one", "two"], None, None, [])


def test_with_adaptation_a_seen_target_is_marked_and_still_ranks(folder):
    folder.add("knows", adapt="test", saw={"b": True})
    [ranking], _ = read_rankings(folder.path)
    assert ranking.board.counted(ranking.board.transfers) == ranking.board.transfers
    assert [(one.group, one.marks) for one in rows_of(ranking)] == [(1, {"a → b": "†"})]
    assert ranking.lines()[0][3] == "100.0†"


def test_a_row_without_all_transfers_has_no_mean_and_comes_last(folder):
    folder.add("half", (1.0, 1.0), targets="b")
    folder.add("whole", (0.5, 0.5))
    [ranking], _ = read_rankings(folder.path)
    assert [(one.row, one.group) for one in rows_of(ranking)] == [("whole", 1), ("half", None)]
    assert ranking.lines()[1][2:5] == ["–", "100.0", "–"]


def test_markdown_is_a_table_of_few_lines(folder):
    folder.add("one")
    folder.add("two", (0.5, 0.5))
    [ranking], _ = read_rankings(folder.path)
    lines = ranking.markdown().splitlines()
    assert lines[0].startswith("### p · adapt: none")
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 2 + 2
    assert len({line.count("|") for line in table}) == 1
    assert table[1].replace("-", "").replace(":", "") == "|  |  |  |  |  |  |  |"
    assert lines[-1].startswith("Balanced accuracy in percent")
    text = shown(ranking.table())
    assert "two" in text
    assert "bootstrap" in text


def test_targets_whose_classes_are_too_small_have_no_score_and_no_rank(tmp_path):
    folder = Folder(tmp_path, per_class=6)
    folder.add("one")
    folder.add("two", (0.5, 0.5))
    [ranking], _ = read_rankings(folder.path)
    assert [one.group for one in rows_of(ranking)] == [None, None]
    assert ranking.lines()[0][2:5] == ["–", "–", "–"]
    with pytest.raises(CellfeatError, match=r"one and two in protocol p: .*no class with at least 10 cells"):
        compared(folder.path, ["one", "two"], None, None, [])


def test_failures_come_with_the_tables(folder):
    folder.add("one")
    records.append(folder.path / results_folder.FAILURES, [{"address": "bad/p/lr/1", "source": "a", "error": "why"}])
    records.append(
        folder.path / results_folder.FAILURES, [{"address": "one/p/lr/1", "source": None, "error": "done since"}]
    )
    assert [line["address"] for line in read_rankings(folder.path)[1]] == ["bad/p/lr/1"]


def test_the_difference_interval_and_corrected_p_values_of_a_comparison(folder):
    folder.add("good", (1.0, 1.0), saw={"c": True}, adapt="test")
    folder.add("bad", (0.5, 0.75))
    folder.add("same", (1.0, 1.0))
    text = shown(compared(folder.path, ["good", "bad", "same"], None, None, []).table())
    assert "p: good/lr (adapt: test, †) less …" in text
    bad, same = (line for line in text.splitlines() if re.match(r".*(bad|same)/lr", line))
    assert "bad/lr (adapt: none)" in bad
    difference = re.search(r"\+37\.5 \[\+(\d+\.\d), \+(\d+\.\d)\]", bad)
    assert 15 < float(difference[1]) < 37.5 < float(difference[2]) < 60
    assert "a → b +37.5, a → c +37.5" in bad
    p, corrected = map(float, re.findall(r" (\d\.\d{4}) ", bad))
    assert p < 0.001
    assert corrected == pytest.approx(2 * p, abs=1e-4)
    assert "+0.0 [+0.0, +0.0]" in same
    assert re.findall(r" (\d\.\d{4}) ", same) == ["1.0000", "1.0000"]
    assert "corrected for 2 comparisons (Holm)" in text


def test_a_comparison_can_be_of_one_target_and_one_classifier(folder):
    folder.add("good", (1.0, 1.0))
    folder.add("bad", (0.5, 0.5), classifier="rf")
    folder.add("bad", (0.25, 0.25), classifier="lr")
    text = shown(compared(folder.path, ["good", "bad/rf"], "p", None, ["b"]).table())
    assert "a → b +50.0" in text
    assert "a → c" not in text
    assert "+75.0" in shown(compared(folder.path, ["good", "bad"], "p", "lr", []).table())
    folder.add("network", (0.5, 0.5), classifier="own-head")
    text = shown(compared(folder.path, ["good", "network"], "p", "lr", []).table())
    assert "network/own-head" in text, "a row that has one classifier only needs not be told which"


@pytest.mark.parametrize(
    ("rows", "options", "text"),
    [
        (["one"], {}, "a comparison needs two rows or more: cellfeat bench compare RESULTS A B"),
        (["one", "tow"], {}, "no row named 'tow'. Did you mean 'two'? Available: apart, one, two"),
        (["one", "two/svm"], {}, "no classifier of row two named 'svm'. Available: lr"),
        (["one", "two/svm"], {"classifier": "lr"}, "no classifier of row two named 'svm'. Available: lr"),
        (["two", "one"], {"targets": ["d"]}, "no target named 'd'. Available: b, c"),
        (["one", "two"], {"protocol": "s"}, "no protocol named 's'. Available: p, q"),
        (["one", "apart"], {}, "one and apart have no transfer in common in protocol p"),
    ],
)
def test_a_mistake_in_a_comparison_is_one_line(folder, rows, options, text):
    folder.add("one", targets="b")
    folder.add("one", targets="c", protocol="q")
    folder.add("two")
    folder.add("apart", targets="c")
    options = {"protocol": None, "classifier": None, "targets": []} | options
    with pytest.raises(CellfeatError) as error:
        compared(folder.path, rows, **options)
    assert str(error.value).startswith(text)


def test_a_folder_without_transfers_is_told(tmp_path):
    with pytest.raises(
        CellfeatError, match=r"has no records of transfers; make some by `cellfeat bench run SUITE.yaml`"
    ):
        read_rankings(tmp_path)


def test_labels_or_predictions_that_were_left_behind_are_told(folder):
    folder.add("one")
    (folder.path / "predictions" / "one.parquet").unlink()
    [ranking], _ = read_rankings(folder.path)
    with pytest.raises(CellfeatError, match="predictions stand beside their records"):
        ranking.lines()
    (folder.path / results_folder.CELLS).unlink()
    with pytest.raises(CellfeatError, match=r"there is no .*cells.parquet: the labels"):
        read_rankings(folder.path)
