"""The program that compares classifiers: equal folds for both ways, and a difference in predictions is an error."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import common
from benchmarks.speed import classifiers

SMALL = ("--cells", "600", "--width", "32", "--folds-run", "2")


def run(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["classifiers", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        common.start(classifiers.main)
    return end.value.code or 0


def test_both_ways_are_measured_on_the_same_folds(monkeypatch, capsys, tmp_path):
    path = tmp_path / "records.jsonl"
    names = ("lr", "svm-linear", "svm-poly")
    chosen = [word for name in names for word in ("--classifier", name)]
    assert run(monkeypatch, *SMALL, *chosen, "--json", path) == 0
    records = [json.loads(line) for line in path.read_text().splitlines()]
    stages = (*names, "lr and SVMs")
    assert [(one["stage"], one["way"]) for one in records] == [
        (stage, way) for stage in stages for way in (classifiers.PLAIN, classifiers.OURS)
    ]
    for one in records:
        assert one["folds"] == one["repeats"] == 2
        assert (one["cells"], one["width"]) == (600, 32)
        assert one["ratio"] > 0
        if one["stage"] in names:
            assert one["equal"] == 1.0
            assert one["peak_bytes"] > 2**20
            assert bool(one["support_vectors"]) == one["stage"].startswith("svm")
    total = {(one["stage"], one["way"]): one["total_seconds"] for one in records}
    for way in (classifiers.PLAIN, classifiers.OURS):
        assert total["lr and SVMs", way] == pytest.approx(sum(total[name, way] for name in names))
    told = capsys.readouterr().out
    assert "100.000 %" in told
    assert "lr and SVMs, cellfeat" in told


def test_a_difference_in_predictions_is_an_error(monkeypatch, capsys):
    from sklearn.svm import SVC

    monkeypatch.setattr(classifiers, "plain_ways", lambda: {"svm-linear": lambda: SVC(kernel="rbf", C=0.1)})
    assert run(monkeypatch, *SMALL, "--classifier", "svm-linear") == 1
    assert "predictions differ from scikit-learn's: svm-linear" in capsys.readouterr().err


def test_an_unknown_classifier_is_one_line(monkeypatch, capsys):
    assert run(monkeypatch, *SMALL, "--classifier", "knn") == 2
    assert "no classifier named 'knn' is compared here; there are: lr, svm-linear" in capsys.readouterr().err


def test_the_drawn_classes_are_imbalanced_and_overlap():
    features, labels = classifiers.drawn(2000, 48)
    assert (features.shape, features.dtype) == ((2000, 48), np.float32)
    counts = Counter(labels.tolist())
    assert len(counts) == 13
    assert min(counts.values()) >= 2 * classifiers.FOLDS
    assert max(counts.values()) > 0.3 * 2000
    again, _ = classifiers.drawn(2000, 48)
    np.testing.assert_array_equal(features, again)


def test_cellfeats_machines_share_inside_a_fold(monkeypatch):
    work = classifiers.Workplace.on_terminal("cpu")
    with classifiers.shared(work, ("lr", "svm-poly")) as holder:
        make = work.registry.find("classifier", "svm-linear").factory
        make().fit(*classifiers.drawn(300, 8))
        assert holder._products is not None
    with classifiers.shared(work, ("lr",)) as holder:
        assert holder is None
