"""What is published of a recipe: no path of the machine that made it. What is read: nothing but whole records."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cellfeat import CellfeatError
from cellfeat.cli import app
from cellfeat.recipe import parse
from cellfeat.record_fields import RECORD, check_record
from cellfeat.results_folder import published, read_failures, read_records


def test_files_keep_their_names_alone():
    content = {
        "dataset": {"manifest": "/home/me/cells.csv", "labels": "/home/me/map.yaml"},
        "backbone": {"name": "lora-sam", "weights": "/home/me/vit.pt", "adapter": "~/runs/1/adapter"},
        "align": [{"name": "cae", "weights": "../run/align-0", "epochs": 3}],
        "classifier": {"name": "svm-linear"},
    }
    told = published(parse(content)).as_dict()
    assert told["dataset"] | {"domains": [], "leave_out": []} == {
        "manifest": "cells.csv",
        "labels": "map.yaml",
        "domains": [],
        "leave_out": [],
    }
    assert told["backbone"] == {"name": "lora-sam", "weights": "vit.pt", "adapter": "adapter"}
    assert told["align"] == [{"name": "cae", "weights": "align-0", "epochs": 3}]
    assert told["segmenter"] is None


def test_names_with_a_slash_are_no_paths():
    recipe = parse({"backbone": {"name": "timm", "model": "hf-hub:timm/resnet18"}})
    assert published(recipe).backbone.params == {"model": "hf-hub:timm/resnet18"}


def test_a_digest_does_not_depend_on_where_files_lie():
    one, other = (parse({"backbone": {"name": "lora-sam", "weights": f"/{folder}/vit.pt"}}) for folder in "ab")
    assert one.digest != other.digest
    assert published(one).digest == published(other).digest


# What is read


def told(folder: Path) -> str:
    with pytest.raises(CellfeatError) as error:
        read_failures(folder)
    return str(error.value)


@pytest.fixture
def record(finished_suite) -> dict[str, Any]:
    return read_records(finished_suite)[0]


def write(folder: Path, *found: Any, name: str = "records.jsonl") -> None:
    (folder / name).write_text("".join(json.dumps(one) + "\n" for one in found), encoding="utf-8")


@pytest.mark.parametrize("field", sorted(RECORD))
def test_a_record_without_a_field_is_refused_by_the_fields_name(record, tmp_path, field):
    del record[field]
    write(tmp_path, record)
    named = f"{tmp_path / 'records.jsonl'}, line 1"
    assert told(tmp_path).startswith(named)
    assert f": {field} is missing; it must be {RECORD[field].must}. Run the fit again" in told(tmp_path)
    if field != "id":
        assert told(tmp_path).startswith(f"{named}, record {record['id']!r}: ")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"adapt": "online"}, "adapt is 'online', but must be none or test or heldout"),
        ({"adapt": []}, "adapt is [], but must be"),
        ({"calibration": None}, "calibration is None, but must be a mapping"),
        ({"seconds": None}, "seconds is None, but must be a number"),
        ({"seconds": float("nan")}, "seconds is nan, but must be a number"),
        ({"seconds": 10**400}, "but must be a number"),
        ({"seed": True}, "seed is True, but must be a whole number"),
        ({"shots": -1}, "shots is -1, but must be"),
        ({"address": None}, "address is None, but must be text"),
        ({"address": "none/transfers/lr/7"}, "address is 'none/transfers/lr/7', but its row, protocol, classifier"),
        ({"weights_saw_target": "no"}, "weights_saw_target is 'no', but must be true, false or null"),
        ({"weights_saw": [1]}, "weights_saw is [1], but must be a list of names, or null"),
        ({"scores": {"accuracy": {"mean": 1}}}, "but must be for each of accuracy, balanced_accuracy, macro_f1"),
        ({"classes": ["a", "a"]}, "classes is ['a', 'a'], but must be a list of different names"),
        ({"confusion": [[1, 2]]}, "but must be a square matrix"),
        ({"confusion": []}, "confusion has 0 rows for"),
        ({"recipe": {"protocol": []}}, "but must be a recipe with its protocol"),
        ({"dataset": {"digest": "0"}}, "but must be a mapping with digest and manifest"),
        ({"backbone": {"used": True}}, "but must be a mapping with weights_sha256 and used"),
        ({"encoding": {"precision": "int8"}}, "but must be a mapping with a precision of float32"),
        ({"plugins": {"a": None}}, "but must be a mapping of names to texts"),
        (
            {"plugin_facts": {"align:z": "none"}},
            "plugin_facts is {'align:z': 'none'}, but must be a mapping of names to",
        ),
        ({"created": ["x" * 1000]}, "…, but must be text"),
    ],
)
def test_a_field_that_is_something_else_is_refused_with_what_it_must_be(record, tmp_path, changes, text):
    write(tmp_path, record | changes)
    assert text in told(tmp_path)
    assert len(told(tmp_path)) < 500 + len(str(tmp_path))


@pytest.mark.parametrize(
    "arguments",
    [["list"], ["compare", "z", "none"], ["verify"], ["submit", "--check"], ["leaderboard"]],
    ids=lambda arguments: arguments[0],
)
def test_every_command_tells_the_field_that_is_missing(finished_suite, tmp_path, arguments):
    folder = Path(shutil.copytree(finished_suite, tmp_path / "r"))
    found = read_records(folder)
    del found[3]["uses_labels"]
    write(folder, *found)
    command, *others = arguments
    error = CliRunner().invoke(app, ["bench", command, str(folder), *others]).exception
    assert isinstance(error, CellfeatError)
    assert "records.jsonl, line 4, record" in str(error)
    assert "uses_labels is missing; it must be true or false" in str(error)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ({"address": None, "source": "a", "error": "why"}, "line 1: address is None, but must be text"),
        ({"address": "a", "source": [], "error": "why"}, "line 1: source is [], but must be text or null"),
        ({"address": "a", "source": None}, "line 1: error is missing; it must be text"),
        ([], "line 1: no mapping with address, error, source"),
    ],
)
def test_a_failure_that_is_none_is_refused(tmp_path, line, text):
    write(tmp_path, line, name="failures.jsonl")
    assert f"{tmp_path / 'failures.jsonl'}, {text}" in told(tmp_path)


@pytest.mark.parametrize(
    "file",
    [
        "../base/predictions/coral.parquet",
        "predictions/../cells.parquet",
        "predictions/a/b.parquet",
        "/predictions/a.parquet",
        "predictions\\a.parquet",
        "predictions/a.parquet\n",
        "predictions/.",
        "cells.parquet",
    ],
)
def test_predictions_lie_in_their_folder_under_a_plain_name(record, tmp_path, file):
    write(tmp_path, record | {"predictions": {"file": file, "sha256": "0"}})
    assert "but must be a mapping with sha256 and a file predictions/NAME.parquet" in told(tmp_path)


@pytest.mark.parametrize("linked", ["predictions", "predictions/none.parquet"])
def test_predictions_behind_a_link_are_refused(finished_suite, tmp_path, linked):
    folder = Path(shutil.copytree(finished_suite, tmp_path / "r"))
    assert len(read_records(folder)) == len(read_records(finished_suite))
    (folder / linked).rename(tmp_path / "elsewhere")
    (folder / linked).symlink_to(tmp_path / "elsewhere")
    assert f"{folder / linked} is a link; results are plain files" in told(folder)


def test_the_answers_of_a_row_are_in_one_file(finished_suite, tmp_path):
    """Where each record named its own, tables would be of another file than the one that records are checked with."""
    found = read_records(finished_suite)
    found[1]["predictions"]["file"] = "predictions/z.parquet"
    write(tmp_path, *found)
    assert "predictions of row none are in predictions/z.parquet and in predictions/none.parquet" in told(tmp_path)


def test_looking_at_every_field_takes_no_time(record):
    start = time.process_time()
    for _ in range(1000):
        check_record(record, "here")
    assert time.process_time() - start < 0.5  # about 0.02 s
