"""Nothing that only the command line can do: every command has its function, with its options, and the same results."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer

import cellfeat
from cellfeat import CellfeatError, UnseenDomainError, api, cli
from cellfeat.registry import installed

pytestmark = pytest.mark.usefixtures("own_cache")
PAGE = Path(__file__).resolve().parent.parent / "docs" / "python.md"
OF_THE_TERMINAL = {"help", "json", "markdown", "offline"}  # how an answer is shown; offline: CELLFEAT_OFFLINE=1
RENAMED = {"set": "sets"}  # an option may be repeated, a parameter has them all
ELSEWHERE = {  # an option that is another question
    ("plugins list", "requirements"): "plugins_requirements",
    ("run", "dry_run"): "plan",
}


def leaves(command, path: str = "") -> dict[str, object]:
    """{"bench run": command} of everything below a command that can be run."""
    inside = getattr(command, "commands", None)
    if inside is None:
        return {path: command}
    return {name: one for key, sub in inside.items() for name, one in leaves(sub, f"{path} {key}".strip()).items()}


COMMANDS = {
    name: command for name, command in leaves(typer.main.get_command(cli.app)).items() if name.split()[0] in cli.CORE
}
FUNCTIONS = dict(re.findall(r"^\| `cellfeat ([^`]+)` \| `(cellfeat\.[\w.]+)` \|$", PAGE.read_text("utf-8"), re.M))
OF_THE_API = sorted(name for name, function in FUNCTIONS.items() if function.startswith("cellfeat.api."))


def function_of(name: str):
    """What the table says a command is in Python: of `cellfeat.api`, or of another module."""
    module, _, function = FUNCTIONS[name].rpartition(".")
    return getattr(importlib.import_module(module), function)


def test_every_command_stands_in_the_table():
    assert len(COMMANDS) > 20
    assert len(OF_THE_API) > 20
    assert set(COMMANDS) - set(FUNCTIONS) == set(), "write a function in cellfeat/api, and its line in docs/python.md"
    assert set(FUNCTIONS) - set(COMMANDS) == set(), "these commands are gone: take their lines out of docs/python.md"


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_the_function_of_a_command_exists_and_is_described(name):
    function = function_of(name)
    assert name not in OF_THE_API or FUNCTIONS[name].rpartition(".")[2] in api.__all__
    assert (inspect.getdoc(function) or "").strip()
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    assert [one.name for one in signature.parameters.values() if one.annotation is inspect.Parameter.empty] == []


@pytest.mark.parametrize("name", OF_THE_API)
def test_the_function_has_the_options_of_its_command(name):
    there = set(inspect.signature(function_of(name)).parameters)
    options = {one.opts[0].lstrip("-").replace("-", "_") for one in COMMANDS[name].params} - OF_THE_TERMINAL
    lacking = {RENAMED.get(option, option) for option in options if (name, option) not in ELSEWHERE} - there
    assert lacking == set(), f"only the command line can say these; parameters are {sorted(there)}"
    assert all(hasattr(api, function) for function in ELSEWHERE.values())


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """Four cells of each of five classes in each of three laboratories."""
    return api.demo(tmp_path_factory.mktemp("drawn") / "demo", per_class=4, size=32)


@pytest.fixture(scope="module")
def finished(manifest, own_cache, tmp_path_factory) -> Path:
    """A run of two sources."""
    folder, records = api.run(
        manifest,
        backbone="colour",
        align=["per-domain-z"],
        clf="lr",
        sets={"backbone.bins": 2},
        source=["lab-a", "lab-b"],
        target=["lab-a", "lab-b"],
        folds=2,
        device="cpu",
        out=tmp_path_factory.mktemp("runs") / "run",
        pictures=False,
    )
    assert {(one["source"], one["target"]) for one in records} == {
        (source, target) for source in ("lab-a", "lab-b") for target in ("lab-a", "lab-b")
    }
    return folder


# A finished run


def written(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, index_col="id").sort_index()


@pytest.mark.parametrize("refit", [False, True])
def test_a_loaded_run_gives_the_numbers_of_predict(finished, manifest, refit, tmp_path):
    domain = "ward" if refit else "lab-b"
    count = api.predict(
        finished, manifest, tmp_path / "out.csv", domain=domain, source="lab-a", refit=refit, device="cpu"
    )
    run = cellfeat.load(finished, "lab-a", device="cpu")
    if refit:
        run = run.refit(manifest, domain=domain)
    found, proba = run.predict(manifest, domain=domain), run.predict_proba(manifest, domain=domain)
    rows = written(tmp_path / "out.csv")
    assert count == len(rows) == len(found) == 60
    assert found.tolist() == rows["label"].tolist()
    assert [[f"{value:.6g}" for value in row] for row in proba] == [
        [f"{value:.6g}" for value in row] for row in rows[[f"p_{name}" for name in run.classes_]].to_numpy()
    ]


def test_a_loaded_run_gives_the_numbers_of_transform(finished, manifest, tmp_path):
    both = api.table(manifest).query("domain != 'lab-c'")
    both.to_csv(tmp_path / "cells.csv", index=False)
    count, _ = api.transform(finished, tmp_path / "cells.csv", tmp_path / "out.parquet", source="lab-b", device="cpu")
    assert count == len(both) == 40
    rows = pd.read_parquet(tmp_path / "out.parquet").set_index("id").loc[both["id"]]
    run = cellfeat.load(finished, "lab-b", device="cpu")
    assert np.array_equal(run.transform(both), rows[[name for name in rows if name.startswith("f")]].to_numpy())


def test_a_refit_adapts_to_no_cell_of_the_source_and_looks_at_no_label(finished, manifest):
    cells = api.table(manifest)
    others = cells[cells["domain"] != "lab-a"]
    run = cellfeat.load(finished, "lab-a", device="cpu")
    wanted = run.refit(others).predict_proba(cells)
    assert not [note for note in run.work.reporter.notes if "left out" in note]
    run.refit(manifest)
    (note,) = (note for note in run.work.reporter.notes if "left out" in note)
    assert note == (
        "20 of 60 cells of the images to adapt to are of laboratories of the run's source, which are fitted on "
        "already, and are left out"
    )
    some = cells.drop(cells.index[cells["domain"] == "lab-a"][::3])  # their mean is not that of all
    for target in (cells, some, some.assign(label=some["label"].to_numpy()[::-1]), some.assign(label="other")):
        assert np.array_equal(run.refit(target).predict_proba(cells), wanted)
    known = cells[cells["domain"] == "lab-a"]
    assert np.array_equal(run.refit(known).predict_proba(known), run.predict_proba(known))
    as_new = run.refit(cells, domain="ward")
    assert as_new.domains == ["lab-a", "ward"], "who says that all are of a new laboratory is believed"
    assert not np.array_equal(as_new.predict_proba(cells, domain="ward"), wanted)


def test_what_a_loaded_run_says_of_itself(finished):
    run = cellfeat.load(str(finished), "lab-a", device="cpu")
    assert run.classes_.tolist() == ["basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil"]
    assert (run.source, run.domains) == (["lab-a"], ["lab-a", "lab-b"])
    assert run.recipe.align[0].name == "per-domain-z"
    assert str(run).endswith("pipelines/lab-a'))"), "arrays have no place in a notebook's line"
    assert sorted(one["target"] for one in run.records) == ["lab-a", "lab-b"]
    alone = cellfeat.load(finished / "pipelines" / "lab-a", device="cpu")
    assert alone.records == run.records


def test_what_cannot_be_loaded_is_refused(finished, manifest, tmp_path):
    with pytest.raises(CellfeatError, match="has a pipeline per source: lab-a, lab-b; choose one"):
        cellfeat.load(finished)
    with pytest.raises(CellfeatError, match="no source of this run named 'lab-c'"):
        cellfeat.load(finished, "lab-c")
    with pytest.raises(CellfeatError, match="is no run folder"):
        cellfeat.load(tmp_path)
    run = cellfeat.load(finished, "lab-a", device="cpu")
    paths = api.table(manifest)["path"].tolist()
    with pytest.raises(UnseenDomainError, match="cannot place the new domain 'new'"):
        run.predict(paths)
    assert run.refit(paths).domains == ["lab-a", "new"]


def test_a_run_whose_weights_or_cells_have_changed_is_refused(finished, manifest, tmp_path):
    copied = shutil.copytree(finished, tmp_path / "run")
    about = copied / "pipelines" / "lab-a" / "pipeline.json"
    told = json.loads(about.read_text())
    told["facts"]["dataset"]["digest"] = "other"
    about.write_text(json.dumps(told))
    run = cellfeat.load(copied, "lab-a", device="cpu")
    with pytest.raises(CellfeatError, match=r"manifest.csv has changed since .*lab-a was made: run again"):
        run.refit(manifest, domain="ward")
    told["facts"]["weights_sha256"] = "abc"
    about.write_text(json.dumps(told))
    with pytest.raises(CellfeatError, match="weights with sha256 abc, but colour now has weights with None; put the"):
        cellfeat.load(copied, "lab-a", device="cpu")


# The others


def test_a_manifest_as_a_table(manifest, tmp_path):
    found = api.table(manifest, "five-class")
    assert found.columns.tolist() == ["id", "path", "domain", "group", "label"]
    assert found["id"].is_monotonic_increasing
    assert all(Path(path).is_absolute() and Path(path).is_file() for path in found["path"])
    found.loc[:2, "label"] = ""
    found.to_csv(tmp_path / "cells.csv", index=False)
    assert api.table(tmp_path / "cells.csv")["label"].tolist()[:4] == [None, None, None, found["label"][3]]


def test_a_table_says_what_it_needs(manifest, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(CellfeatError, match="a manifest as a table needs pandas, which is not installed: pip install"):
        api.table(manifest)


def test_manifests_are_made_joined_and_read(manifest, tmp_path, capfd):
    folder = tmp_path / "ward"
    for name in ("basophil", "monocyte"):
        (folder / name).mkdir(parents=True)
        image = next((manifest.parent / "images").glob(f"lab-a_{name}_*"))
        (folder / name / "one.png").write_bytes(image.read_bytes())
    (folder / "monocyte" / "bad.png").write_text("no image")
    result = api.index("folders", folder, "ward", tmp_path / "ward.csv", skip_bad=True)
    assert (result.accepted, len(result.bad)) == (2, 1)
    assert "bad.png" in (tmp_path / "ward-skipped.csv").read_text()
    assert api.merge([tmp_path / "ward.csv", manifest], tmp_path / "all.csv") == 62
    assert api.data_info(tmp_path / "all.csv").domains == ("lab-a", "lab-b", "lab-c", "ward")
    with pytest.raises(CellfeatError, match="never overwritten"):
        api.index("folders", folder, "ward", tmp_path / "ward.csv", skip_bad=True)
    assert capfd.readouterr() == ("", ""), "functions print nothing"


def test_a_report_of_a_run(finished, tmp_path):
    page, figures = api.report(finished, tmp_path / "page.html")
    assert page.read_text(encoding="utf-8").startswith("<!")
    assert figures == []


def test_features_are_written(manifest, tmp_path):
    found = api.extract(manifest, tmp_path / "f.parquet", backbone="colour", sets=["backbone.bins=2"], device="cpu")
    assert found == (60, 40)


def test_results_of_a_suite(finished_suite, suite_file, laboratories, suite_cache, tmp_path, monkeypatch):
    rankings, failures = api.bench_list(finished_suite, clf="lr")
    assert (len(rankings), failures) == (len(api.bench_list(finished_suite)[0]), [])
    pair = api.bench_compare(finished_suite, ["z", "none"], protocol="transfers", clf="lr")
    assert [name.partition(" ")[0] for name in pair.names] == ["z/lr", "none/lr"]
    assert pair.corrected == [pair.found[0].p]
    path, count, boards = api.bench_leaderboard([finished_suite], tmp_path / "site")
    assert path.is_file()
    assert (count > 0, boards > 0) == (True, True)
    assert {one.passed for one in api.bench_submit(finished_suite, check=True)} <= {True, False, None}
    monkeypatch.setenv("CELLFEAT_CACHE", str(suite_cache))
    again = api.bench_run(suite_file, data=laboratories, out=finished_suite, device="cpu")
    assert (again.done, again.found, again.failed) == (0, 6, 0)
    [verdict] = api.bench_verify(finished_suite, data=laboratories, random=1, device="cpu")
    assert verdict.passed, verdict.faults


def test_methods_are_listed_described_checked_and_begun(tmp_path, capfd):
    assert {one["name"] for one in api.plugins_list()["offers"]} >= {"lora-sam", "cae"}
    assert api.plugins_requirements() == "" or "==" in api.plugins_requirements()
    assert {one.slot for one in api.plugins_info("lora-sam")} == {"backbone", "segmenter"}
    assert api.plugins_page("cae").startswith("# ")
    with pytest.raises(CellfeatError, match="no method named 'nothing'"):
        api.plugins_info("nothing")
    found = api.plugins_check("lr", sets={"max_iter": 50}, only=["shape", "float32"], budget=30)
    assert [one["passed"] for one in found["methods"]] == [True]
    assert [one["check"] for one in found["methods"][0]["findings"]] == ["float32", "shape"]
    folder, files = api.plugins_new("align", "my-own", tmp_path / "mine", author="A <a@b.cd>")
    assert (folder, (folder / "README.md").is_file()) == (tmp_path / "mine", True)
    assert "README.md" in files
    assert capfd.readouterr() == ("", "")


def test_a_plugin_that_did_not_load_is_told_with_the_reason(monkeypatch):
    from cellfeat.registry import Broken, Registry

    broken = Broken("mine", "cellfeat-mine", "no module named thing", "install it")
    monkeypatch.setattr("cellfeat.registry.installed", lambda: Registry(list(installed().offers), [broken]))
    with pytest.raises(CellfeatError, match="mine of cellfeat-mine did not load: no module named thing; install it"):
        api.plugins_info("mine")


def test_weights_are_listed_found_and_exchanged(tmp_path):
    here = {row.name: row.path for row in api.weights_list()}
    assert api.weights_verify("cell-tiny-v1") == api.weights_fetch("cell-tiny-v1") == here["cell-tiny-v1"]
    with pytest.raises(CellfeatError, match="vit_c"):
        api.weights_fetch("vit_c")
    with pytest.raises(CellfeatError, match="no import format named 'nothing'"):
        api.weights_import("nothing", tmp_path / "a", tmp_path / "b")
    with pytest.raises(CellfeatError, match="no export format named 'nothing'"):
        api.weights_export("nothing", tmp_path / "a", tmp_path / "b", sets={"key": 1})


def test_notes_are_shown_where_they_are_asked_for(manifest, tmp_path, capfd):
    table = api.table(manifest)
    table.loc[:1, "label"] = ""
    table.to_csv(tmp_path / "cells.csv", index=False)
    for verbose in (False, True):
        out = tmp_path / f"{verbose}.parquet"
        api.extract(tmp_path / "cells.csv", out, backbone="colour", device="cpu", verbose=verbose)
        said = capfd.readouterr()
        assert said.out == ""
        assert ("2 cells have no label" in said.err) == verbose
