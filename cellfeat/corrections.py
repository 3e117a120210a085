"""A reviewer's table read back: which class every cell really has, as labelled cells to adapt to.

The table is one that `cellfeat review` wrote, or one of `cellfeat predict` or `cellfeat smear` that a person edited in
a spreadsheet.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellfeat import storage
from cellfeat.errors import CellfeatError, unknown
from cellfeat.manifest import domain_problem, refuse_existing, write_manifest
from cellfeat.spreadsheets import unprotected

REVIEWED = "reviewed"  # the column of the reviewer's answers
NOT_A_CELL, UNSURE = "not a cell", "unsure"
TABLE = "reviewed.csv"  # in a folder of `cellfeat smear`
PREFIX = "p_"  # of the columns of probabilities, which name the classes


@dataclass(frozen=True)
class Row:
    """One cell. predicted: the method's class. label: the reviewer's, None where no class was given. group: patient or
    slide, "" where it is not known."""

    id: str
    path: Path | str
    predicted: str
    label: str | None
    answer: str  # what the reviewer wrote: a class, NOT_A_CELL, UNSURE, or "" where nobody looked
    group: str


@dataclass(frozen=True)
class Corrections:
    """What a reviewer said of a table's cells."""

    source: Path
    classes: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def labelled(self) -> list[Row]:
        """Those with a class."""
        return [row for row in self.rows if row.label is not None]

    @property
    def moves(self) -> Counter[tuple[str, str]]:
        """(predicted, given) of the cells whose class was corrected."""
        return Counter((row.predicted, row.answer) for row in self.labelled if row.label != row.predicted)

    def as_dict(self) -> dict[str, Any]:
        """Counts as JSON values."""
        said = Counter(row.answer for row in self.rows)
        accepted = sum(row.label == row.predicted for row in self.labelled)
        return {
            "cells": len(self.rows),
            "accepted": accepted,
            "corrected": len(self.labelled) - accepted,
            "not_a_cell": said[NOT_A_CELL],
            "unsure": said[UNSURE],
            "not_looked_at": said[""],
            "corrections": [{"from": old, "to": new, "cells": n} for (old, new), n in self.moves.most_common()],
        }


def correct(
    table: Path, out: Path, domain: str, original: Path | None = None, accept_rest: bool = False
) -> Corrections:
    """Read a reviewer's answers and write the manifest of labelled cells; see `read_corrections`, `write_corrected`."""
    refuse_existing(out)
    if not domain.strip() or domain_problem(domain):
        raise CellfeatError(domain_problem(domain) or "--domain is empty; give the laboratory of these images a name")
    found = read_corrections(table, original, accept_rest)
    write_corrected(found, out, domain)
    return found


def read_corrections(table: Path, original: Path | None = None, accept_rest: bool = False) -> Corrections:
    """The reviewer's answers.

    Args:
        table: a folder of `cellfeat smear` that was reviewed, a CSV with a column `reviewed`, or one whose column
            `label` was edited.
        original: the table as the method wrote it, where `label` was edited: what differs was corrected.
        accept_rest: with `original`, the labels that were not changed were looked at too, and are right.

    Raises: CellfeatError for tables that do not belong together, words that are no class, and nothing answered.
    """
    table = _table_of(table)
    lines = _lines(table)
    classes = tuple(name.removeprefix(PREFIX) for name in lines[0] if name.startswith(PREFIX))
    if not classes:
        raise CellfeatError(
            f"{table} has no columns {PREFIX}CLASS, so that the classes are not known; keep the columns of the table "
            "that cellfeat wrote"
        )
    if original is not None:
        answers, predicted = _edited(table, lines, original, accept_rest)
    elif REVIEWED in lines[0]:
        answers = [unprotected(line[REVIEWED].strip()) for line in lines]
        predicted = [_predicted(line) for line in lines]
    else:
        raise CellfeatError(
            f"{table} has no column {REVIEWED!r}: write each cell's class there, or {NOT_A_CELL!r} or {UNSURE!r}; or, "
            "where you changed labels in place, name the table as it was with --original"
        )
    said = _checked(table, answers, classes)
    rows = [_row(table, *one, classes) for one in zip(lines, said, predicted, strict=True)]
    found = Corrections(table, classes, tuple(rows))
    if not any(said):
        raise CellfeatError(f"{table}: no cell was answered; accept or correct some first (cellfeat review)")
    return found


def write_corrected(found: Corrections, out: Path, domain: str) -> int:
    """A manifest of the cells that have a class, in the laboratory `domain`; gives their number.

    Raises: CellfeatError where `out` exists, images are gone, or no cell has a class.
    """
    if not found.labelled:
        raise CellfeatError(f"{found.source}: no cell was given a class, so that there is nothing to adapt to")
    gone = [row for row in found.labelled if isinstance(row.path, Path) and not row.path.is_file()]
    if gone:
        raise CellfeatError(
            f"{found.source}: {len(gone)} of {len(found.labelled)} images are not where the table says, the first is "
            f"{gone[0].path}; put them back, or run this from the folder in which predict was run"
        )
    write_manifest(
        out,
        [
            {"id": row.id, "path": row.path, "label": row.label or "", "domain": domain}
            | ({"group": row.group} if row.group else {})
            | {"predicted": row.predicted}
            for row in found.labelled
        ],
    )
    return len(found.labelled)


def _table_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    if not (path / TABLE).is_file():
        raise CellfeatError(f"{path} has no {TABLE}: nobody reviewed it yet. Do so with: cellfeat review {path}")
    return path / TABLE


def _lines(table: Path) -> list[dict[str, str]]:
    """The lines by column, as spreadsheets save them: a byte-order mark, and commas, semicolons or tabs."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise CellfeatError(f"{table}: no such table") from None
    except UnicodeDecodeError as error:
        raise CellfeatError(f"{table}: not UTF-8 text (byte {error.start}); save it as “CSV UTF-8”") from None
    except OSError as error:
        raise CellfeatError(f"{table}: cannot be read ({error.strerror or error})") from None
    head = text.split("\n", 1)[0]
    mark = max(",;\t", key=head.count)
    lines = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=mark, restval=""))
    there = set(lines[0]) if lines else set(head.strip().split(mark))
    lacking = [name for name in ("id", "path", "label") if name not in there]
    if lacking:
        raise CellfeatError(f"{table} has no column {' and no column '.join(lacking)}; it is no table of predictions")
    if not lines:
        raise CellfeatError(f"{table}: no cells below the header")
    if None in lines[0] or any(None in line for line in lines):
        raise CellfeatError(f"{table}: a line has more fields than the header; save it with quotes around texts")
    ids = Counter(line["id"] for line in lines)
    twice = [name for name, count in ids.items() if count > 1]
    if twice:
        raise CellfeatError(f"{table}: the cell {twice[0]!r} is there {ids[twice[0]]} times; keep one line of each")
    return lines


def _predicted(line: Mapping[str, str]) -> str:
    """The method's class of a cell, its best guess where it abstained."""
    return line["label"].strip() or line.get("best_label", "").strip()


def _edited(
    table: Path, lines: Sequence[Mapping[str, str]], original: Path, accept_rest: bool
) -> tuple[list[str], list[str]]:
    """Answers and predicted classes, by comparing labels with those that the method wrote."""
    was = {line["id"]: line for line in _lines(original)}
    strange = [line["id"] for line in lines if line["id"] not in was]
    if strange:
        raise CellfeatError(
            f"{table} has {len(strange)} cells that {original} does not have, the first is {strange[0]!r}; they are "
            "not tables of the same images"
        )
    answers, predicted = [], []
    for line in lines:
        old, new = was[line["id"]]["label"].strip(), line["label"].strip()
        answers.append(new if new != old or accept_rest else "")
        predicted.append(_predicted(was[line["id"]]))
    return answers, predicted


def _checked(table: Path, answers: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Answers in the table's own spelling. Raises: CellfeatError for a word that is no class."""
    spelling = {name.casefold(): name for name in (NOT_A_CELL, UNSURE, *classes)} | {"": ""}
    wrong = {word: number for number, word in reversed(list(enumerate(answers, 2))) if word.casefold() not in spelling}
    if wrong:
        word, line = next(iter(dict(sorted(wrong.items(), key=lambda one: one[1])).items()))
        more = f" (and {len(wrong) - 1} other words)" if len(wrong) > 1 else ""
        raise CellfeatError(f"{table}: line {line}: {unknown('class', word, [*classes, NOT_A_CELL, UNSURE])}{more}")
    return [spelling[word.casefold()] for word in answers]


def _row(table: Path, line: Mapping[str, str], answer: str, predicted: str, classes: Sequence[str]) -> Row:
    group = line.get("patient", "") or line.get("group", "")
    return Row(
        unprotected(line["id"]),
        _located(table, unprotected(line["path"])),
        predicted,
        answer if answer in classes else None,
        answer,
        unprotected(group),
    )


def _located(table: Path, text: str) -> Path | str:
    """An image as the table names it: beside the table, as in a folder of `cellfeat smear`, or from where we are."""
    beside = storage.located(text, table.parent)
    here = storage.located(text)
    return here if isinstance(beside, Path) and isinstance(here, Path) and not beside.is_file() else beside
