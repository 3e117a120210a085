"""The table that is reviewed: `cells.csv` of `cellfeat smear`, or a CSV of `cellfeat predict`."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from cellfeat import cell_tables
from cellfeat.cell_tables import (
    CELLS,
    NOT_A_CELL,
    PREFIX,
    REVIEWED,
    REVIEWED_CELLS,
    UNSURE,
    CellTable,
    classes_of_set,
    number,
)
from cellfeat.decode import ImageError
from cellfeat.errors import CellfeatError
from cellfeat.spreadsheets import plain

OTHER_ANSWERS = (NOT_A_CELL, UNSURE)
FLAGS = ("touching", "cut", "novel")  # columns of yes or no


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
    """N cells with K classes in the order of the file; `source` is the CSV as it was read."""

    source: CellTable
    classes: tuple[str, ...]
    cells: tuple[ReviewCell, ...]

    @property
    def path(self) -> Path:
        return self.source.path

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

    def picture(self, row: int) -> Path:
        """Where a cell's image lies, as `CellTable.image` finds it.

        Raises: ImageError for what a review does not read: a URL, and what lies outside a smear's folder.
        """
        try:
            found = self.source.image(self.cells[row].picture)
        except CellfeatError as error:
            raise ImageError(str(error)) from None
        if isinstance(found, str):
            raise ImageError(f"{found}: a review fetches nothing")
        return found

    def check_pictures(self) -> tuple[int, int]:
        """The numbers of cells without a picture that is read, and of those whose picture lies neither in the table's
        folder nor in that of work, as those of `cellfeat predict` may.

        Raises: CellfeatError where no cell has one, and for a smear whose pictures lie outside its folder.
        """
        found = [self.source.image(cell.picture) for cell in self.cells]
        paths = [one for one in found if isinstance(one, Path) and one.is_file()]
        if not paths:
            raise CellfeatError(
                f"{self.path}: none of its {len(found)} pictures is there; the first is {found[0]}, looked for beside "
                "the table and in this folder. Go to the folder where the table was made, or put the pictures back; "
                "URLs are not fetched"
            )
        folders = (self.path.parent.resolve(), Path.cwd())
        outside = sum(not any(one.resolve().is_relative_to(folder) for folder in folders) for one in paths)
        return len(found) - len(paths), outside

    def write_reviewed(self, decisions: Mapping[str, str], path: Path) -> None:
        """The table with a column more: what the reviewer said, "" of cells that were not looked at."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*self.source.header, REVIEWED])
            for line, cell in zip(self.source.lines, self.cells, strict=True):
                writer.writerow([*line, plain(decisions.get(cell.id, ""))])


def read_table(given: Path) -> ReviewTable:
    """A folder of `cellfeat smear` or a CSV of `cellfeat predict`.

    Raises: CellfeatError for what is absent, no such table, one that holds a review already, and a doubtful line.
    """
    path = given / CELLS if given.is_dir() else given
    if not path.is_file():
        what = f"a folder without {CELLS}" if given.is_dir() else "no such table"
        raise CellfeatError(f"{given}: {what}; name a folder of `cellfeat smear`, or a CSV of `cellfeat predict`")
    table = cell_tables.read(path)
    _check_header(table)
    classes = table.classes
    each = zip(table.numbers, table.values(), strict=True)
    return ReviewTable(table, classes, tuple(_cell(path, number, values, classes) for number, values in each))


def _check_header(table: CellTable) -> None:
    path, classes = table.path, table.classes
    if not classes:
        raise CellfeatError(
            f"{path}: no column {PREFIX}CLASS; a review needs {CELLS} of `cellfeat smear`, or a CSV of `cellfeat "
            "predict`"
        )
    if REVIEWED in table.header:
        raise CellfeatError(f"{path}: it has a column {REVIEWED!r}, so a review wrote it; {_made_of(path)}")
    clash = next((name for name in classes if name.casefold() in OTHER_ANSWERS), None)
    if clash:
        raise CellfeatError(f"{path}: a class is called {clash!r}, as a review calls what has no class; rename it")


def _made_of(path: Path) -> str:
    """What to do with a reviewed table: the review is one of the table that it was made of."""
    folder, first = path.parent, path.with_name(f"{path.stem.removesuffix(f'-{REVIEWED}')}.csv")
    if path.name == REVIEWED_CELLS and (folder / CELLS).is_file():
        return f"go on with: cellfeat review {quote(str(folder))}"
    if first != path and first.is_file():
        return f"go on with: cellfeat review {quote(str(first))}"
    return "name the table that it was made of"


def _cell(path: Path, line: int, values: Mapping[str, str], classes: Sequence[str]) -> ReviewCell:
    try:
        chances = tuple(number(values[f"{PREFIX}{name}"]) for name in classes)
    except ValueError:
        chances = (math.nan,)
    if not all(map(math.isfinite, chances)):
        raise CellfeatError(f"{path}: line {line}: a probability is no number")
    answer = values["label"]
    if answer and answer not in classes:
        raise CellfeatError(f"{path}: line {line}: the label {answer!r} is none of its classes ({', '.join(classes)})")
    best = answer or classes[max(range(len(chances)), key=chances.__getitem__)]
    return ReviewCell(
        id=values["id"],
        picture=values["path"],
        answer=answer,
        best=best,
        probability=chances[classes.index(best)],
        probabilities=chances,
        flags=tuple(flag for flag in FLAGS if values.get(flag) == "yes"),
        set=classes_of_set(values.get("set", "")),
    )
