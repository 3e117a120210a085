"""Records that are true hold; every kind of tampering is told, those that only a second fit can tell too."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cellfeat_da.moments import NoAlignment

from cellfeat import CellfeatError, answers, claims, records, results_folder, verification
from cellfeat.console import SilentReporter
from cellfeat.evaluate import Evaluator
from cellfeat.registry import installed
from cellfeat.results_folder import id_of, read_records, with_id
from cellfeat.verification import check_content, chosen, verify
from cellfeat.workplace import Workplace

ADDRESS, TARGET = "none/transfers/lr/1", "lab-b"


@pytest.fixture(scope="module", autouse=True)
def shared_cache(suite_cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELLFEAT_CACHE", str(suite_cache))
        yield


@pytest.fixture
def results(finished_suite, tmp_path) -> Path:
    """A copy of the finished results, to be tampered with."""
    return Path(shutil.copytree(finished_suite, tmp_path / "results"))


def one_of(folder: Path, address=ADDRESS, target=TARGET) -> dict:
    (record,) = (r for r in read_records(folder) if (r["address"], r["target"]) == (address, target))
    return record


def checked(folder: Path, record: dict, data):
    (verdict,) = verify([record], folder, Workplace(installed(), SilentReporter(), "cpu"), str(data))
    assert verdict.passed == (not verdict.faults)
    return verdict


def test_good_records_hold_with_every_prediction(finished_suite, laboratories):
    picked = [record for record in read_records(finished_suite) if record["classifier"] == "lr"]
    work = Workplace(installed(), SilentReporter(), "cpu")
    verdicts = verify(picked, finished_suite, work, str(laboratories))
    assert len(verdicts) == 8
    for verdict, record in zip(verdicts, picked, strict=True):
        assert (verdict.id, verdict.address) == (record["id"], record["address"])
        assert verdict.transfer == f"{record['source']} → {record['target']}"
        assert (verdict.passed, verdict.equal, verdict.remark) == (True, 1.0, "")


def test_a_fit_is_done_once_for_all_of_its_records(finished_suite, laboratories, monkeypatch):
    calls, run = [], Evaluator.run
    monkeypatch.setattr(Evaluator, "run", lambda *a: (calls.append(a[1].name), run(*a))[1])
    picked = [record for record in read_records(finished_suite) if record["address"] == ADDRESS]
    assert len(picked) == 3
    assert all(
        one.passed
        for one in verify(picked, finished_suite, Workplace(installed(), SilentReporter(), "cpu"), str(laboratories))
    )
    assert len(calls) == 1


# Tampering


def edited(table: pa.Table, record: dict, change) -> pa.Table:
    """The table with `change` applied to (id, predicted) of the record's target; None takes the answer out."""
    rows = []
    for row in table.to_pylist():
        fit = all(row[key] == record[key] for key in answers.FIT) and row["target"] == record["target"]
        new = change(row["id"], row["predicted"]) if fit else row["predicted"]
        rows += [] if new is None else [{**row, "predicted": new}]
    return pa.Table.from_pylist(rows, schema=table.schema)


def tamper(folder: Path, record: dict, change, consistent: bool = False) -> dict:
    """Change predictions, and where asked let digest, scores and id follow; gives the record."""
    path = folder / record["predictions"]["file"]
    pq.write_table(edited(pq.read_table(path), record, change), path)
    if not consistent:
        return record
    table = answers.read(path, **{key: record[key] for key in answers.FIT})
    scores = verification._scores(record, table, answers.KnownCells(folder / results_folder.CELLS).truth().label)
    changed = {name: {**record["scores"][name], "mean": value} for name, value in scores.items()}
    return with_id(
        {
            **record,
            "scores": changed,
            "predictions": {**record["predictions"], "sha256": answers.digest_of(table)},
        }
    )


def truly(folder: Path):
    """A change that makes every answer right."""
    truth = answers.KnownCells(folder / results_folder.CELLS).truth()
    return lambda name, predicted: truth.label[name]


def test_a_score_that_was_edited(results, laboratories):
    record = one_of(results)
    record["scores"]["accuracy"]["mean"] = 0.99
    verdict = checked(results, record, laboratories)
    assert verdict.equal == 1
    changed, score = verdict.faults
    assert changed == "it was changed after it was written: its id does not follow from what it says"
    assert score.startswith("accuracy is 0.99, but its predictions give 0.")


def test_a_score_that_was_edited_with_its_id(results, laboratories):
    record = one_of(results)
    record["scores"]["balanced_accuracy"]["mean"] += 1e-6
    verdict = checked(results, with_id(record), laboratories)
    (score,) = verdict.faults
    assert score.startswith("balanced_accuracy is")


@pytest.mark.parametrize("name", ["hardware", "seconds", "note"])
def test_anything_that_was_edited_shows_in_the_id(results, name):
    record = one_of(results) | {name: "other"}
    assert check_content(record, results) == [
        "it was changed after it was written: its id does not follow from what it says"
    ]
    assert check_content(one_of(results), results) == []


def test_predictions_that_were_edited(results, laboratories):
    record = tamper(results, one_of(results), truly(results))
    verdict = checked(results, record, laboratories)
    assert verdict.faults[0] == "its predictions are not those that it was written with"
    assert verdict.equal < 1


def test_predictions_that_were_edited_with_all_that_follows_from_them_are_told_by_the_second_fit(results, laboratories):
    record = one_of(results)
    before = record["scores"]["accuracy"]["mean"]
    record = tamper(results, record, truly(results), consistent=True)
    assert record["scores"]["accuracy"]["mean"] == 1
    assert check_content(record, results) == [], "nothing but a second fit can tell"
    verdict = checked(results, record, laboratories)
    assert verdict.faults == (f"only {100 * verdict.equal:.2f} % of its predictions came out again",)
    assert verdict.equal == pytest.approx(before)


def test_wrong_answers_that_were_taken_out_are_told(results, laboratories):
    right, record = truly(results), one_of(results)
    record = tamper(results, record, lambda name, was: was if was == right(name, was) else None, consistent=True)
    assert check_content(record, results) == []
    assert any("predictions came out again" in fault for fault in checked(results, record, laboratories).faults)


def test_right_answers_that_were_doubled_are_told(results, laboratories):
    right, record = truly(results), one_of(results)
    path = results / record["predictions"]["file"]
    table = pq.read_table(path)
    doubled = edited(table, record, lambda name, was: was if was == right(name, was) else None)
    mine = [row for row in doubled.to_pylist() if all(row[k] == record[k] for k in (*answers.FIT, "target"))]
    assert mine
    pq.write_table(pa.concat_tables([table, pa.Table.from_pylist(mine, schema=table.schema)]), path)
    record = tamper(results, record, lambda name, was: was, consistent=True)
    assert check_content(record, results) == []
    assert any("predictions came out again" in fault for fault in checked(results, record, laboratories).faults)


def test_labels_that_were_edited_are_told(results, laboratories):
    """The cells beside the predictions say what was right: made agree with them, every score is 1."""
    record = one_of(results)
    path = results / results_folder.CELLS
    table = pq.read_table(path).to_pylist()
    found = answers.read(results / record["predictions"]["file"], **{key: record[key] for key in answers.FIT})
    answered = {row["id"]: row["predicted"] for row in found.to_pylist() if row["target"] == TARGET}
    schema = pq.read_schema(path)
    pq.write_table(
        pa.Table.from_pylist([{**row, "label": answered.get(row["id"], row["label"])} for row in table], schema), path
    )
    record = tamper(results, record, lambda name, was: was, consistent=True)
    assert record["scores"]["accuracy"]["mean"] == 1
    assert any("results of other data: cell" in fault for fault in checked(results, record, laboratories).faults)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"weights_saw_target": True}, "weights_saw_target is True, but comes out as False"),
        ({"adapt": "test"}, "adapt is test, but comes out as none"),
        ({"cells": 9}, "cells is 9, but comes out as 50"),
    ],
)
def test_facts_that_were_edited_with_the_id_are_told(results, laboratories, changes, text):
    verdict = checked(results, with_id(one_of(results) | changes), laboratories)
    assert text in verdict.faults
    assert verdict.equal == 1


def test_another_recipe_under_the_same_address_is_fitted_by_itself(results, laboratories):
    good, bad = one_of(results, target="lab-b"), one_of(results, target="lab-c")
    bad["recipe"]["classifier"] = {"name": "majority"}
    verdicts = verify([good, with_id(bad)], results, Workplace(installed(), SilentReporter(), "cpu"), str(laboratories))
    assert verdicts[0].passed
    assert not verdicts[1].passed


def test_other_data_are_refused(results, laboratories):
    rows = laboratories.read_text().splitlines()
    fewer = laboratories.parent / "fewer.csv"
    fewer.write_text("\n".join(rows[:-1]) + "\n")
    verdict = checked(results, one_of(results), fewer)
    (fault,) = verdict.faults
    assert fault.startswith("these data are others: digest ")
    assert verdict.equal is None


def test_other_weights_are_refused(results, laboratories):
    record = one_of(results)
    record["backbone"]["weights_sha256"] = "0" * 64
    (fault,) = checked(results, with_id(record), laboratories).faults
    assert fault == f"these weights are others: digest None, not {'0' * 64}"


def test_other_versions_are_a_remark(results, laboratories):
    record = one_of(results)
    record["versions"]["torch"] = "0.1"
    record["versions"]["lost"] = "2"
    verdict = checked(results, with_id(record), laboratories)
    assert verdict.passed
    assert verdict.remark.startswith("versions: torch 0.1 → ")
    assert verdict.remark.endswith("lost 2 → absent")


def test_a_method_that_is_declared_not_deterministic_is_a_remark(results, laboratories, monkeypatch):
    record = one_of(results)
    monkeypatch.setattr(NoAlignment, "deterministic", False, raising=False)
    record["plugin_facts"]["align:none"]["deterministic"] = False
    verdict = checked(results, with_id(record), laboratories)
    assert verdict.passed
    assert verdict.remark == "'align none' is declared not deterministic: two fits with one seed may differ"
    monkeypatch.undo()
    del record["plugin_facts"]
    older = checked(results, with_id(record), laboratories)
    assert (older.passed, older.remark) == (True, "")


def test_what_a_record_says_of_its_methods_must_be_what_they_say(results, laboratories):
    record = one_of(results)
    record["plugin_facts"]["align:none"] |= {"deterministic": False, "paper": "Mine, 2026"}
    record["plugins"]["classifier:lr"] = "somebody 1.0"
    record["uses_labels"] = not record["uses_labels"]
    assert checked(results, with_id(record), laboratories).faults == (
        f"uses_labels is {record['uses_labels']}, but its methods say {not record['uses_labels']}",
        f"classifier:lr is by somebody 1.0, but here by cellfeat {version('cellfeat')}",
        "align:none does not declare what its record says: deterministic, paper",
    )


def test_another_version_of_a_plugin_is_a_remark():
    record = {"plugins": {"align:x": "mine 1.0"}, "versions": {}, "uses_target": True, "uses_labels": False}
    facts = {"align:x": {"deterministic": True, "paper": "new"}}
    about = {"plugins": {"align:x": "mine 1.1"}, "plugin_facts": facts, "uses_target": True, "uses_labels": False}
    record["plugin_facts"] = {"align:x": {"deterministic": True, "paper": "old"}}
    assert claims.false_claims(record, about) == []
    assert claims.changed_versions(record, about) == "versions: mine 1.0 → 1.1"


def test_predictions_that_are_not_there_are_one_line(results):
    shutil.rmtree(results / results_folder.PREDICTIONS)
    with pytest.raises(CellfeatError, match=r"predictions stand beside their records; fetch them too, or run again"):
        check_content(one_of(results), results)


def test_files_are_read_once_for_all_records(finished_suite, monkeypatch):
    reads, read_table = [], pq.read_table
    monkeypatch.setattr(pq, "read_table", lambda path, *a, **k: (reads.append(Path(path).name), read_table(path))[1])
    content = verification.Content(finished_suite)
    for record in read_records(finished_suite):
        assert content.faults(record) == check_content(record, finished_suite) == []
    each = 2 * len(read_records(finished_suite))
    assert len(reads) == 3 + each, "cells and two rows once, beside what check_content reads for itself each time"


# Which records


def test_records_are_chosen_by_id_and_its_beginning(finished_suite):
    known = read_records(finished_suite)
    first = known[0]["id"]
    assert [r["id"] for r in chosen(finished_suite, [first], None, 0)] == [first]
    assert [r["id"] for r in chosen(finished_suite, [first[:14], known[1]["id"]], None, 0)] == [first, known[1]["id"]]
    assert chosen(finished_suite, [], None, 0) == known
    with pytest.raises(CellfeatError, match=r"^no record named 'xyz'\. "):
        chosen(finished_suite, ["xyz"], None, 0)


def test_a_beginning_of_several_ids_is_ambiguous(results):
    record = read_records(results)[0]
    (results / results_folder.RECORDS).write_text("")
    twins = [{**record, "id": f"ab{i}", "target": f"t{i}"} for i in range(2)]
    records.append(results / results_folder.RECORDS, twins)
    with pytest.raises(CellfeatError, match="2 records have an id that begins with 'ab'; give more of it"):
        chosen(results, ["ab"], None, 0)
    assert chosen(results, ["ab1"], None, 0) == twins[1:]
    assert id_of(twins[0]) != twins[0]["id"]


def test_a_random_choice_follows_its_seed(finished_suite):
    known = read_records(finished_suite)
    draws = [chosen(finished_suite, [], 5, seed) for seed in (0, 0, 1, 2)]
    assert draws[0] == draws[1]
    assert len({tuple(r["id"] for r in draw) for draw in draws}) > 1
    for draw in draws:
        assert len({record["id"] for record in draw}) == 5
        assert all(record in known for record in draw)
    assert len(chosen(finished_suite, [], 1000, 0)) == len(known)


def test_a_folder_without_records_is_told(tmp_path):
    with pytest.raises(CellfeatError, match=r"has no records\.jsonl with records; make some by `cellfeat bench run`"):
        chosen(tmp_path, [], None, 0)
