"""Corrected cells of a new laboratory: they are fitted on, no hidden label is, and what changed is told."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from helpers import Identity, labelled_cells
from test_cli import cellfeat, one_line  # noqa: F401  a fixture

import cellfeat as library
from cellfeat import api
from cellfeat.fitted_pipelines import fit_whole
from cellfeat.labelled_targets import Agreement
from cellfeat.manifest import read_rows, write_manifest

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def ward(tmp_path_factory, small_laboratories, own_cache):
    """A run on two laboratories, and the manifest of a third that it never saw."""
    folder = tmp_path_factory.mktemp("ward")
    rows = read_rows(small_laboratories)
    parts = {"two": [r for r in rows if r["domain"] != "lab-c"], "third": [r for r in rows if r["domain"] == "lab-c"]}
    for name, some in parts.items():
        write_manifest(folder / f"{name}.csv", [{**row.values, "path": row.path, "mask_path": ""} for row in some])
    sets = ["protocol.folds=2", "protocol.source=[lab-a]"]
    api.run(folder / "two.csv", backbone="colour", align="per-domain-z", clf="lr", sets=sets, out=folder / "run")
    return folder


def answers(path):
    with path.open(newline="", encoding="utf-8") as file:
        return {line["id"]: line["label"] for line in csv.DictReader(file)}


def test_corrected_cells_are_fitted_on_and_the_change_is_told(cellfeat, ward, tmp_path):  # noqa: F811
    third = ward / "third.csv"
    first = ("predict", ward / "run", third, "--domain", "lab-c", "--refit", "-o", tmp_path / "first.csv")
    assert cellfeat(*first)[0] == 0
    truth = {row["id"]: row["label"] for row in read_rows(third)}
    before = answers(tmp_path / "first.csv")
    shown = sorted(truth)[::2]
    with (tmp_path / "first.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    with (tmp_path / "reviewed.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*lines[0], "reviewed"])
        writer.writeheader()
        writer.writerows({**line, "reviewed": truth[line["id"]] if line["id"] in shown else ""} for line in lines)
    corrected = tmp_path / "corrected.csv"
    assert cellfeat("data", "correct", tmp_path / "reviewed.csv", "-o", corrected, "--domain", "lab-c")[0] == 0
    again = ("predict", ward / "run", third, "--domain", "lab-c", "-o", tmp_path / "again.csv")
    code, out, err = cellfeat(*again, "--labelled", corrected, "--before", tmp_path / "first.csv", "--json")
    assert code == 0, err
    now = answers(tmp_path / "again.csv")
    moved = {name for name in truth if now[name] != before[name]}
    told = json.loads(out)["changes"]
    assert (told["cells"], told["changed"]) == (len(truth), len(moved))
    right_before = np.mean([before[name] == truth[name] for name in shown])
    assert f"before, {100 * right_before:.0f} % of them were answered right; now" in err
    rest = [name for name in truth if name not in shown]
    with (tmp_path / "again.csv").open(newline="", encoding="utf-8") as file:
        lines = {line["id"]: line for line in csv.DictReader(file)}
    assert {name for name, line in lines.items() if line["corrected"] == "yes"} == set(shown)
    assert all((lines[name]["label"], lines[name]["probability"]) == (truth[name], "1") for name in shown)
    assert np.mean([now[name] == truth[name] for name in rest]) >= np.mean(
        [before[name] == truth[name] for name in rest]
    )


def test_labels_that_nobody_gave_change_nothing(ward, tmp_path):
    """Of the images to be classified the manifest knows the truth; other labels there give the very same answers."""
    rows = read_rows(ward / "third.csv")
    corrected = [{**row.values, "path": row.path, "mask_path": "", "domain": "new"} for row in rows[::3]]
    write_manifest(tmp_path / "corrected.csv", corrected)
    for name, label in (("true", None), ("false", "basophil")):
        lied = [{**row.values, "path": row.path, "mask_path": "", "label": label or row["label"]} for row in rows]
        write_manifest(tmp_path / f"{name}.csv", lied)
        out = tmp_path / f"{name}-answers.csv"
        api.predict(ward / "run", tmp_path / f"{name}.csv", out, labelled=tmp_path / "corrected.csv")
    assert (tmp_path / "true-answers.csv").read_bytes().replace(b"true", b"") == (
        tmp_path / "false-answers.csv"
    ).read_bytes().replace(b"false", b"")


def test_a_label_that_was_given_is_the_answer_and_no_prediction(cellfeat, ward, tmp_path):  # noqa: F811
    """Wrong labels would otherwise come back as the method's own answers, and sure ones."""
    rows = read_rows(ward / "third.csv")
    wrong = [{**row.values, "path": row.path, "mask_path": "", "label": "basophil"} for row in rows[:6]]
    write_manifest(tmp_path / "wrong.csv", wrong)
    given = ("predict", ward / "run", ward / "third.csv", "--domain", "lab-c", "--labelled", tmp_path / "wrong.csv")
    assert cellfeat(*given, "-o", tmp_path / "out.csv", "--coverage", "0.5", "--abstain", "0.99")[0] == 0
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        lines = {line["id"]: line for line in csv.DictReader(file)}
    told = [lines[row["id"]] for row in wrong]
    assert {(one["corrected"], one["label"], one["probability"], one["set"]) for one in told} == {
        ("yes", "basophil", "1", "basophil")
    }
    assert sum(one["corrected"] == "yes" for one in lines.values()) == 6


def test_a_fit_sees_source_and_shown_labels_and_no_other(context):
    seen = {}

    class Spy(Identity):
        uses_target, uses_labels = True, True

        def fit(self, cells, context):
            seen.update(label=cells.label, is_target=cells.is_target, domain=cells.domain, ids=cells.id)
            return self

    from cellfeat.handing import Method
    from cellfeat.pipeline import Pipeline
    from cellfeat.recipe import parse

    cells = labelled_cells()
    source, target = cells[cells.domain == "a"], cells[cells.domain == "b"]
    pipeline = Pipeline(
        parse({"backbone": {"name": "x"}, "align": [{"name": "spy"}]}), ("x", "y", "z"), [Method("spy", Spy())]
    )
    labelled = replace(target[np.arange(5)], id=source.id[:5])
    fit_whole(pipeline, source, target, None, context, head=False, labelled=labelled)
    order = np.argsort(seen["is_target"], kind="stable")
    assert len(order) == len(source) + 5 + len(target)
    assert (seen["label"][~seen["is_target"]] >= 0).sum() == len(source)
    hidden = seen["label"][seen["is_target"]]
    assert ((hidden >= 0).sum(), (hidden < 0).sum()) == (5, len(target))


def test_wrong_manifests_and_tables_are_refused(cellfeat, ward, tmp_path):  # noqa: F811
    rows = [{**row.values, "path": row.path, "mask_path": ""} for row in read_rows(ward / "third.csv")[:4]]
    write_manifest(tmp_path / "strange.csv", [{**row, "label": "neutrophyl"} for row in rows])
    write_manifest(tmp_path / "empty.csv", [{**row, "label": ""} for row in rows])
    given = ("predict", ward / "run", ward / "third.csv")
    code, _, err = cellfeat(*given, "--labelled", tmp_path / "strange.csv")
    assert (code, "Did you mean 'neutrophil'?" in one_line(err)) == (2, True)
    code, _, err = cellfeat(*given, "--labelled", tmp_path / "empty.csv")
    assert (code, "no cell has a label" in one_line(err)) == (2, True)
    code, _, err = cellfeat(*given, "--before", ward / "third.txt")
    assert (code, "no such file" in one_line(err)) == (2, True)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    code, _, err = cellfeat(*given, "--before", tmp_path / "other.csv")
    assert (code, "no table of predictions" in one_line(err)) == (2, True)
    assert not (tmp_path / "predictions.csv").exists()


def test_in_python_too(ward):
    rows = read_rows(ward / "third.csv")
    run = library.load(ward / "run", verbose=False)
    paths = [row.path for row in rows]
    refitted = run.refit(paths, domain="lab-c", labelled=ward / "third.csv")
    truth = np.array([row["label"] for row in rows])
    assert np.mean(refitted.predict(paths, domain="lab-c") == truth) > np.mean(
        run.refit(paths, domain="lab-c").predict(paths, domain="lab-c") == truth
    )


def test_the_sentence_says_what_is_known():
    assert "before, 50 % of them" in Agreement(4, 0.5, None).sentence()
    assert "not known" in Agreement(4, 0.5, None).sentence()
    assert "now 75 % are, each by a fit that was not shown it" in Agreement(4, None, 0.75).sentence()
