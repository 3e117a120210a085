"""What a submission lacks is told; what is handed in is whole and holds nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from benchmarks.speed import made_up_results
from cellfeat import CellfeatError, leaderboard
from cellfeat.cli import app
from cellfeat.requirements import newest, suggested
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
        *(
            "records",
            "failed fits",
            "transfers",
            "plugins",
            "privacy",
            "weights",
            "size",
            "beside the others",
            "protocols",
        ),
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


COMMIT = "0123456789abcdef0123456789abcdef01234567"
GOOD = "cellfeat-other==0.2\n"


@pytest.mark.parametrize(
    "requirements",
    [
        "cellfeat_other == 0.2  # ours\n",
        "# two lines\n\ncellfeat-other==0.2.0\r\n",
        f"cellfeat-other @ git+https://example.org/me/x@{COMMIT}\n",
        f"cellfeat-other @ git+https://example.org/me/x.git@{COMMIT}#subdirectory=plugins/x\n",
    ],
)
def test_the_plugins_of_others_are_named_with_a_version_or_a_commit(folder, requirements):
    change(folder, lambda record: record["plugins"].update({"align:z": "cellfeat-other 0.2"}))
    (folder / "requirements.txt").write_text(requirements)
    told = found(folder, "plugins")
    assert (told.passed, told.text) == (True, "cellfeat-other")


@pytest.mark.parametrize(
    ("requirements", "text"),
    [
        (None, "requirements.txt does not say where cellfeat-other is from"),
        ("cellfeat-other\n", "line 1: cellfeat-other does not say where it is from"),
        ("cellfeat-other>=0.2\n", "does not say where it is from"),
        ("cellfeat-other==0.2,!=0.3\n", "does not say where it is from"),
        ("cellfeat-other==0.*\n", "does not say where it is from"),
        ("cellfeat-other===0.2\n", "does not say where it is from"),
        ("cellfeat-other==0.3\n", "has cellfeat-other==0.3, but the records were made with 0.2"),
        (GOOD + GOOD, "line 2: cellfeat-other is named twice"),
        (GOOD + "--index-url https://evil.example\n", "line 2: '--index-url https://evil.example' is neither NAME=="),
        (GOOD + "-e .\n", "line 2: '-e .' is neither"),
        (GOOD + "-r more.txt\n", "line 2: '-r more.txt' is neither"),
        (GOOD + "./wheel.whl\n", "line 2: './wheel.whl' is neither"),
        (GOOD + "https://evil.example/x.whl\n", "line 2: 'https://evil.example/x.whl' is neither"),
        ("cellfeat-other==0.2 \\\n--index-url https://evil.example\n", "is neither"),
        ("cellfeat-other==0.2 --hash=sha256:00\n", "is neither"),
        (GOOD + "evil-unpinned\n", "line 2: no record was made with evil-unpinned; take the line out"),
        (GOOD + "evil==1\n", "no record was made with evil"),
        (GOOD + "cellfeat @ git+https://evil.example/x\n", "line 2: cellfeat itself is what checks a submission"),
        (GOOD + "CellFeat==9\n", "cellfeat itself is what checks a submission"),
        ("cellfeat-other @ git+https://e.org/x\n", "git+https://e.org/x is not git+https://HOST/PATH@COMMIT"),
        ("cellfeat-other @ git+https://e.org/x@main\n", "is not git+https://HOST/PATH@COMMIT"),
        ("cellfeat-other @ git+https://e.org/x@abc123\n", "is not git+https://HOST/PATH@COMMIT"),
        (f"cellfeat-other @ git+http://e.org/x@{COMMIT}\n", "is not git+https://HOST/PATH@COMMIT"),
        (f"cellfeat-other @ git+ssh://e.org/x@{COMMIT}\n", "is not git+https://HOST/PATH@COMMIT"),
        (f"cellfeat-other @ git+https://me:token@e.org/x@{COMMIT}\n", "is not git+https://HOST/PATH@COMMIT"),
        (f"cellfeat-other @ git+https://e.org/${{TOKEN}}@{COMMIT}\n", "is not git+https://HOST/PATH@COMMIT"),
        (f"cellfeat-other @ git+https://e.org/x@{COMMIT}#subdirectory=../up\n", "is not git+https://HOST/PATH"),
        ("cellfeat-other @ file:///home/me/secret\n", "file:///home/me/secret is not git+https://HOST/PATH@COMMIT"),
        ("cellfeat-other==0.2 ; python_version<'2'\n", 'cellfeat-other has a condition (python_version < "2")'),
        ("# -*- coding: utf-7 -*-\n" + GOOD, "line 1: a line must not name an encoding"),
        (GOOD + "# caf\u00e9\n", "requirements.txt is not plain ASCII text"),
        (GOOD + "# \x0c-e .\n", "requirements.txt is not plain ASCII text"),
    ],
)
def test_whatever_else_pip_would_do_is_refused(folder, requirements, text):
    change(folder, lambda record: record["plugins"].update({"align:z": "cellfeat-other 0.2"}))
    if requirements is not None:
        (folder / "requirements.txt").write_bytes(requirements.encode())
    told = found(folder, "plugins")
    assert told.passed is False
    assert text in told.text


def test_a_file_for_cellfeats_own_plugins_names_nothing(folder):
    (folder / "requirements.txt").write_text("numpy==2.0\n")
    assert "no record was made with numpy" in found(folder, "plugins").text


def test_lines_of_rows_that_are_not_handed_in_are_left_out(folder, tmp_path):
    change(folder, lambda one: one["plugins"].update({"align:x": f"cellfeat-{one['row']} 0.2"}))
    (folder / "requirements.txt").write_text("cellfeat-none==0.2\ncellfeat_z == 0.2  # ours\n")
    assert found(folder, "plugins").passed
    assert found(folder, "plugins", rows=["z"]).passed
    out = pack(folder, tmp_path / "out", ["z"])
    assert (out / "requirements.txt").read_text() == "cellfeat_z == 0.2  # ours\n"
    assert found(out, "plugins").passed


@pytest.mark.parametrize(
    ("versions", "expected"),
    [(["0.9", "0.10"], "0.10"), (["1.0rc1", "1.0"], "1.0"), (["odd version", "0.1"], "0.1"), (["a", "b"], "b")],
)
def test_the_newest_version_is_that_of_the_numbers(versions, expected):
    assert newest(versions) == newest(versions[::-1]) == expected
    assert suggested({"x": versions}) == f"x=={expected}\n"


def test_two_versions_of_a_plugin_are_told(folder):
    change(folder, lambda record: record["plugins"].update({"align:z": f"cellfeat-other 0.{len(record['row'])}"}))
    assert "records were made with 2 versions of cellfeat-other (0.1, 0.4)" in found(folder, "plugins").text


@pytest.mark.parametrize("path", ["/home/me/cells.csv", "C:\\Users\\me\\cells.csv", "~/cells.csv"])
def test_folders_of_ones_own_machine_are_told(folder, path):
    assert found(folder, "privacy").passed
    change(folder, lambda record: record["recipe"]["dataset"].update(manifest=path))
    assert path in found(folder, "privacy").text


@pytest.mark.parametrize(
    "edit",
    [
        lambda record: record["hardware"].update(device="/home/alice/gpu"),
        lambda record: record["versions"].update({"torch": "2.15 (file:///home/alice/torch)"}),
        lambda record: record.update(note="kept in /home/alice"),
        lambda record: record.update(histories={"/home/alice": []}),
        lambda record: record["encoding"].update(threads="OMP=/home/alice"),
    ],
)
def test_folders_are_told_wherever_a_record_names_them(folder, edit):
    change(folder, edit)
    told = found(folder, "privacy")
    assert told.passed is False
    assert "/home/alice" in told.text


def test_folders_in_the_requirements_are_told(folder):
    (folder / "requirements.txt").write_text("# made from ~/plugins/mine\n")
    assert "name files of your machine: # made from ~/plugins/mine" in found(folder, "privacy").text


def test_what_only_looks_like_a_folder_is_no_fault(folder):
    change(folder, lambda record: record.update(note="a/b, 1 / 2, hf-hub:timm/resnet18, https://example.org/x"))
    assert found(folder, "privacy").passed


@pytest.mark.parametrize("name", ["records.jsonl", "cells.parquet", "requirements.txt", "failures.jsonl"])
def test_a_link_is_never_handed_in(folder, tmp_path, name):
    (folder / name).touch()
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    for ask in (lambda: check(folder, None), lambda: pack(folder, tmp_path / "out")):
        with pytest.raises(CellfeatError, match=rf"{name} is a link; results are plain files"):
            ask()


def test_nothing_is_written_beside_the_new_folder(folder, tmp_path):
    change(folder, lambda record: record["predictions"].update(file="../mine/predictions/none.parquet"))
    with pytest.raises(CellfeatError, match="predictions is "):
        pack(folder, tmp_path / "a" / "out")
    assert not (tmp_path / "a").exists()


def test_damaged_predictions_are_told(folder):
    (folder / "predictions" / "z.parquet").write_bytes(b"no table")
    told = found(folder, "records")
    assert told.passed is False
    assert "ArrowInvalid" in told.text
    pq.write_table(pa.table({"id": ["a"]}), folder / "predictions" / "z.parquet")
    assert "KeyError" in found(folder, "records").text


@pytest.mark.parametrize("content", [b"no table", None])
def test_damaged_cells_are_one_line(folder, content):
    path = folder / "cells.parquet"
    pq.write_table(pa.table({"id": ["a"]}), path) if content is None else path.write_bytes(content)
    with pytest.raises(CellfeatError, match=r"or cells.parquet cannot be read \(\w+: .*\); run the suite"):
        check(folder, None)


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


def kept(folder: Path, keep) -> None:
    path = folder / "records.jsonl"
    lines = [line for line in path.read_text().splitlines() if keep(json.loads(line))]
    path.write_text("\n".join(lines) + "\n")


def test_who_chooses_seeds_does_not_stand_beside_the_others(folder, finished_suite):
    def second(record):
        record["seed"] = 2
        record["address"] = f"{record['row']}/{record['protocol']}/{record['classifier']}/2"

    change(folder, second)
    told = found(folder, "beside the others", against=finished_suite, rows=["z"])
    assert told.passed is False
    assert "z/lr in transfers has the seeds 2, but must have 1, as the others" in told.text


@pytest.mark.parametrize(("seeds", "passed"), [([1], True), ([1, 2, 3], True), ([2], False), ([1, 3], False)])
def test_seeds_are_those_of_another_row(tmp_path, seeds, passed):
    made_up_results.write(tmp_path / "base", (60, 80), names=["three"], seeds=3)
    made_up_results.write(tmp_path / "one", (60, 80), names=["one"], seeds=1)
    with (tmp_path / "base" / "records.jsonl").open("a") as file:
        file.write((tmp_path / "one" / "records.jsonl").read_text().replace("predictions/0", "predictions/1"))
    shutil.copyfile(tmp_path / "one" / "predictions" / "0.parquet", tmp_path / "base" / "predictions" / "1.parquet")
    made_up_results.write(tmp_path / "mine", (60, 80), names=["mine"], seeds=3)
    kept(tmp_path / "mine", lambda record: record["seed"] in seeds)
    told = found(tmp_path / "mine", "beside the others", against=tmp_path / "base")
    assert (told.passed, "but must have 1 or 1, 2, 3, as the others" in told.text) == (passed, not passed)


def test_seeds_of_a_row_are_the_same_in_every_table(tmp_path):
    for name in ("base", "mine"):
        made_up_results.write(tmp_path / name, (60, 80), names=["a", "b"], seeds=2)
    kept(tmp_path / "base", lambda record: record["row"] == "a" or record["seed"] == 1)
    kept(tmp_path / "mine", lambda record: record["classifier"] == "lr" or record["seed"] == 1)
    told = found(tmp_path / "mine", "beside the others", against=tmp_path / "base", rows=["a"])
    assert told.passed is False
    assert "a has other seeds in one table than in another: 1 and 1, 2" in told.text


@pytest.mark.parametrize(
    ("classifiers", "passed"),
    [(["svm-linear", "lr"], True), (["svm-linear", "lr", "mine"], True), (["lr"], False), (["lr", "mine"], False)],
)
def test_classifiers_are_those_of_the_others_and_more(tmp_path, classifiers, passed):
    made_up_results.write(tmp_path / "base", (60, 80), names=["base"], seeds=1)
    made_up_results.write(tmp_path / "mine", (60, 80), names=["mine"], seeds=1, classifiers=classifiers)
    told = found(tmp_path / "mine", "beside the others", against=tmp_path / "base")
    assert (told.passed, told.text.endswith("lacks the classifiers svm-linear")) == (passed, not passed)


def test_a_head_of_ones_own_is_its_classifier(tmp_path):
    made_up_results.write(tmp_path / "base", (60, 80), names=["base"], seeds=1)
    made_up_results.write(tmp_path / "mine", (60, 80), names=["mine"], seeds=1, classifiers=["own-head"])
    assert found(tmp_path / "mine", "beside the others", against=tmp_path / "base").passed


def test_protocols_that_a_row_was_not_run_in_are_named(folder, finished_suite):
    told = found(folder, "protocols", against=finished_suite)
    assert (told.passed, told.text) == (None, "z was not run in without: no place in these tables")
    assert found(folder, "protocols", against=finished_suite, rows=["none"]).passed


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


def test_a_single_file_must_become_a_package_first(folder, tmp_path):
    change(folder, lambda record: record["plugins"].update({"align:z": "my-z.py 0123456789ab"}))
    told = found(folder, "plugins")
    assert told.passed is False
    assert told.text == (
        "my-z.py is a single file, which nobody else can install: make it a package (`cellfeat plugins new`), publish "
        "that, and run the suite again with it installed"
    )
    out = pack(folder, tmp_path / "out")
    assert "my-z" not in (out / "requirements.txt").read_text()
    change(folder, lambda record: record["plugins"].update({"align:z": "discord.py 2.3.2"}))
    assert "does not say where discord.py is from" in found(folder, "plugins").text


def test_records_without_declared_facts_are_as_good_as_others(folder, finished_suite):
    assert all("plugin_facts" in record for record in read_records(finished_suite))
    change(folder, lambda record: record.pop("plugin_facts"))
    assert [one for one in check(folder, finished_suite) if one.passed is False] == []
    assert leaderboard.content([folder])["summary"] == leaderboard.content([finished_suite])["summary"]
