"""Tables of classified cells read back, as `cellfeat predict` and `smear` wrote them or as a spreadsheet saved them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cellfeat import storage
from cellfeat.edited_tables import read_rows, refuse_twice
from cellfeat.errors import CellfeatError
from cellfeat.spreadsheets import unprotected

CELLS, REVIEWED_CELLS = "cells.csv", "reviewed.csv"  # in a folder of `cellfeat smear`
PREFIX = "p_"  # of the columns of probabilities, which name the classes
REVIEWED = "reviewed"  # the column of a reviewer's answers
NOT_A_CELL, UNSURE = "not a cell", "unsure"
SET_SEPARATOR = "|"
WORDS = ("label", "best_label", REVIEWED)  # columns that people write in
KNOWN = (*WORDS, "id", "path", "crop", "patient", "group", "set", "probability", "novel", "touching", "cut")


@dataclass(frozen=True)
class CellTable:
    """N lines below a header. header: names, those of the known columns as cellfeat spells them. lines: texts as they
    were written, each as long as the header. numbers: the line of the file at which each of them ends."""

    path: Path
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    numbers: tuple[int, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of the columns of probabilities."""
        return tuple(class_of(name) for name in self.header if name.startswith(PREFIX))

    @property
    def is_smear(self) -> bool:
        """Whether its pictures are crops that lie in a folder with it."""
        return "crop" in self.header

    def values(self) -> list[dict[str, str]]:
        """The lines by column, without what protects texts from a spreadsheet; probabilities as `p_` and the class."""
        names = [f"{PREFIX}{class_of(name)}" if name.startswith(PREFIX) else name for name in self.header]
        return [
            {name: unprotected(text.strip() if name in WORDS else text) for name, text in zip(names, line, strict=True)}
            for line in self.lines
        ]

    def image(self, text: str) -> Path | str:
        """A picture as the table names it: as seen from the table, or, as `predict` writes it, from the folder of work;
        a URL is a string.

        Raises: CellfeatError for a picture of a smear that lies outside the table's folder, whoever sent that.
        """
        if self.is_smear and storage.is_url(text):
            raise self._outside(text)
        beside = storage.located(text, self.path.parent)
        here = storage.located(text)
        if isinstance(beside, str) or isinstance(here, str):
            return beside
        found, folder = (beside, self.path.parent) if beside.is_file() else (here, Path())
        if self.is_smear and not found.resolve().is_relative_to(folder.resolve()):
            raise self._outside(text)
        return found

    def _outside(self, text: str) -> CellfeatError:
        return CellfeatError(
            f"{self.path}: the picture {text[:80]!r} lies outside its folder, where a smear has its own; it is not read"
        )


def class_of(column: str) -> str:
    """The class of a column of probabilities."""
    return unprotected(column.removeprefix(PREFIX))


def classes_of_set(text: str) -> tuple[str, ...]:
    """The classes of a prediction set."""
    return tuple(unprotected(one) for one in unprotected(text).split(SET_SEPARATOR) if one)


def number(text: str) -> float:
    """A number, with a comma where spreadsheets of some countries write one. Raises: ValueError."""
    return float(text.replace(",", "."))


def read(path: Path, needed: Sequence[str] = ("id", "path", "label"), option: str = "") -> CellTable:
    """A table, whatever a spreadsheet did to it, as `edited_tables` reads it; capitals in column names do not count.

    option: that names the table, for messages.

    Raises: CellfeatError for what is no such table, and a column or an id that is there twice.
    """
    said = f"{option} {path}".strip()
    found = read_rows(path, option)
    header = [_spelled(name) for name in found.header]
    lacking = [name for name in needed if name not in header]
    if lacking:
        raise CellfeatError(
            f"{said} has no column {' and no column '.join(lacking)}; it is no table of predictions, as `cellfeat "
            "smear` and `cellfeat predict` write them"
        )
    refuse_twice([f"{PREFIX}{class_of(name)}" if name.startswith(PREFIX) else name for name in header], said)
    if not found.lines:
        raise CellfeatError(f"{said}: no cells below the header")
    lines = tuple(tuple(texts) for _, texts in found.lines)
    table = CellTable(path, tuple(header), lines, tuple(number for number, _ in found.lines))
    _check_ids(table, said)
    return table


def _spelled(name: str) -> str:
    """Known names, and what is before a class, in small letters."""
    low = name.casefold()
    return low if low in KNOWN else f"{PREFIX}{name[len(PREFIX) :]}" if low.startswith(PREFIX) else name


def _check_ids(table: CellTable, said: str) -> None:
    place = table.header.index("id")
    names = [unprotected(line[place]) for line in table.lines]
    for name, number in zip(names, table.numbers, strict=True):
        if not name.strip():
            raise CellfeatError(f"{said}: line {number}: the id is empty")
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise CellfeatError(f"{said}: the cell {name!r} is there {count} times; keep one line of each")
