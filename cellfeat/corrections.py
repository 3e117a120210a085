"""A reviewer's table read back: which class every cell really has, as labelled cells to adapt to.

The table is one that `cellfeat review` wrote, or one of `cellfeat predict` or `cellfeat smear` that a person edited in
a spreadsheet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from cellfeat import cell_tables
from cellfeat.cell_tables import NOT_A_CELL, PREFIX, REVIEWED, REVIEWED_CELLS, UNSURE, CellTable
from cellfeat.errors import CellfeatError, unknown
from cellfeat.manifest import domain_problem, refuse_existing, write_manifest


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

    table: CellTable
    rows: tuple[Row, ...]

    @property
    def source(self) -> Path:
        return self.table.path

    @property
    def labelled(self) -> list[Row]:
        """Those with a class."""
        return [row for row in self.rows if row.label is not None]

    @property
    def answers(self) -> dict[str, str]:
        """{id: answer} of the cells that were looked at."""
        return {row.id: row.answer for row in self.rows if row.answer}

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

    Raises: CellfeatError for tables that do not belong together, words that are no class, nothing answered, a smear's
    pictures that lie outside its folder, and a column `reviewed` beside `original`.
    """
    table = _table_of(table)
    found = cell_tables.read(table)
    lines, classes = found.values(), found.classes
    if not classes:
        raise CellfeatError(
            f"{table} has no columns {PREFIX}CLASS, so that the classes are not known; keep the columns of the table "
            "that cellfeat wrote"
        )
    if original is not None:
        if REVIEWED in found.header:
            raise CellfeatError(
                f"{table} has a column {REVIEWED!r}, which says what was answered: leave --original out, or take that "
                "column away where the labels were changed in place"
            )
        answers, predicted = _edited(table, lines, original, accept_rest)
    elif REVIEWED in found.header:
        answers = [line[REVIEWED] for line in lines]
        predicted = [_predicted(line) for line in lines]
    else:
        raise CellfeatError(
            f"{table} has no column {REVIEWED!r}: write each cell's class there, or {NOT_A_CELL!r} or {UNSURE!r}; or, "
            "where you changed labels in place, name the table as it was with --original"
        )
    said = _checked(found, answers)
    rows = [_row(found, *one) for one in zip(lines, said, predicted, strict=True)]
    if not any(said):
        raise CellfeatError(f"{table}: no cell was answered; accept or correct some first (cellfeat review)")
    return Corrections(found, tuple(rows))


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
    if not (path / REVIEWED_CELLS).is_file():
        raise CellfeatError(
            f"{path} has no {REVIEWED_CELLS}: nobody reviewed it yet. Do so with: cellfeat review {quote(str(path))}"
        )
    return path / REVIEWED_CELLS


def _predicted(line: Mapping[str, str]) -> str:
    """The method's class of a cell, its best guess where it abstained."""
    return line["label"] or line.get("best_label", "")


def _edited(
    table: Path, lines: Sequence[Mapping[str, str]], original: Path, accept_rest: bool
) -> tuple[list[str], list[str]]:
    """Answers and predicted classes, by comparing labels with those that the method wrote."""
    was = {line["id"]: line for line in cell_tables.read(original).values()}
    strange = [line["id"] for line in lines if line["id"] not in was]
    if strange:
        raise CellfeatError(
            f"{table} has {len(strange)} cells that {original} does not have, the first is {strange[0]!r}; they are "
            "not tables of the same images"
        )
    answers, predicted = [], []
    for line in lines:
        old, new = was[line["id"]]["label"], line["label"]
        answers.append(new if new != old or accept_rest else "")
        predicted.append(_predicted(was[line["id"]]))
    return answers, predicted


def _checked(table: CellTable, answers: Sequence[str]) -> list[str]:
    """Answers in the table's own spelling. Raises: CellfeatError for a word that is no class."""
    known = [*table.classes, NOT_A_CELL, UNSURE]
    spelling = {name.casefold(): name for name in reversed(known)} | {"": ""}
    spelling |= {name: name for name in known}  # two classes may differ by capitals alone
    said = [spelling.get(word, spelling.get(word.casefold())) for word in answers]
    wrong = {word: None for word, one in zip(answers, said, strict=True) if one is None}
    for line, word, one in zip(table.numbers, answers, said, strict=True):
        if one is None:
            more = f" (and {len(wrong) - 1} other words)" if len(wrong) > 1 else ""
            raise CellfeatError(f"{table.path}: line {line}: {unknown('class', word, known)}{more}")
    return [one or "" for one in said]


def _row(table: CellTable, line: Mapping[str, str], answer: str, predicted: str) -> Row:
    group = line.get("patient", "") or line.get("group", "")
    label = answer if answer in table.classes else None
    return Row(line["id"], table.image(line["path"]), predicted, label, answer, group)
