"""A smear counted again after a review: what was said is certain, what is no cell is gone, all else is as it was."""

from __future__ import annotations

import csv
import json

import pytest
from reviewing import CLASSES, read, smear_folder
from test_cli import cellfeat  # noqa: F401  a fixture

from cellfeat import CellfeatError, api, cell_tables
from cellfeat.commands.review import _tell_results
from cellfeat.recounted import Recount
from cellfeat.review import Review
from cellfeat.review_table import read_table

CELLS = 28


@pytest.fixture
def folder(tmp_path):
    """A smear of two patients, the second one without a cell."""
    made = smear_folder(tmp_path / "smear", CELLS)
    about = {"photographs": [{"patient": "p1"}, {"patient": "all"}], "seed": 0, "detector": {"record": None}}
    (made / "smear.json").write_text(json.dumps(about))
    (made / "differential.json").write_text(json.dumps({"not_taught": ["monocyte"]}))
    return made


def counted(folder, answers):
    """The count of p1: {class: line}."""
    found = Recount.of(cell_tables.read(folder / "cells.csv")).after(answers)
    one = next(count for count in found.counts if count.patient == "p1")
    return found, {line.name: line for line in one.lines}


def test_before_anybody_looked_it_is_as_it_was(folder):
    found, lines = counted(folder, {})
    table = read(folder / "cells.csv")
    assert [count.patient for count in found.counts] == ["all", "p1", None]
    for name in CLASSES[:2]:
        assert lines[name].cells == sum(line["label"] == name for line in table)
    assert (lines["monocyte"].cells, found.not_taught) == (None, ("monocyte",))
    assert found.counts[1].unanswered == sum(not line["label"] for line in table) > 0
    assert found.reviewed["not_looked_at"] == CELLS


def test_what_was_said_counts(folder):
    table = read(folder / "cells.csv")
    answers = {line["id"]: "lymphocyte" for line in table}
    answers |= {table[0]["id"]: "not a cell", table[1]["id"]: "unsure", table[2]["id"]: "monocyte"}
    found, lines = counted(folder, answers)
    assert (lines["neutrophil"].cells, lines["lymphocyte"].cells, lines["monocyte"].cells) == (0, CELLS - 3, 1)
    assert (found.counts[1].cells, found.counts[1].unanswered, found.not_taught) == (CELLS - 1, 1, ())
    assert (lines["neutrophil"].low, lines["lymphocyte"].share) == (0.0, (CELLS - 3) / (CELLS - 2))
    said = found.reviewed
    assert (said["not_a_cell"], said["unsure"], said["not_looked_at"]) == (1, 1, 0)
    assert said["accepted"] == 1 + sum(line["label"] == "lymphocyte" for line in table[3:])
    all_sure, _ = counted(folder, dict.fromkeys(answers, "lymphocyte"))
    assert all_sure.counts[1].lines[1].low > 0.87, "Jeffreys' bound of 28 of 28: no doubt of a class is left"
    none, _ = counted(folder, dict.fromkeys(answers, "not a cell"))
    assert (none.counts[-1].cells, none.counts[-1].lines[0].share) == (0, None)


def test_a_review_writes_it_beside_the_table_and_overwrites_nobody(folder):
    with Review(read_table(folder)) as review:
        review.decide({0: "not a cell", 1: "neutrophil"}, "page", 1)
    lines = read(folder / "reviewed-differential.csv")
    assert {line["n"] for line in lines if line["patient"] == "p1"} == {str(CELLS - 1)}
    summary = json.loads((folder / "reviewed-differential.json").read_text())
    assert (summary["cells"], summary["reviewed"]["not_a_cell"], summary["reviewed"]["corrected"]) == (CELLS - 1, 1, 1)
    Review(read_table(folder)).close()
    with (folder / "reviewed-differential.csv").open("a", newline="") as file:
        csv.writer(file).writerow(["a note of mine"])
    with pytest.raises(CellfeatError, match=r"reviewed-differential\.csv was changed since a review wrote it.*move it"):
        Review(read_table(folder))


def test_the_commands_show_it_and_go_on_with_smear(folder, cellfeat, tmp_path):  # noqa: F811
    with Review(read_table(folder)) as review:
        review.decide({0: "not a cell", 1: "neutrophil"}, "page", 1)
    code, out, err = cellfeat("data", "correct", folder, "-o", tmp_path / "c.csv")
    assert (code, f"After the review. Differential count: {CELLS - 1} cells" in out) == (0, True), err
    assert "c.csv: 1 labelled cell of new" in err
    assert "Next: cellfeat smear PHOTOGRAPHS --run RUN --labelled" in err
    assert f"--before {folder / 'cells.csv'}" in err
    code, out, _ = cellfeat("data", "correct", folder, "-o", tmp_path / "d.csv", "--json")
    assert (code, json.loads(out)["differential"]["cells"]) == (0, CELLS - 1)
    (folder / "smear.json").write_text("{")
    code, out, err = cellfeat("data", "correct", folder, "-o", tmp_path / "e.csv", "--json")
    assert (code, "differential" in json.loads(out), "not counted again: " in err) == (0, False, True)


def test_the_end_of_a_review_shows_it(folder, capsys):
    with api.review(folder) as server:
        server.review.decide({0: "not a cell"}, "page", 1)
    _tell_results(server)
    out, err = capsys.readouterr()
    assert f"After the review. Differential count: {CELLS - 1} cells" in out
    assert "The count of the reviewed cells is in" in err
    assert "Next: cellfeat data correct" in err


def test_decimal_commas_are_numbers(folder):
    before = counted(folder, {})[1]
    table = read(folder / "cells.csv")
    with (folder / "cells.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(table[0])
        writer.writerows(
            [text.replace(".", ",") if "." in text[:2] else text for text in line.values()] for line in table
        )
    assert counted(folder, {})[1] == before


def test_a_damaged_folder_is_told_and_one_of_another_kind_is_not_counted(folder):
    about = (folder / "smear.json").read_text()
    for text, part in (
        ("{", "is damaged"),
        (about.replace("null", "[1]"), "is damaged"),
        (about.replace('"seed": 0', '"seed": -1'), "is damaged: ValueError"),
        (about.replace("null", '{"cells": 0, "found": 1, "wrong": 0, "on": "x"}'), "is damaged: .*detector-record"),
    ):
        (folder / "smear.json").write_text(text)
        with pytest.raises(CellfeatError, match=rf"smear\.json {part}"):
            Recount.of(cell_tables.read(folder / "cells.csv"))
    (folder / "smear.json").write_text(about)
    rows = (folder / "cells.csv").read_text().splitlines()
    (folder / "cells.csv").write_text("\n".join([*rows[:2], rows[2].rpartition(",")[0] + ",-1", *rows[3:]]))
    with pytest.raises(CellfeatError, match="line 3: a probability is no number from 0 to 1"):
        Recount.of(cell_tables.read(folder / "cells.csv"))
    (folder / "smear.json").unlink()
    assert Recount.of(cell_tables.read(folder / "cells.csv")) is None
