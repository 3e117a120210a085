"""What a submission lacks is told; what is handed in is whole and holds nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cellfeat import CellfeatError, leaderboard
from cellfeat.cli import app
from cellfeat.results_folder import read_records, with_id
from cellfeat.submission import check, pack


@pytest.fixture
def folder(finished_suite, tmp_path) -> Path:
    """A finished suite of two rows, to be changed."""
    shutil.copytree(finished_suite, tmp_path / "mine")
    return tmp_path / "mine"


def found(folder: Path, what: str, **options):
    [one] = [one for one in check(folder, options.pop("against", None), **options) if one.what == what]
    return one


def change(folder: Path, edit, sign: bool = True) -> None:
    """Every record changed; signed again, as one would who wants it accepted."""
    path = folder / "records.jsonl"
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        edit(record)
        kept.append(json.dumps(with_id(record) if sign else record))
    path.write_text("\n".join(kept) + "\n", encoding="utf-8")


def test_a_whole_suite_lacks_nothing(folder, finished_suite):
    assert [one for one in check(folder, finished_suite) if one.passed is False] == []
    assert {one.what for one in check(folder, finished_suite)} == {
        *("records", "failed fits", "transfers", "plugins", "privacy", "weights", "size", "beside the others"),
    }


def test_a_changed_record_is_told(folder):
    change(folder, lambda record: record.update(seconds=1.0), sign=False)
    assert "its id does not follow from what it says" in found(folder, "records").text
    change(folder, lambda record: record["scores"]["accuracy"].update(mean=0.99))
    told = found(folder, "records")
    assert told.passed is False
    assert "accuracy is 0.99, but its predictions give" in told.text


def test_predictions_that_were_left_behind_are_told(folder):
    (folder / "predictions" / "z.parquet").unlink()
    told = found(folder, "records")
    assert told.passed is False
    assert "predictions stand beside their records" in told.text


def test_a_missing_transfer_and_a_failed_fit_are_told(folder):
    path = folder / "records.jsonl"
    lines = [line for line in path.read_text().splitlines() if json.loads(line)["target"] != "lab-c"]
    whole = path.read_text()
    one_row = [line for line in whole.splitlines() if '"row": "z"' not in line or line in lines]
    path.write_text("\n".join(one_row) + "\n")
    told = found(folder, "transfers")
    assert told.passed is False
    assert "z/lr in transfers lacks lab-a → lab-c" in told.text
    (folder / "failures.jsonl").write_text(json.dumps({"address": "z/new/lr/1", "source": "a", "error": "why"}) + "\n")
    assert found(folder, "failed fits").text.startswith("z/new/lr/1 failed")
    assert found(folder, "failed fits", rows=["none"]).passed


@pytest.mark.parametrize(
    ("requirements", "passed", "text"),
    [
        (None, False, "requirements.txt does not say where cellfeat-other is from"),
        ("cellfeat-other\n", False, "does not say where cellfeat-other is from"),
        ("cellfeat-other==0.3\n", False, "has cellfeat-other==0.3, but the records were made with 0.2"),
        ("cellfeat_other == 0.2  # ours\n", True, "cellfeat-other"),
        ("cellfeat-other @ git+https://example.org/x@abc123\n", True, "cellfeat-other"),
    ],
)
def test_the_plugins_of_others_must_be_named_with_a_version(folder, requirements, passed, text):
    change(folder, lambda record: record["plugins"].update({"align:z": "cellfeat-other 0.2"}))
    if requirements is not None:
        (folder / "requirements.txt").write_text(requirements)
    told = found(folder, "plugins")
    assert (told.passed, text in told.text) == (passed, True)


def test_two_versions_of_a_plugin_are_told(folder):
    change(folder, lambda record: record["plugins"].update({"align:z": f"cellfeat-other 0.{len(record['row'])}"}))
    assert "records were made with 2 versions of cellfeat-other (0.1, 0.4)" in found(folder, "plugins").text


@pytest.mark.parametrize("path", ["/home/me/cells.csv", "C:\\Users\\me\\cells.csv", "~/cells.csv"])
def test_folders_of_ones_own_machine_are_told(folder, path):
    assert found(folder, "privacy").passed
    change(folder, lambda record: record["recipe"]["dataset"].update(manifest=path))
    assert path in found(folder, "privacy").text


def test_what_weights_have_seen_is_a_remark(folder):
    change(folder, lambda record: record.update(weights_saw=None, weights_saw_target=None))
    told = found(folder, "weights")
    assert told.passed is None
    assert told.text.startswith("not known for none, z")
    change(folder, lambda record: record.update(weights_saw=["lab-b"], weights_saw_target=record["target"] == "lab-b"))
    assert "targets are marked as seen: none (lab-b)" in found(folder, "weights").text


def test_results_of_other_data_or_with_fewer_transfers_do_not_stand_beside_the_others(folder, finished_suite):
    change(folder, lambda record: record["dataset"].update(digest="0" * 64))
    told = found(folder, "beside the others", against=finished_suite)
    assert told.passed is False
    assert "transfers (test): no table of these data and settings" in told.text
    shutil.rmtree(folder)
    shutil.copytree(finished_suite, folder)
    path = folder / "records.jsonl"
    kept = [line for line in path.read_text().splitlines() if json.loads(line)["target"] != "lab-c"]
    path.write_text("\n".join(kept) + "\n")
    assert "lacks lab-a → lab-c" in found(folder, "beside the others", against=finished_suite).text


def test_what_is_handed_in_is_whole_and_holds_the_chosen_rows_alone(folder, tmp_path):
    (folder / "failures.jsonl").write_text(json.dumps({"address": "none/x/lr/1", "source": "a", "error": "/home/me"}))
    out = pack(folder, tmp_path / "out", ["z"])
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert names == ["cells.parquet", "predictions/z.parquet", "records.jsonl", "requirements.txt"]
    assert {record["row"] for record in read_records(out)} == {"z"}
    assert [one for one in check(out, None) if one.passed is False] == []
    assert leaderboard.content([out])["summary"]["rows"] == 1
    with pytest.raises(CellfeatError, match="exists and is never overwritten"):
        pack(folder, out)


def test_the_plugins_of_others_are_suggested_with_their_versions(folder, tmp_path):
    change(folder, lambda record: record["plugins"].update({"align:z": "cellfeat-other 0.2"}))
    out = pack(folder, tmp_path / "out")
    assert (out / "requirements.txt").read_text() == "cellfeat-other==0.2\n"
    assert found(out, "plugins").passed


def test_the_command_tells_and_hands_in(folder, finished_suite, tmp_path):
    def invoke(*arguments):
        return CliRunner().invoke(app, ["bench", "submit", str(folder), *map(str, arguments)], env={"COLUMNS": "200"})

    done = invoke("--check", "--against", finished_suite)
    assert done.exit_code == 0, done.output
    assert "beside the others" in done.output
    assert invoke("--out", tmp_path / "out", "--row", "none").exit_code == 0
    assert {record["row"] for record in read_records(tmp_path / "out")} == {"none"}
    change(folder, lambda record: record.update(seconds=1.0), sign=False)
    refused = invoke("--out", tmp_path / "refused")
    assert refused.exit_code == 1
    assert "✗" in refused.output
    assert not (tmp_path / "refused").exists()
    for arguments, text in (((), "name the folder to hand in"), (("--check", "--row", "y"), "no row named 'y'")):
        error = invoke(*arguments).exception
        assert isinstance(error, CellfeatError)
        assert text in str(error)
