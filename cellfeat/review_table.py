"""The table that is reviewed: `cells.csv` of `cellfeat smear`, or a CSV of `cellfeat predict`."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cellfeat import storage
from cellfeat.corrections import NOT_A_CELL, PREFIX, REVIEWED, UNSURE
from cellfeat.errors import CellfeatError
from cellfeat.spreadsheets import plain, unprotected

CELLS = "cells.csv"  # in a folder of `cellfeat smear`
OTHER_ANSWERS = (NOT_A_CELL, UNSURE)
FLAGS = ("touching", "cut", "novel")  # columns of yes or no
SET_SEPARATOR = "|"


@dataclass(frozen=True)
class ReviewCell:
    """One line of the table, as it is shown.

    answer: the class that was predicted, "" where the method abstained. best: the likeliest class, which is accepted.
    probability: of `best`, in [0, 1]. probabilities: (K,) in the order of the table's classes. set: a prediction set.
    """

    id: str
    picture: str
    answer: str
    best: str
    probability: float
    probabilities: tuple[float, ...]
    flags: tuple[str, ...] = ()
    set: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReviewTable:
    """N cells with K classes in the order of the file; `header` and `lines` are the CSV as it was read."""

    path: Path
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    classes: tuple[str, ...]
    cells: tuple[ReviewCell, ...]

    @property
    def name(self) -> str:
        """Of the smear's folder, or of the file."""
        return self.path.absolute().parent.name if self.path.name == CELLS else self.path.name

    @property
    def journal(self) -> Path:
        return self._beside("review.jsonl")

    @property
    def reviewed(self) -> Path:
        return self._beside("reviewed.csv")

    @property
    def lock(self) -> Path:
        return self.journal.with_name(f".{self.journal.stem}.lock")

    def _beside(self, name: str) -> Path:
        own = "" if self.path.name == CELLS else f"{self.path.stem}-"
        return self.path.with_name(f"{own}{name}")

    @property
    def answers(self) -> tuple[str, ...]:
        """What a reviewer may say of a cell."""
        return (*self.classes, *OTHER_ANSWERS)

    @property
    def digest(self) -> str:
        """SHA-256 over ids and classes, in their order: decisions are about these."""
        text = json.dumps([[cell.id for cell in self.cells], self.classes])
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def picture(self, row: int) -> Path | str:
        """Where a cell's image lies: as seen from the table, or, as `cellfeat predict` writes it, from the folder of
        work; a URL is a string."""
        name = self.cells[row].picture
        beside = storage.located(name, self.path.parent)
        return beside if isinstance(beside, str) or beside.is_file() else Path(name)

    def check_pictures(self) -> int:
        """The number of cells without a picture.

        Raises: CellfeatError where no cell has one.
        """
        found = [self.picture(row) for row in range(len(self.cells))]
        missing = sum(isinstance(one, Path) and not one.is_file() for one in found)
        if missing == len(found):
            raise CellfeatError(
                f"{self.path}: none of its {missing} pictures is there; the first is {found[0]}, looked for beside the "
                "table and in this folder. Go to the folder where the table was made, or put the pictures back"
            )
        return missing

    def write_reviewed(self, decisions: Mapping[str, str], path: Path) -> None:
        """The table with a column more: what the reviewer said, "" of cells that were not looked at."""
        place = self.header.index("id")
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*self.header, REVIEWED])
            for line in self.lines:
                writer.writerow([*line, plain(decisions.get(unprotected(line[place]), ""))])


def read_table(given: Path) -> ReviewTable:
    """A folder of `cellfeat smear` or a CSV of `cellfeat predict`.

    Raises: CellfeatError for what is absent, no such table, one that holds a review already, and a doubtful line.
    """
    path = given / CELLS if given.is_dir() else given
    if not path.is_file():
        what = f"a folder without {CELLS}" if given.is_dir() else "no such table"
        raise CellfeatError(f"{given}: {what}; name a folder of `cellfeat smear`, or a CSV of `cellfeat predict`")
    header, lines = _read(path)
    classes = tuple(name.removeprefix(PREFIX) for name in header if name.startswith(PREFIX))
    _check_header(path, header, classes)
    columns = [dict(zip(header, line, strict=True)) for line in lines]
    cells = tuple(_cell(path, number, values, classes) for number, values in enumerate(columns, start=1))
    names = [cell.id for cell in cells]
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise CellfeatError(f"{path}: the id {twice!r} is there twice; a decision could belong to either")
    return ReviewTable(path, tuple(header), tuple(map(tuple, lines)), classes, cells)


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header, lines = next(reader, []), [line for line in reader if line]
    except UnicodeDecodeError as error:
        raise CellfeatError(f"{path}: not UTF-8 text (byte {error.start}); save it as a UTF-8 CSV") from None
    except csv.Error as error:
        raise CellfeatError(f"{path}: not a CSV file: {error}") from None
    if header and not lines:
        raise CellfeatError(f"{path}: no rows below the header, so there is nothing to review")
    for number, line in enumerate(lines, start=1):
        if len(line) != len(header):
            raise CellfeatError(f"{path}: row {number} has {len(line)} fields, the header {len(header)}")
    return header, lines


def _check_header(path: Path, header: Sequence[str], classes: Sequence[str]) -> None:
    missing = [name for name in ("id", "path", "label") if name not in header]
    if missing or not classes:
        lacks = " and ".join([*map(repr, missing), *([] if classes else [f"{PREFIX}CLASS"])])
        raise CellfeatError(
            f"{path}: no column {lacks}; a review needs {CELLS} of `cellfeat smear`, or a CSV of `cellfeat predict`"
        )
    if REVIEWED in header:
        raise CellfeatError(
            f"{path}: it has a column {REVIEWED!r}, so a review wrote it; name the table that it was made of"
        )
    if len(set(header)) != len(header):
        raise CellfeatError(f"{path}: a column is there twice")
    clash = next((name for name in classes if name.casefold() in OTHER_ANSWERS), None)
    if clash:
        raise CellfeatError(f"{path}: a class is called {clash!r}, as a review calls what has no class; rename it")


def _cell(path: Path, number: int, values: Mapping[str, str], classes: Sequence[str]) -> ReviewCell:
    try:
        chances = tuple(float(values[f"{PREFIX}{name}"]) for name in classes)
    except ValueError:
        chances = (math.nan,)
    if not all(map(math.isfinite, chances)):
        raise CellfeatError(f"{path}: row {number}: a probability is no number")
    name, answer = unprotected(values["id"]), unprotected(values["label"])
    if not name or (answer and answer not in classes):
        wrong = f"the label {answer!r} is none of its classes ({', '.join(classes)})" if name else "the id is empty"
        raise CellfeatError(f"{path}: row {number}: {wrong}")
    best = answer or classes[max(range(len(chances)), key=chances.__getitem__)]
    likely = tuple(one for one in values.get("set", "").split(SET_SEPARATOR) if one)
    return ReviewCell(
        id=name,
        picture=unprotected(values["path"]),
        answer=answer,
        best=best,
        probability=chances[classes.index(best)],
        probabilities=chances,
        flags=tuple(flag for flag in FLAGS if values.get(flag) == "yes"),
        set=likely,
    )
