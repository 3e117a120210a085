"""A reviewer's table read back: whatever a spreadsheet did to it, cells keep their classes or a line says why not."""

from __future__ import annotations

import csv
import json

import pytest
from test_cli import cellfeat, one_line  # noqa: F401  a fixture

from cellfeat import CellfeatError, api
from cellfeat.changes import changes
from cellfeat.corrections import read_corrections, write_corrected
from cellfeat.manifest import read_rows

HEAD = ["id", "path", "label", "best_label", "probability", "patient", "p_lymphocyte", "p_monocyte", "reviewed"]
ROWS = [
    ["f/0001", "crops/1.png", "monocyte", "monocyte", "0.9", "=p1", "0.1", "0.9", "monocyte"],
    ["f/0002", "crops/2.png", "monocyte", "monocyte", "0.6", "=p1", "0.4", "0.6", "Lymphocyte"],
    ["f/0003", "crops/3.png", "", "monocyte", "0.5", "=p1", "0.5", "0.5", "lymphocyte"],
    ["f/0004", "crops/4.png", "lymphocyte", "lymphocyte", "0.9", "p2", "0.9", "0.1", "not a cell"],
    ["f/0005", "crops/5.png", "lymphocyte", "lymphocyte", "0.9", "p2", "0.9", "0.1", "unsure"],
    ["f/0006", "crops/6.png", "lymphocyte", "lymphocyte", "0.9", "p2", "0.9", "0.1", ""],
]


def write(path, rows=ROWS, head=HEAD, mark=",", encoding="utf-8"):
    path.parent.mkdir(exist_ok=True, parents=True)
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=mark).writerows(
            [head, *([f"'{one}" if one[:1] == "=" else one for one in row] for row in rows)]
        )
    return path


@pytest.fixture
def out_folder(tmp_path):
    """A reviewed folder of `cellfeat smear`."""
    (tmp_path / "out" / "crops").mkdir(parents=True)
    for row in ROWS:
        (tmp_path / "out" / row[1]).write_bytes(b"image")
    write(tmp_path / "out" / "reviewed.csv")
    return tmp_path / "out"


def test_answers_become_labelled_cells(out_folder, tmp_path):
    found = api.correct(out_folder, tmp_path / "corrected.csv", domain="ward")
    assert found.as_dict() == {
        "cells": 6, "accepted": 1, "corrected": 2, "not_a_cell": 1, "unsure": 1, "not_looked_at": 1,
        "corrections": [{"from": "monocyte", "to": "lymphocyte", "cells": 2}],
    }  # fmt: skip
    rows = read_rows(tmp_path / "corrected.csv")
    assert [(row["id"], row["label"], row["predicted"]) for row in rows] == [
        ("f/0001", "monocyte", "monocyte"),
        ("f/0002", "lymphocyte", "monocyte"),
        ("f/0003", "lymphocyte", "monocyte"),
    ]
    assert {row["domain"] for row in rows} == {"ward"}
    assert {row["group"] for row in rows} == {"=p1"}, "without what protected it from a spreadsheet"
    assert all(row.path.is_file() for row in rows)


@pytest.mark.parametrize(("mark", "encoding"), [(";", "utf-8-sig"), ("\t", "utf-8"), (",", "utf-8-sig")])
def test_what_spreadsheets_write_is_read(tmp_path, mark, encoding):
    found = read_corrections(write(tmp_path / "t.csv", mark=mark, encoding=encoding))
    assert [row.answer for row in found.rows] == ["monocyte", "lymphocyte", "lymphocyte", "not a cell", "unsure", ""]


def test_labels_changed_in_place_are_compared_with_the_table_as_it_was(tmp_path):
    head, rows = HEAD[:-1], [row[:-1] for row in ROWS]
    before = write(tmp_path / "predictions.csv", rows, head)
    edited = [[*row] for row in rows]
    edited[0][2], edited[2][2], edited[3][2] = "lymphocyte", "lymphocyte", "unsure"
    after = write(tmp_path / "edited.csv", edited[::-1], head)
    found = read_corrections(after, before)
    assert {row.id: row.answer for row in found.rows if row.answer} == {
        "f/0001": "lymphocyte", "f/0003": "lymphocyte", "f/0004": "unsure",
    }  # fmt: skip
    assert found.moves == {("monocyte", "lymphocyte"): 2}
    every = read_corrections(after, before, accept_rest=True)
    assert every.as_dict()["accepted"] == 3
    with pytest.raises(CellfeatError, match=r"no column .reviewed.: write each cell's class there"):
        read_corrections(after)


def altered(row, column, value):
    rows = [[*one] for one in ROWS]
    rows[row][HEAD.index(column)] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "head", "said"),
    [
        (altered(1, "reviewed", "monocite"), HEAD, r"line 3: no class named .monocite.. Did you mean .monocyte.\?"),
        (altered(1, "id", "f/0001"), HEAD, r"the cell .f/0001. is there 2 times"),
        ([[*row[:-1], ""] for row in ROWS], HEAD, "no cell was answered"),
        ([], HEAD, "no cells below the header"),
        (ROWS, [*HEAD[:6], "lymphocyte", "monocyte", "reviewed"], "no columns p_CLASS"),
        (ROWS, ["name", *HEAD[1:]], "has no column id; it is no table of predictions"),
        ([[*row, "more"] for row in ROWS], HEAD, "line 2 has 10 fields, the header 9; put quotes"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path, rows, head, said):
    with pytest.raises(CellfeatError, match=said):
        read_corrections(write(tmp_path / "t.csv", rows, head))


def test_what_is_not_there_is_told(tmp_path, out_folder):
    with pytest.raises(CellfeatError, match="no such file"):
        read_corrections(tmp_path / "absent.csv")
    (tmp_path / "new").mkdir()
    with pytest.raises(CellfeatError, match=r"nobody reviewed it yet\. Do so with: cellfeat review"):
        read_corrections(tmp_path / "new")
    (tmp_path / "latin.csv").write_bytes("id;path;label;p_é".encode("latin-1"))
    with pytest.raises(CellfeatError, match="not a CSV in UTF-8"):
        read_corrections(tmp_path / "latin.csv")
    other = write(tmp_path / "other.csv", ROWS[:2])
    with pytest.raises(CellfeatError, match=r"4 cells that .* does not have, the first is .f/0003."):
        read_corrections(write(tmp_path / "edited.csv", [row[:-1] for row in ROWS], HEAD[:-1]), other)
    with pytest.raises(CellfeatError, match=r"has a column .reviewed., which says what was answered: leave --original"):
        read_corrections(out_folder, other)
    (out_folder / "crops" / "1.png").unlink()
    with pytest.raises(CellfeatError, match="1 of 3 images are not where the table says"):
        write_corrected(read_corrections(out_folder), tmp_path / "m.csv", "new")
    unsure = write(tmp_path / "unsure.csv", [[*row[:-1], "unsure"] for row in ROWS])
    with pytest.raises(CellfeatError, match="no cell was given a class"):
        write_corrected(read_corrections(unsure), tmp_path / "m.csv", "new")
    with pytest.raises(CellfeatError, match="--domain is empty"):
        api.correct(out_folder, tmp_path / "m.csv", domain=" ")


def test_changes_between_two_answers():
    found = changes({"a": "x", "b": "x", "c": "y", "gone": "x"}, {"a": "y", "b": "x", "c": "y", "new": "z"})
    assert found.as_dict() == {
        "cells": 3, "changed": 1, "only_before": 1, "only_now": 1, "moves": [{"from": "x", "to": "y", "cells": 1}],
    }  # fmt: skip
    assert "1 of 3 cells have another class" in str(found.table().title)


def test_the_command(cellfeat, out_folder, tmp_path):  # noqa: F811
    code, out, err = cellfeat("data", "correct", out_folder, "-o", tmp_path / "c.csv", "--json")
    assert (code, json.loads(out)["corrected"]) == (0, 2)
    assert "--labelled" in err
    code, _, err = cellfeat("data", "correct", out_folder, "-o", tmp_path / "c.csv")
    assert code == 2
    assert "exists and is never overwritten" in one_line(err)
    code, out, _ = cellfeat("data", "correct", out_folder, "-o", tmp_path / "d.csv")
    assert (code, "monocyte" in out, "not looked at" in out) == (0, True, True)


def test_images_of_elsewhere_are_told_and_none_of_a_smear_are(cellfeat, tmp_path):  # noqa: F811
    rows = [[*row] for row in ROWS]
    rows[0][1] = "https://127.0.0.1:9/1.png"
    (tmp_path / "crops").mkdir()
    for row in rows[1:]:
        (tmp_path / row[1]).write_bytes(b"image")
    table = write(tmp_path / "t.csv", rows)
    code, _, err = cellfeat("data", "correct", table, "-o", tmp_path / "c.csv")
    assert (code, "1 of the images is elsewhere, as the table names them by URL; --labelled fetches them" in err) == (
        0,
        True,
    )
    assert "Next: cellfeat predict RUN IMAGES --labelled" in err
    assert read_rows(tmp_path / "c.csv")[0].path == rows[0][1]
    for outside in (rows[0][1], "../t.csv", str(table)):
        rows[0][1] = outside
        smear = write(tmp_path / "smear" / "reviewed.csv", [[*row, row[1]] for row in rows], [*HEAD, "crop"])
        with pytest.raises(CellfeatError, match="lies outside its folder, where a smear has its own"):
            read_corrections(smear)
