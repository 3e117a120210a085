"""Reading what a run left: damage and other schemas are one line that names file and field."""

from __future__ import annotations

import json
import shutil

import pytest
from observing import few_cells
from reporting import small_run

from cellfeat import CellfeatError, observation_files
from cellfeat.observation_files import FOLDER, SUMMARY


@pytest.fixture(scope="module")
def left(laboratories, suite_cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("left")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELLFEAT_CACHE", str(suite_cache))
        return small_run(few_cells(laboratories, folder / "few.csv"), folder / "run")


@pytest.fixture
def copied(left, tmp_path):
    return shutil.copytree(left, tmp_path / "run")


def changed(**fields):
    def change(text):
        found = json.loads(text) | fields
        return json.dumps({name: value for name, value in found.items() if value is not ...})

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed(schema=99), r"field schema is 99, and this cellfeat reads 2: use the cellfeat that made the run"),
        (changed(schema=...), r"field schema is None"),
        (changed(shown=...), r"is damaged: it has no field shown\. Copy it again"),
        (changed(adaptable=[]), r"is damaged: its field adaptable is list"),
        (lambda text: text[: len(text) // 2], r"is damaged: .*take observations/ away"),
        (lambda text: "[]", r"is damaged: it is no JSON object"),
    ],
)
def test_a_damaged_summary_is_refused(copied, change, said):
    path = copied / FOLDER / SUMMARY
    path.write_text(change(path.read_text()))
    with pytest.raises(CellfeatError, match=rf"{SUMMARY}.*{said}"):
        observation_files.read(copied)


@pytest.mark.parametrize("name", ["features.parquet", "pictures.parquet"])
def test_damaged_tables_are_refused(copied, name):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = copied / FOLDER / name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CellfeatError, match=rf"{name} is damaged"):
        observation_files.read(copied)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(CellfeatError, match=rf'{name} is damaged: .*"id"'):
        observation_files.read(copied)


def test_a_run_says_who_could_be_adapted_to(left):
    assert observation_files.read(left).summary["adaptable"] == {"lab-a": ["lab-b"], "lab-b": ["lab-a"]}
