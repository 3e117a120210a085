"""Class shares by group: counts, intervals against published ones, files, and `cellfeat predict --per-group`."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_cli import cellfeat, one_line  # noqa: F401  a fixture

from cellfeat import use
from cellfeat.predicted import Predictions, groups_of, wilson, write_shares
from cellfeat.spreadsheets import unprotected
from cellfeat.unlabelled import unlabelled_images
from cellfeat.verdicts import Verdicts, Wanted

PROBA = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4], [0.2, 0.8]])
FOUND = Predictions(
    ("a", "b"),
    PROBA.argmax(axis=1),
    PROBA,
    np.array(["p-2", "p-1", "p-1", "p-1", "p-2"]),
    np.array([0.9, 0.5, 0.85, 0.79, 0.95]),
)


@pytest.mark.parametrize(
    ("count", "cells", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_intervals_are_those_that_newcombe_printed(count, cells, low, high):
    """Newcombe, Statistics in Medicine 17 (1998), table I, method 3: Wilson's score interval."""
    assert wilson(count, cells) == pytest.approx((low, high), abs=5e-5)


def test_the_interval_is_the_root_of_the_score_test():
    """Wilson's bounds p solve (x/n - p)² = z² p (1 - p) / n."""
    for count, cells in ((3, 11), (40, 60), (7, 7)):
        for bound in wilson(count, cells):
            assert (count / cells - bound) ** 2 == pytest.approx(1.959964**2 * bound * (1 - bound) / cells, abs=1e-6)


def test_shares_by_group():
    first, second = FOUND.by_group()
    assert (first.group, first.cells, first.doubtful) == ("p-1", 3, 2)
    assert (second.group, second.cells, second.doubtful) == ("p-2", 2, 0)
    a, b = first.shares
    assert (a.cells, a.share) == (2, 2 / 3)
    assert a.probability == pytest.approx((0.8 + 0.3 + 0.6) / 3)
    assert (b.low, b.high) == wilson(1, 3)
    for one in (first, second):
        assert sum(part.cells for part in one.shares) == one.cells
        assert sum(part.probability for part in one.shares) == pytest.approx(1)
        assert all(part.low <= part.share <= part.high for part in one.shares)


def test_the_file_has_a_line_per_group_and_no_formula(tmp_path):
    odd = Predictions(FOUND.classes, FOUND.chosen, FOUND.proba, np.array(["=1+1", "b", "b", "b", "b"]))
    assert write_shares(tmp_path / "s.csv", odd) == 2
    with (tmp_path / "s.csv").open() as file:
        first, second = csv.DictReader(file)
    assert [first["group"], second["group"], second["doubtful_masks"]] == ["'=1+1", "b", ""]
    assert float(second["share_b"]) == 0.5
    assert [int(second["n_a"]), int(second["n_b"]), int(second["cells"])] == [2, 2, 4]


def test_a_class_that_was_not_taught_has_no_share(tmp_path):
    """0 of n cells with an interval would say that it was looked for and hardly found."""
    from dataclasses import replace

    found = replace(
        FOUND, classes=("a", "b", "basophil"), proba=np.pad(PROBA, ((0, 0), (0, 1))), untaught=("basophil",)
    )
    for one in found.as_dict()["groups"]:
        assert list(one["classes"]["basophil"].values()) == [None, None, None, None, 0.0]
        assert one["classes"]["a"]["cells"] + one["classes"]["b"]["cells"] == one["cells"]
    write_shares(tmp_path / "s.csv", found)
    with (tmp_path / "s.csv").open() as file:
        first, _ = csv.DictReader(file)
    assert [first[f"{part}_basophil"] for part in ("n", "share", "low", "high", "p")] == ["", "", "", "", "0"]
    cells = [list(column.cells) for column in list(found.tables())[1].columns]
    assert [column[2] for column in cells] == ["", "basophil", "", "", "not taught"]


def test_groups_are_a_manifests_or_the_folders_below_those_named(tmp_path):
    for name in ("p-1/a.png", "p-1/b.png", "p-2/slide/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert groups_of(unlabelled_images(tmp_path), False).tolist() == ["p-1", "p-1", "p-2/slide"]
    assert groups_of(unlabelled_images(tmp_path / "p-1"), False) is None
    assert groups_of(unlabelled_images(tmp_path / "p-1"), True) is None


@pytest.fixture(scope="module")
def finished(laboratories, suite_cache, tmp_path_factory) -> Path:
    """A run folder on `laboratories`; to be read only."""
    from cellfeat import compose
    from cellfeat.console import SilentReporter
    from cellfeat.registry import installed
    from cellfeat.run import run
    from cellfeat.workplace import Workplace

    protocol = {"source": ["lab-a"], "target": ["lab-b"], "folds": 2}
    recipe = compose.recipe(data=str(laboratories), backbone="colour", align="none", classifier="lr", protocol=protocol)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELLFEAT_CACHE", str(suite_cache))
        out = tmp_path_factory.mktemp("finished") / "run-1"
        return run(recipe, out, Workplace(installed(), SilentReporter(), "cpu"), pictures=False)[0]


def patients(laboratories: Path, out: Path) -> Path:
    """A manifest of lab-b whose cells are of three patients."""
    with laboratories.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["domain"] == "lab-b"]
    with out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "label", "domain", "group"])
        for number, row in enumerate(rows):
            path = (laboratories.parent / row["path"]).resolve()
            writer.writerow([row["id"], path, "", "lab-b", f"patient {number % 3}"])
    return out


def test_predict_writes_and_prints_the_shares_of_patients(cellfeat, finished, laboratories, tmp_path):  # noqa: F811
    manifest = patients(laboratories, tmp_path / "patients.csv")
    code, out, err = cellfeat("predict", finished, manifest, "-o", "p.csv", "--per-group", "shares.csv", "--json")
    assert code == 0, err
    assert "shares.csv: 3 groups" in err
    with Path("p.csv").open() as file:
        labels = {row["id"]: row["label"] for row in csv.DictReader(file)}
    with manifest.open() as file:
        group = {row["id"]: row["group"] for row in csv.DictReader(file)}
    with Path("shares.csv").open() as file:
        lines = {row["group"]: row for row in csv.DictReader(file)}
    summary = json.loads(out)
    assert summary["images"] == len(labels) == sum(one["images"] for one in summary["classes"])
    for one in summary["groups"]:
        own = [labels[name] for name in labels if group[name] == one["group"]]
        assert int(lines[one["group"]]["cells"]) == one["cells"] == len(own)
        for name, part in one["classes"].items():
            assert part["cells"] == int(lines[one["group"]][f"n_{name}"]) == own.count(name)
            assert float(lines[one["group"]][f"low_{name}"]) == pytest.approx(part["low"], abs=1e-5)
    code, out, err = cellfeat("predict", finished, manifest, "-o", "q.csv")
    assert code == 0, err
    assert "Class shares by group" in out
    assert out.count("patient 2") == 1


def test_predict_says_what_was_not_taught(cellfeat, finished, laboratories, tmp_path):  # noqa: F811
    """Three classes are trained on of the five that the vocabulary has."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    [about] = run.glob("pipelines/*/pipeline.json")
    known = json.loads(about.read_text())
    about.write_text(json.dumps({**known, "classes": [*known["classes"], "basophil"]}))
    about.with_name("confidence.json").unlink()  # it is of the three classes
    code, out, err = cellfeat("predict", run, patients(laboratories, tmp_path / "patients.csv"), "--json")
    assert code == 0, err
    assert "note: not taught, so never answered: basophil" in err
    assert json.loads(out)["not_taught"] == ["basophil"]
    with Path("predictions.csv").open() as file:
        assert {float(row["p_basophil"]) for row in csv.DictReader(file)} == {0.0}


def test_what_cannot_be_grouped_is_told_before_any_work(cellfeat, finished, laboratories, tmp_path):  # noqa: F811
    folder = tmp_path / "images"
    shutil.copytree(laboratories.parent / "images", folder)
    code, _, err = cellfeat("predict", finished, folder, "--per-group", "s.csv")
    assert (code, "nothing says which cells belong together" in one_line(err)) == (2, True)
    code, _, err = cellfeat("predict", finished, folder, "-o", "s.csv", "--per-group", "s.csv")
    assert (code, "are both s.csv" in one_line(err)) == (2, True)
    code, _, err = cellfeat("predict", finished, folder, "--per-group", "s.xlsx")
    assert (code, "must end in .csv" in one_line(err)) == (2, True)
    Path("there.csv").write_text("mine")
    code, _, err = cellfeat("predict", finished, folder, "--per-group", "there.csv")
    assert (code, Path("there.csv").read_text()) == (2, "mine")
    assert not Path("predictions.csv").exists()


def test_a_class_that_a_spreadsheet_would_take_for_a_formula_stays_text(tmp_path):
    found = Verdicts(
        ("=1+1", "b"),
        np.array([0]),
        np.array([[0.9, 0.1]]),
        np.array([True]),
        np.array([[True, False]]),
        wanted=Wanted(abstain=0.5, coverage=0.9),
    )
    dataset, cells = SimpleNamespace(path=["-a.png"]), SimpleNamespace(id=np.array(["@a"]))
    use._write_answers(tmp_path / "p.csv", dataset, cells, found, {})
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as file:
        [row] = csv.DictReader(file)
    assert [row[name] for name in ("id", "path", "label", "best_label", "set")] == ["'@a", "'-a.png", *["'=1+1"] * 3]
    assert [unprotected(row["label"]), float(row["p_=1+1"])] == ["=1+1", 0.9]
