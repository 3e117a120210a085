"""benchmarks/trust.py and some_cells.py: figures that are known beforehand, and mistakes in one line."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_benchmarks import module, programs_beside_each_other, run  # noqa: F401  a fixture
from test_confidence import NAMES, drawn

from cellfeat import Confidence


def finished(folder, source, target):
    """A run folder with two folds' answers: (probabilities, labels) of the source's cells and of a target's."""
    tables = []
    for name, (proba, labels) in (("lab", source), ("other", target)):
        for fold in range(2):
            rows = np.arange(len(labels))[fold::2] if name == "lab" else np.arange(len(labels))
            columns = {f"p_{one}": proba[rows, place].astype(np.float32) for place, one in enumerate(NAMES)}
            about = {"seed": 1, "source": "lab", "target": name, "fold": fold}
            about |= {"label": np.array(NAMES)[labels[rows]], **columns}
            tables.append(pa.table({key: np.broadcast_to(one, len(rows)) for key, one in about.items()}))
    (folder / "pipelines" / "lab").mkdir(parents=True)
    pq.write_table(pa.concat_tables(tables), folder / "predictions.parquet")
    proba, labels = source
    n = np.arange(len(labels))
    Confidence.of(proba, labels, n % 2, n, NAMES, np.ones(3, bool)).save(folder / "pipelines" / "lab")
    return folder


def test_the_figures_of_a_run_are_those_of_its_making(tmp_path, monkeypatch, capsys):
    proba, labels = drawn(3000, 1, 2.0)
    wrong = (proba.argmax(axis=1) + 1) % 3  # elsewhere every answer is wrong
    folder = finished(tmp_path / "run-1", (proba, labels), (proba, wrong))
    out, picture = tmp_path / "t.jsonl", tmp_path / "t.png"
    run(monkeypatch, "trust", folder, "--json", out, "--picture", picture)
    inside, elsewhere = (json.loads(line) for line in out.read_text().splitlines())
    assert (inside["target"], inside["cells"], elsewhere["cells"]) == ("lab", 3000, 3000)
    assert inside["temperature"] == pytest.approx(2, rel=0.15)
    assert inside["after"]["expected_error"] < inside["before"]["expected_error"] / 2
    for level in ("0.8", "0.9", "0.95"):
        for name in NAMES:
            assert inside["coverage"][level][name] > float(level) - 0.04
    right = (proba.argmax(axis=1) == labels).mean()
    assert inside["accuracy_at"]["1.0"] == pytest.approx(right)
    assert inside["accuracy_at"]["0.5"] > right + 0.1
    assert (elsewhere["accuracy_at"]["1.0"], elsewhere["aurc"], elsewhere["right_of_answered"]) == (0, 1, 0)
    assert picture.read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "held-out folds" in said
    with pytest.raises(SystemExit):
        run(monkeypatch, "trust", folder, "--picture", picture)
    assert "never overwritten" in capsys.readouterr().err


def test_the_curve_is_that_of_the_surest(monkeypatch):
    trust = module("trust")
    proba = np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.55, 0.45]])
    one = trust.Answers(np.array([0, 0, 0, 1]), proba, proba, {})
    np.testing.assert_allclose(trust.curve(one), [1, 1 / 2, 2 / 3, 1 / 2])
    assert [trust.at(trust.curve(one), share) for share in (1.0, 0.5, 0.01)] == [1 / 2, 1 / 2, 1]


def test_what_is_no_run_or_an_old_one_is_told(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, "trust", tmp_path)
    assert "no predictions.parquet" in capsys.readouterr().err
    folder = finished(tmp_path / "run-1", drawn(30, 1), drawn(30, 2))
    (folder / "pipelines" / "lab" / "confidence.json").unlink()
    with pytest.raises(SystemExit):
        run(monkeypatch, "trust", folder)
    assert "has no confidence.json" in capsys.readouterr().err


def test_a_smaller_manifest_has_the_drawn_rows_and_absolute_paths(tmp_path, monkeypatch, capsys):
    with (tmp_path / "cells.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "label", "domain", "mask_path"])
        writer.writerows([f"{domain}{n}", f"{n}.png", "x", domain, ""] for domain in "ba" for n in range(8))
    for name in ("one", "two"):
        run(monkeypatch, "some_cells", tmp_path / "cells.csv", "--most", 3, "--out", tmp_path / f"{name}.csv")
    assert "a: 3 of 8" in capsys.readouterr().out
    assert (tmp_path / "one.csv").read_text() == (tmp_path / "two.csv").read_text()
    with (tmp_path / "one.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["domain"] for row in rows] == ["a"] * 3 + ["b"] * 3
    assert all(row["path"] == str(tmp_path / f"{row['id'][1:]}.png") and not row["mask_path"] for row in rows)
    with pytest.raises(SystemExit):
        run(monkeypatch, "some_cells", tmp_path / "cells.csv", "--most", 3, "--out", tmp_path / "one.csv")
    assert "never overwritten" in capsys.readouterr().err
