"""Decisions of a review: the journal after kills and repeats, undo, one reviewer at a time, the reviewed table."""

from __future__ import annotations

import json
import threading

import pytest
from reviewing import read, smear_folder

from cellfeat import CellfeatError
from cellfeat.corrections import read_corrections
from cellfeat.review import Review
from cellfeat.review_journal import Journal
from cellfeat.review_table import read_table

ANSWERS = ("a", "b", "unsure")

TAMPERED = [  # what a line of the journal said, what it is made to say, and what is said of it
    (b'"id": "x"', b'"id": "w"', "the table has no cell 'w'"),
    (b'"before": ""', b'"before": "b"', "of 'x' something else was said before"),
    (b'"number": 1', b'"number": 1e400', "are none"),
    (b'"client": "page"', b'"client": ["page"]', "are none"),
]


def journal(path, table="digest"):
    return Journal(path, table, "xyz", ANSWERS)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "review.jsonl"


@pytest.fixture
def table(tmp_path):
    return read_table(smear_folder(tmp_path / "smear", 9))


def test_the_state_is_what_the_journal_says(path):
    first = journal(path)
    first.decide({"x": "a"}, "page", 1)
    first.decide({"x": "b", "y": "unsure"}, "page", 2)
    again = journal(path)
    assert again.decisions == {"x": "b", "y": "unsure"} == first.decisions
    assert again.is_taken("page", 2)
    assert not again.is_taken("page", 3)
    assert not again.is_taken("another", 1)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0]["table"] == "digest"
    assert lines[2]["cells"] == [
        {"id": "x", "before": "a", "after": "b"},
        {"id": "y", "before": "", "after": "unsure"},
    ]
    assert all("time" in line for line in lines[1:])


def test_undo_goes_back_step_by_step_also_of_earlier_sittings_and_is_a_line(path):
    first = journal(path)
    first.decide({"x": "a"}, "page", 1)
    first.decide({"x": "b", "y": "b"}, "page", 2)
    before = path.read_bytes()
    again = journal(path)
    assert {(one.id, one.after) for one in again.undo("later", 1)} == {("x", "a"), ("y", "")}
    assert again.decisions == {"x": "a"}
    again.undo("later", 2)
    assert again.decisions == {}
    assert again.undo("later", 3) == []
    assert path.read_bytes().startswith(before), "nothing is taken out"
    assert journal(path).decisions == {}
    assert journal(path).undoable == []
    again.decide({"y": "a"}, "later", 4)
    assert [one.id for one in journal(path).undo("last", 1)] == ["y"]


@pytest.mark.parametrize("cut", [1, 20, 120])
def test_a_kill_in_the_middle_of_a_line_costs_that_line_alone(path, cut):
    whole = journal(path)
    whole.decide({"x": "a"}, "page", 1)
    kept = path.read_bytes()
    whole.decide({"y": "b"}, "page", 2)
    path.write_bytes(path.read_bytes()[: len(kept) + cut])
    found = journal(path)
    assert (found.half, found.decisions, found.is_taken("page", 2)) == (True, {"x": "a"}, False)
    found.decide({"y": "unsure"}, "page", 2)
    assert path.read_bytes().startswith(kept)
    assert (journal(path).half, journal(path).decisions) == (False, {"x": "a", "y": "unsure"})


def test_a_kill_while_the_journal_is_begun_costs_nothing(path):
    path.write_text('{"journal": "cellf')
    found = journal(path)
    assert (found.half, found.decisions) == (True, {})
    found.decide({"x": "a"}, "page", 1)
    assert journal(path).decisions == {"x": "a"}


def test_a_journal_of_another_table_a_damaged_one_and_a_foreign_file_are_refused(path):
    journal(path).decide({"x": "a"}, "page", 1)
    with pytest.raises(CellfeatError, match="the journal of another table, of 3 cells"):
        journal(path, table="other")
    good = path.read_bytes()
    path.write_bytes(good.replace(b'"cells": [', b'"cells": ]') + good)
    with pytest.raises(CellfeatError, match=r"line 2 is damaged \(JSONDecodeError"):
        journal(path)
    path.write_bytes(good.replace(b'"after": "a"', b'"after": "c"'))
    with pytest.raises(CellfeatError, match=r"line 2 is damaged .*'c' is no answer"):
        journal(path)
    for old, new, part in TAMPERED:
        assert old in good
        path.write_bytes(good.replace(old, new))
        with pytest.raises(CellfeatError, match=rf"line 2 is damaged .*{part}"):
            journal(path)
    path.write_bytes(good + b'{"client": "page", "number": 2, "cells": [], "undo": true}\n')
    with pytest.raises(CellfeatError, match=r"line 3 is damaged .*it does not take the newest step back"):
        journal(path)
    path.write_text('{"some": "thing"}\n')
    with pytest.raises(CellfeatError, match="is no journal of a review"):
        journal(path)


def test_what_the_disk_does_not_take_did_not_happen(path, monkeypatch):
    found = journal(path)
    found.decide({"x": "a"}, "page", 1)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            found.decide({"x": "b"}, "page", 2)
    assert (path.read_bytes(), found.decisions, found.is_taken("page", 2)) == (before, {"x": "a"}, False)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        found.decide({"x": "b"}, "page", 2)


def test_decisions_reach_the_reviewed_table_and_a_request_counts_once(table):
    with Review(table) as review:
        assert review.decide({0: "neutrophil", 1: "monocyte"}, "page", 1)["changes"] == [
            [0, "neutrophil"],
            [1, "monocyte"],
        ]
        assert review.decide({0: "unsure"}, "page", 1)["repeated"] is True
        assert not review.is_written
        review.decide({6: "neutrophil"}, "page", 2)
        review.decide({2: "not a cell"}, "page", 3)
        assert review.undo("page", 4) == {"changes": [[2, ""]], "repeated": False, "steps": 4, "undoable": 2}
        assert review.state()["decisions"] == [[0, "neutrophil"], [1, "monocyte"], [6, "neutrophil"]]
        assert dict(review.counts()) == {"accepted": 1, "corrected": 1, "answered": 1, "left": 6}
        with pytest.raises(CellfeatError, match="'eosinophil' is no answer; possible are neutrophil"):
            review.decide({0: "eosinophil"}, "page", 5)
        with pytest.raises(CellfeatError, match="row 9: the table has 9"):
            review.decide({9: "unsure"}, "page", 5)
    assert [line["reviewed"] for line in read(table.reviewed)] == [
        *("neutrophil", "monocyte", "", "", "", "", "neutrophil", "", "")
    ]
    with pytest.raises(CellfeatError, match="this review has ended"):
        review.decide({0: "unsure"}, "page", 6)
    with Review(table) as again:
        assert again.is_written


def test_what_was_decided_is_what_is_read_back_as_corrections(tmp_path):
    folder = smear_folder(tmp_path / "smear", 8, ("=b", "monocyte"))
    answers = {0: "=b", 1: "=b", 2: "unsure", 3: "not a cell", 6: "=b"}
    with Review(read_table(folder)) as review:
        review.decide(answers, "page", 1)
    found = read_corrections(folder)
    assert {int(row.id[-4:]): row.answer for row in found.rows if row.answer} == answers
    assert [(row.label, row.predicted) for row in found.labelled[:2]] == [("=b", "=b"), ("=b", "monocyte")]
    assert all(row.path.is_file() for row in found.rows)


def test_two_do_not_review_one_table(table):
    with Review(table), pytest.raises(CellfeatError, match="is being reviewed by another `cellfeat review`"):
        Review(table)
    Review(table).close()


def test_a_reviewed_table_that_somebody_changed_is_not_overwritten(table):
    with Review(table) as review:
        review.decide({0: "unsure"}, "page", 1)
    written = table.reviewed.read_bytes()
    table.reviewed.write_bytes(written.replace(b"unsure", b"monocyte"))
    with pytest.raises(CellfeatError, match=r"was changed since a review wrote it.*data correct"):
        Review(table)
    table.reviewed.unlink()  # moved away
    Review(table).close()
    assert table.reviewed.read_bytes() == written, "made anew, of the journal"


def test_a_kill_before_the_table_is_written_leaves_one_that_is_known(table):
    with Review(table) as review:
        review.decide({0: "unsure"}, "page", 1)
        older = table.reviewed.read_bytes()
    table.reviewed.write_bytes(older)  # as if the process had ended before it was replaced
    Review(table).close()
    assert read(table.reviewed)[0]["reviewed"] == "unsure"


def test_a_folder_that_cannot_be_written_to_is_told_before_anything_is_served(table):
    table.journal.mkdir()
    with pytest.raises(CellfeatError, match=r"cannot be written to \(Is a directory\), and the review saves every"):
        Review(table)
    table.journal.rmdir()
    Review(table).close()


def test_a_table_that_cannot_be_written_at_the_end_says_where_the_decisions_are(table, monkeypatch):
    review = Review(table)
    review.decide({0: "unsure"}, "page", 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cellfeat.review.atomic_file", full)
    with pytest.raises(CellfeatError, match=r"not written \(No space left on device\). Every decision is in .*jsonl"):
        review.close()
    monkeypatch.undo()
    Review(table).close()
    assert read(table.reviewed)[0]["reviewed"] == "unsure"


def test_of_two_that_write_at_once_the_newer_decisions_stay(table, monkeypatch):
    review, begun, may_end = Review(table), threading.Event(), threading.Event()
    write, calls = table.write_reviewed, []

    def slow(self, decisions, path):
        write(decisions, path)
        calls.append(len(decisions))
        if len(calls) == 1:  # the older one, on a slow disk
            begun.set()
            may_end.wait(5)

    monkeypatch.setattr("cellfeat.review_table.ReviewTable.write_reviewed", slow)
    review.decide({0: "unsure"}, "page", 1)
    older = threading.Thread(target=review.write)
    older.start()
    assert begun.wait(5)
    review.decide({1: "unsure"}, "page", 2)
    newer = threading.Thread(target=review.write)
    newer.start()
    newer.join(0.1)
    may_end.set()
    older.join(5)
    newer.join(5)
    assert (calls, review.is_written) == ([1, 2], True)
    assert [line["reviewed"] for line in read(table.reviewed)][:3] == ["unsure", "unsure", ""]
    review.close()
