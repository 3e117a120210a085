"""A suite run: what lands in the folder, what a second start does, and what a failing row does to the others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from helpers import Identity, with_plugins

from cellfeat import CellfeatError, answers, records, results_folder
from cellfeat.bench import SuiteRun
from cellfeat.console import SilentReporter
from cellfeat.registry import installed
from cellfeat.results_folder import read_failures, read_records
from cellfeat.suite import Suite, read_suite
from cellfeat.workplace import Workplace


@pytest.fixture(scope="module", autouse=True)
def shared_cache(suite_cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELLFEAT_CACHE", str(suite_cache))
        yield


@pytest.fixture
def results(finished_suite, tmp_path) -> Path:
    """A copy of the finished results, to be changed."""
    return Path(shutil.copytree(finished_suite, tmp_path / "results"))


def work(registry=None) -> Workplace:
    return Workplace(registry or installed(), SilentReporter(), device="cpu")


def start(folder, suite, manifest, only=(), registry=None, **outcome):
    """Start a suite and check the outcome; gives the notes."""
    place = work(registry)
    found = SuiteRun(suite if isinstance(suite, Suite) else read_suite(suite), folder, place, str(manifest))(only)
    counts = {"done": 0, "found": 0, "failed": 0, "elsewhere": ()} | outcome
    assert {name: getattr(found, name) for name in counts} == counts
    return place.reporter.notes


def suite_of(rows, **sections) -> Suite:
    protocol = {"adapt": "test", "folds": 2, "fitted_folds": 1, "source": ["lab-a"], "target": ["lab-b"]}
    return Suite.model_validate(
        {
            "name": "own",
            "backbone": {"name": "colour", "bins": 3},
            "classifiers": ["lr"],
            "seeds": [1],
            "protocols": {"transfers": protocol},
            "rows": rows,
            **sections,
        }
    )


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


def test_a_record_for_every_row_protocol_classifier_seed_and_transfer(finished_suite):
    written = records.read(finished_suite / results_folder.RECORDS)
    found = {(record["address"], record["target"]) for record in written}
    rows = [("none", "transfers", "abc"), ("none", "without", "ab"), ("z", "transfers", "abc")]
    assert found == {
        (f"{row}/{protocol}/{classifier}/1", f"lab-{target}")
        for row, protocol, targets in rows
        for classifier in ("lr", "majority")
        for target in targets
    }
    assert len(written) == len(found)
    assert not (finished_suite / results_folder.FAILURES).exists()


def test_a_record_says_all_that_was_done(finished_suite):
    by_address = {(r["address"], r["target"]): r for r in records.read(finished_suite / results_folder.RECORDS)}
    one = by_address["z/transfers/lr/1", "lab-b"]
    assert (one["suite"], one["row"], one["protocol"], one["classifier"], one["seed"]) == (
        "tiny",
        "z",
        "transfers",
        "lr",
        1,
    )
    assert (one["adapt"], one["adapted_to"], one["uses_target"]) == ("test", ["lab-b", "lab-c"], True)
    assert one["recipe"]["align"] == [{"name": "per-domain-z"}] or one["recipe"]["align"][0]["name"] == "per-domain-z"
    assert one["recipe"]["classifier"]["max_iter"] == 500, "parameters are resolved"
    assert one["recipe"]["dataset"]["manifest"] == "manifest.csv"
    assert (one["weights_saw"], one["weights_saw_target"]) == ([], False)
    assert one["seconds"] > 0
    assert 50 < one["peak_memory_mb"] < 100_000
    assert set(one["calibration"]) == {"expected_error", "brier", "log_loss"}
    assert set(one["recall"]) == set(one["class_counts"]) == set(one["classes"])
    assert one["ceiling"]["balanced_accuracy"] == 1
    assert one["majority"]["balanced_accuracy"] == pytest.approx(0.2)
    none = by_address["none/transfers/lr/1", "lab-b"]
    assert (none["adapt"], none["adapted_to"]) == ("none", []), "what was done, and not what was allowed"
    assert by_address["none/transfers/majority/1", "lab-b"]["scores"]["accuracy"]["mean"] == pytest.approx(0.2)
    without = by_address["none/without/lr/1", "lab-b"]
    assert "eosinophil" not in without["class_counts"]
    assert without["cells"] == 40
    assert len(without["scores"]["accuracy"]["models"]) == 2
    assert by_address["none/without/lr/1", "lab-a"]["class_counts"]["eosinophil"] == 10


def test_ids_follow_from_the_content_and_are_different(finished_suite):
    written = records.read(finished_suite / results_folder.RECORDS)
    assert len({record["id"] for record in written}) == len(written)
    for record in written:
        assert record["id"] == results_folder.id_of(record)
        assert results_folder.id_of({**record, "seconds": record["seconds"] + 1}) != record["id"]


def test_no_path_of_the_machine_is_written(finished_suite, laboratories):
    text = (finished_suite / results_folder.RECORDS).read_text()
    for private in (str(laboratories.parent), str(Path.home()), str(finished_suite), "/tmp"):
        assert private not in text, private


def test_predictions_stand_beside_and_give_the_scores(finished_suite):
    truth = answers.KnownCells(finished_suite / results_folder.CELLS).truth()
    for record in records.read(finished_suite / results_folder.RECORDS):
        fit = {key: record[key] for key in answers.FIT}
        table = answers.read(finished_suite / record["predictions"]["file"], **fit)
        assert answers.digest_of(table) == record["predictions"]["sha256"]
        rows = [row for row in table.to_pylist() if row["target"] == record["target"]]
        right = np.mean([row["predicted"] == truth.label[row["id"]] for row in rows])
        assert right == pytest.approx(record["scores"]["accuracy"]["mean"])
        assert not any(name.startswith("p_") for name in table.column_names)
        models = 1 if record["held_out_folds"] else len(record["scores"]["accuracy"]["models"])
        assert len(rows) == record["cells"] * models


def test_the_cells_are_those_of_the_manifest(finished_suite, laboratories):
    import pandas as pd

    manifest = pd.read_csv(laboratories).set_index("id").sort_index()
    found = pq.read_table(finished_suite / results_folder.CELLS).to_pandas().set_index("id")
    assert found.index.tolist() == manifest.index.tolist(), "also cells that some protocol leaves out"
    assert found.label.tolist() == manifest.label.tolist()
    assert found.domain.tolist() == manifest.domain.tolist()
    assert found.group.tolist() == found.index.tolist()


def test_probabilities_are_kept_where_they_are_wanted(tmp_path, laboratories):
    start(tmp_path, suite_of({"none": {"align": "none"}}, probabilities=True), laboratories, done=1)
    table = pq.read_table(tmp_path / "predictions" / "none.parquet").to_pandas()
    names = [name for name in table if name.startswith("p_")]
    assert len(names) == 5
    np.testing.assert_allclose(table[names].sum(axis=1), 1, atol=1e-5)
    assert ("p_" + table.predicted == table[names].idxmax(axis=1)).all()


def test_a_second_start_finds_everything_and_changes_nothing(results, suite_file, laboratories, monkeypatch):
    before = content(results)
    monkeypatch.setattr("cellfeat.evaluate.Evaluator.run", lambda *_: pytest.fail("a fit was done again"))
    start(results, suite_file, laboratories, found=6)
    assert content(results) == before


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_killed_run_goes_on_where_records_are_missing(results, suite_file, laboratories, lost):
    """Also where the kill came between the lines of one fit, or within one."""
    path = results / results_folder.RECORDS
    lines = path.read_text().splitlines(keepends=True)
    whole = {(r["address"], r["target"]): r["scores"] for r in read_records(results)}
    cut = lines[-lost][:50] if lost != 2 else ""
    path.write_text("".join(lines[:-lost]) + cut)
    assert len(records.read(path)) == len(lines) - lost
    start(results, suite_file, laboratories, done=1, found=5)
    again = {(r["address"], r["target"]): r["scores"] for r in read_records(results)}
    assert again == whole
    assert len(records.read(path)) == len(lines) - lost + 3
    assert (
        pq.read_table(results / "predictions" / "z.parquet").num_rows
        == pq.read_table(results / "predictions" / "z.parquet")
        .to_pandas()
        .drop_duplicates(["protocol", "classifier", "seed", "source", "target", "fold", "id"])
        .shape[0]
    )


def test_a_damaged_line_in_the_middle_is_refused_by_its_number(results, suite_file, laboratories):
    path = results / results_folder.RECORDS
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], lines[2][:40] + "\n", *lines[3:]]))
    with pytest.raises(CellfeatError, match=r"records.jsonl, line 3: not JSON"):
        start(results, suite_file, laboratories)


def test_one_row_alone_and_an_unknown_row(tmp_path, suite_file, laboratories):
    start(tmp_path / "r", suite_file, laboratories, only=["z"], done=2)
    assert {record["row"] for record in read_records(tmp_path / "r")} == {"z"}
    with pytest.raises(CellfeatError, match=r"no row named 'nnoe'. Did you mean 'none'"):
        start(tmp_path / "other", suite_file, laboratories, only=["nnoe"])
    assert not (tmp_path / "other").exists()


def test_a_wrong_parameter_shows_before_any_work(tmp_path, laboratories, monkeypatch):
    monkeypatch.setattr("cellfeat.encodings.load_dataset", lambda *_: pytest.fail("work was begun"))
    suite = suite_of({"none": {"align": "none"}, "bad": {"align": {"name": "coral", "shrinkge": 1}}})
    with pytest.raises(CellfeatError, match=r"row bad of suite own: no parameter of align 'coral' named 'shrinkge'"):
        start(tmp_path / "r", suite, laboratories)
    assert not (tmp_path / "r").exists()


def failing(log: list):
    """An aligner that fails as long as `log` is empty."""

    class Fails(Identity):
        def fit(self, cells, context):
            if not log:
                raise RuntimeError("out of\nluck")
            return self

    return Fails


def test_a_failing_row_is_written_down_passed_over_and_tried_again(tmp_path, laboratories):
    log: list = []
    registry = with_plugins(fails=failing(log))
    suite = suite_of({"bad": {"align": "fails"}, "none": {"align": "none"}})
    notes = start(tmp_path, suite, laboratories, registry=registry, done=1, failed=1)
    assert any(
        "bad/transfers/lr/1 from lab-a failed and is passed over: RuntimeError: out of luck" in note for note in notes
    )
    (line,) = read_failures(tmp_path)
    assert (line["address"], line["error"]) == ("bad/transfers/lr/1", "RuntimeError: out of luck")
    assert all("/" not in frame for frame in line["at"]), "no paths of this machine"
    assert line["at"][-1].startswith("test_bench.py:")
    assert line["source"] == "lab-a"
    assert line["recipe"]["dataset"]["manifest"] == "manifest.csv"
    assert "torch" in line["versions"]
    assert {record["row"] for record in read_records(tmp_path)} == {"none"}
    start(tmp_path, suite, laboratories, registry=registry, found=1, failed=1)
    assert len((tmp_path / results_folder.FAILURES).read_text().splitlines()) == 2
    assert len(read_failures(tmp_path)) == 1
    log.append("luck")
    start(tmp_path, suite, laboratories, registry=registry, found=1, done=1)
    assert read_failures(tmp_path) == []
    assert str(laboratories.parent) not in (tmp_path / results_folder.FAILURES).read_text()


def test_a_users_mistake_is_recorded_without_a_traceback(tmp_path, laboratories):
    suite = suite_of({"none": {"align": "none"}})
    suite.protocols["transfers"].folds = 40
    start(tmp_path, suite, laboratories, failed=1)
    (line,) = read_failures(tmp_path)
    assert "fewer than 2 classes with at least 40 labelled cells" in line["error"]
    assert "at" not in line


def test_an_interruption_stops_the_suite(tmp_path, laboratories):
    class Stops(Identity):
        def fit(self, cells, context):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, suite_of({"stops": {"align": "stops"}}), laboratories, registry=with_plugins(stops=Stops))
    assert read_failures(tmp_path) == []


def test_a_row_that_another_process_is_at_is_left_to_it(tmp_path, suite_file, laboratories):
    folder = tmp_path / "r"
    (folder / "locks").mkdir(parents=True)
    with FileLock(folder / "locks" / "row-none.lock"):
        start(folder, suite_file, laboratories, done=2, elsewhere=("none",))
    assert {record["row"] for record in read_records(folder)} == {"z"}


def test_classifiers_share_a_fit_of_the_chain(tmp_path, laboratories):
    fits: list = []

    class Counts(Identity):
        def fit(self, cells, context):
            fits.append(len(cells))
            return self

    rows = {"counts": {"align": "counts", "classifiers": ["lr", "majority", {"name": "lr", "C": 2.0}]}}
    start(tmp_path, suite_of(rows), laboratories, registry=with_plugins(counts=Counts), done=3)
    assert len(fits) == 1
    assert {r["classifier"] for r in read_records(tmp_path)} == {"lr", "majority", "lr(C=2.0)"}
    seconds = {record["classifier"]: record["seconds"] for record in read_records(tmp_path)}
    assert min(seconds.values()) > 0


def test_weights_that_saw_a_target_are_marked(tmp_path, laboratories):
    def knowing(*saw):
        class Knows(Identity):
            uses_target = False
            weights_saw = saw[0]

        return Knows

    registry = with_plugins(knows=knowing(("lab-b (images without labels)", "drawn")), unsure=knowing(None))
    rows = {"knows": {"align": "knows"}, "unsure": {"align": "unsure"}, "none": {"align": "none"}}
    suite = suite_of(rows)
    suite.protocols["transfers"].target = []
    start(tmp_path, suite, laboratories, registry=registry, done=3)
    found = {(r["row"], r["target"]): r["weights_saw_target"] for r in read_records(tmp_path)}
    assert found == {
        **{("knows", f"lab-{name}"): name == "b" for name in "abc"},
        **{("unsure", f"lab-{name}"): None for name in "abc"},
        **{("none", f"lab-{name}"): False for name in "abc"},
    }


def test_results_of_other_data_are_not_mixed_with_these(results, suite_file, laboratories, tmp_path):
    before = content(results)
    rows = laboratories.read_text().splitlines()
    header = rows[0].split(",")
    changed = [row.split(",") for row in rows[1:]]
    for row in changed:
        for name in ("path", "mask_path"):
            row[header.index(name)] = str(laboratories.parent / row[header.index(name)])
    label = header.index("label")
    changed[0][label], changed[15][label] = changed[15][label], changed[0][label]
    assert changed[0][label] != changed[15][label]
    other = tmp_path / "other.csv"
    other.write_text("\n".join([rows[0], *(",".join(row) for row in changed)]) + "\n")
    start(results, suite_file, other, only=["z"], failed=2)
    assert all(
        "has results of other data: cell" in line["error"]
        for line in map(json.loads, (results / results_folder.FAILURES).open())
    )
    after = content(results)
    assert {name: after[name] for name in before} == before


def test_the_newest_record_counts(results):
    first = records.read(results / results_folder.RECORDS)[0]
    records.append(results / results_folder.RECORDS, [results_folder.with_id({**first, "seconds": 1e6})])
    (newest,) = (
        r for r in read_records(results) if all(r[key] == first[key] for key in ("address", "source", "target"))
    )
    assert newest["seconds"] == 1e6
    assert read_records(results / "nowhere") == []


def test_appending_mends_the_end_of_a_file(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"schema": 1, "n": 1}\n{"schema": 1, "n"')
    records.append(path, [{"schema": 1, "n": 3}])
    assert [record["n"] for record in records.read(path)] == [1, 3]
    path.write_text('{"schema": 1, "n": 1}\n{"schema": 1, "n": 2}')
    records.append(path, [{"schema": 1, "n": 3}])
    assert [record["n"] for record in records.read(path)] == [1, 2, 3]


def test_a_mistake_in_the_data_is_told_before_any_row_and_is_no_failure(tmp_path, laboratories):
    suite = suite_of({"none": {"align": "none"}})
    with pytest.raises(CellfeatError, match=r"absent\.csv"):
        start(tmp_path / "r", suite, tmp_path / "absent.csv")
    suite.protocols["transfers"].leave_out = ["lab-b/eosinophl"]
    with pytest.raises(CellfeatError, match="Did you mean 'eosinophil'"):
        start(tmp_path / "r", suite, laboratories)
    assert not (tmp_path / "r").exists()


def test_a_row_without_classifier_and_head_is_no_row_with_a_head_of_its_own(tmp_path, laboratories):
    suite = suite_of({"none": {"align": "none", "classifiers": []}})
    with pytest.raises(
        CellfeatError, match=r"row none of suite .*: it names no classifier, and its last method has no"
    ):
        start(tmp_path / "results", suite, laboratories)
    assert not (tmp_path / "results").exists()


def test_a_method_with_a_head_of_its_own_answers_by_it(tmp_path, laboratories):
    class Headed(Identity):
        uses_labels = True

        def fit(self, cells, context):
            self.classes = len(set(cells.label[cells.label >= 0].tolist()))
            return self

        def predict_proba(self, cells, context):
            return np.tile(np.eye(self.classes)[1], (len(cells), 1))

    suite = suite_of({"headed": {"align": "headed", "classifiers": []}})
    start(tmp_path, suite, laboratories, registry=with_plugins(headed=Headed), done=1)
    for record in read_records(tmp_path):
        assert (record["classifier"], record["recipe"]["classifier"]) == ("own-head", None)
        assert record["recall"] == {name: float(i == 1) for i, name in enumerate(record["classes"])}
