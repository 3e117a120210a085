"""Predictions of several models put together: answers, calibration, recall."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from cellfeat import transfers
from cellfeat.metrics import calibration


def predictions(path, rows):
    """rows: (source, target, fold, id, label, probabilities)."""
    import pyarrow as pa

    table = {
        "seed": [0 for _ in rows],
        "source": [row[0] for row in rows],
        "target": [row[1] for row in rows],
        "fold": [row[2] for row in rows],
        "id": [row[3] for row in rows],
        "label": [row[4] for row in rows],
        "p_x": np.array([row[5][0] for row in rows], np.float32),
        "p_y": np.array([row[5][1] for row in rows], np.float32),
    }
    pq.write_table(pa.table(table), path)
    return path


def test_the_answers_of_several_models_are_put_together_cell_by_cell(tmp_path):
    path = predictions(
        tmp_path / "p.parquet",
        [
            ("s", "t", 0, "b", "x", (0.9, 0.1)),
            ("s", "t", 0, "a", "y", (0.8, 0.2)),
            ("s", "t", 0, "c", "y", (0.9, 0.1)),
            ("s", "t", 0, "d", "y", (0.6, 0.4)),
            ("s", "s", 0, "z", "x", (1.0, 0.0)),
            ("s", "t", 1, "a", "y", (0.6, 0.4)),
            ("s", "t", 1, "b", "x", (0.3, 0.7)),
            ("s", "t", 1, "c", "y", (0.9, 0.1)),
            ("s", "t", 1, "d", "y", (0.8, 0.2)),
        ],
    )
    there, inside = transfers.read(path, ["x", "y"])
    assert (there.source, there.target, there.models) == ("s", "t", 2)
    assert (inside.source, inside.target) == ("s", "s")
    assert there.id.tolist() == ["a", "b", "c", "d"]
    assert there.label.tolist() == [1, 0, 1, 1]
    np.testing.assert_allclose(there.proba[:, 0], [0.7, 0.6, 0.9, 0.7], atol=1e-6)
    assert there.right.tolist() == [0, 0.5, 0, 0]
    assert there.id[there.mistakes(24)].tolist() == ["c", "a", "d"]
    assert there.id[there.mistakes(1)].tolist() == ["c"]
    assert there.id[there.doubts(2)].tolist() == ["b", "a"]


def test_bins_of_a_reliability_curve_give_the_expected_calibration_error(tmp_path):
    rng = np.random.default_rng(0)
    proba = rng.dirichlet([1, 1], size=500)
    label = rng.integers(2, size=500)
    rows = [("s", "t", 0, f"{i:03d}", "xy"[label[i]], proba[i]) for i in range(500)]
    (one,) = transfers.read(predictions(tmp_path / "p.parquet", rows), ["x", "y"])
    bins = transfers.reliability(one)
    error = sum(b.answers * abs(b.confidence - b.accuracy) for b in bins) / 500
    assert error == pytest.approx(calibration(label, proba)["expected_error"], abs=1e-5)
    assert sum(b.answers for b in bins) == 500
    assert all(b.low <= b.confidence <= b.high for b in bins)


def test_intervals_of_recall_are_wider_where_groups_err_alike():
    label, right = np.repeat([0, 1], [40, 10]), np.repeat([1.0, 0.0, 1.0], [30, 10, 10])
    alone = transfers.recall_intervals(label, right)
    low, high = alone[0]
    assert low == pytest.approx(0.75 - 1.96 * np.sqrt(0.75 * 0.25 / 40), abs=0.03)
    assert high == pytest.approx(0.75 + 1.96 * np.sqrt(0.75 * 0.25 / 40), abs=0.03)
    assert alone[1] == (1.0, 1.0)
    grouped = transfers.recall_intervals(label, right, groups=np.arange(50) // 10)
    assert grouped[0][1] - grouped[0][0] > 1.5 * (high - low)
