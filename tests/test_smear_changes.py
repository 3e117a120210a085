"""What changed since an earlier count: cells are told by photograph and box, tables come as spreadsheets save them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cellfeat import CellfeatError
from cellfeat.smear_changes import Earlier, paired
from cellfeat.smear_folder import FoundCell
from cellfeat.smear_photographs import Photograph

HEADER = "id,field,x1,y1,x2,y2,label\n"
LINES = (
    "f/0001,f,0.0,0.0,40.0,40.0,neutrophil\n"
    "f/0002,f,100.0,0.0,140.0,40.0,'=baso\n"
    "f/0003,f,200.0,0.0,240.0,40.0,\n"
    "gone/0001,gone,0.0,0.0,9.0,9.0,neutrophil\n"
)
NOW = [
    FoundCell(f"{field}/{number:04d}", "p", field, (float(x), 0.0, float(x + wide), 40.0), False, False)
    for field, number, x, wide in (("f", 1, 102, 40), ("f", 2, 202, 40), ("f", 3, 300, 40), ("new", 1, 0, 40))
]
LABELS = ["=baso", "monocyte", "neutrophil", "neutrophil"]
PHOTOGRAPHS = [Photograph(name, Path(f"{name}.png"), "p", f"{name}.png", sha256=f"sha-{name}") for name in ("f", "new")]


def test_cells_are_paired_by_their_boxes_and_not_by_their_numbers(tmp_path):
    """One box is no longer found, so that every number is another cell's."""
    (tmp_path / "cells.csv").write_text(HEADER + LINES)
    for given in (tmp_path, tmp_path / "cells.csv"):
        found = Earlier.read(given).changes(PHOTOGRAPHS, NOW, LABELS)
        assert (found.cells, found.lost, found.new) == (2, 1, 1), "photographs of one count alone are none of it"
        assert found.moves == {("", "monocyte"): 1}
    (tmp_path / "fields.csv").write_text("field,sha256\nf,sha-new\ngone,sha-gone\n")  # named otherwise then
    renamed = Earlier.read(tmp_path).changes(PHOTOGRAPHS, NOW, LABELS)
    assert (renamed.cells, renamed.lost, renamed.new, renamed.changed) == (1, 2, 0, 0)


def test_a_box_is_of_one_cell():
    boxes, others = [[0, 0, 10, 10], [1, 0, 11, 10]], [[1, 0, 11, 10], [0, 2, 10, 12], [50, 50, 60, 60]]
    assert paired(boxes, others) == [(1, 0), (0, 1)]
    assert paired(boxes, []) == []


def test_a_table_from_a_spreadsheet_and_what_is_none(tmp_path):
    table = tmp_path / "saved.csv"
    text = (HEADER + LINES).replace(",", ";").replace(".0;", ",0;")
    table.write_text("\ufeffsep=;\n" + text.replace("label", " Label ") + ";;;;;;\n")
    earlier = Earlier.read(table)
    assert earlier.changes(PHOTOGRAPHS, NOW, LABELS).cells == 2
    earlier.check(PHOTOGRAPHS)
    with pytest.raises(CellfeatError, match=r"--before .*saved.csv: it counted none of these photographs"):
        earlier.check(PHOTOGRAPHS[1:])
    (tmp_path / "empty").mkdir()
    for given, content, said in (
        (tmp_path / "empty", None, "no folder of a smear, it has no cells.csv"),
        (tmp_path / "none.csv", None, "none.csv: no such file"),
        (table, "id,path,label\na,a.png,x\n", "it has no column field, x1, y1, x2, y2; name the folder of an earlier"),
        (table, HEADER + "f/1,f,0,0,wide,4,x\n", "line 2: x1, y1, x2, y2 are not all numbers"),
        (table, HEADER + "f/1,f,0,0,4,4,x,y\n", "line 2 has 8 fields, the header 7"),
        (table, HEADER.replace("id", "Label"), "the column label is there twice"),
        (table, HEADER + '"f/1,f,0\n', r"not a CSV in UTF-8 \(line 2: unexpected end of data"),
    ):
        if content is not None:
            given.write_text(content)
        with pytest.raises(CellfeatError, match=said):
            Earlier.read(given)
