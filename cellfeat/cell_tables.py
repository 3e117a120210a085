"""Tables of classified cells read back, as `cellfeat predict` and `smear` wrote them or as a spreadsheet saved them."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cellfeat import storage
from cellfeat.errors import CellfeatError
from cellfeat.spreadsheets import unprotected

CELLS, REVIEWED_CELLS = "cells.csv", "reviewed.csv"  # in a folder of `cellfeat smear`
PREFIX = "p_"  # of the columns of probabilities, which name the classes
REVIEWED = "reviewed"  # the column of a reviewer's answers
NOT_A_CELL, UNSURE = "not a cell", "unsure"
SET_SEPARATOR = "|"
WORDS = ("label", "best_label", REVIEWED)  # columns that people write in
KNOWN = (*WORDS, "id", "path", "crop", "patient", "group", "set", "probability", "novel", "touching", "cut")
SEPARATORS = ",;\t"
TOLD = re.compile(r'"?sep=([,;\t])"?;*\r?\n', re.IGNORECASE)  # a first line that spreadsheets write and read


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


def read(path: Path, needed: Sequence[str] = ("id", "path", "label")) -> CellTable:
    """A table, whatever a spreadsheet did to it: a byte-order mark, `sep=`, semicolons or tabs, capitals and blanks in
    names of columns, empty lines, empty fields that are left out at the end of a line.

    Raises: CellfeatError for what is no such table, a column or an id that is there twice, and lines that are too long.
    """
    text = _text(path)
    told = TOLD.match(text)
    start = told.end() if told else 0
    mark = told[1] if told else _separator(text)
    header, lines, numbers = _parsed(path, text[start:], mark, 1 if told else 0)
    lacking = [name for name in needed if name not in header]
    if lacking:
        raise CellfeatError(
            f"{path} has no column {' and no column '.join(lacking)}; it is no table of predictions, as `cellfeat "
            "smear` and `cellfeat predict` write them"
        )
    names = [class_of(name) if name.startswith(PREFIX) else f"column {name}" for name in header]
    twice = next((header[names.index(name)] for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise CellfeatError(f"{path}: the column {twice!r} is there twice; keep one of them")
    if not lines:
        raise CellfeatError(f"{path}: no cells below the header")
    table = CellTable(path, tuple(header), tuple(lines), tuple(numbers))
    _check_ids(table)
    return table


def _check_ids(table: CellTable) -> None:
    place = table.header.index("id")
    names = [unprotected(line[place]) for line in table.lines]
    for name, number in zip(names, table.numbers, strict=True):
        if not name.strip():
            raise CellfeatError(f"{table.path}: line {number}: the id is empty")
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise CellfeatError(f"{table.path}: the cell {name!r} is there {count} times; keep one line of each")


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return file.read()
    except FileNotFoundError:
        raise CellfeatError(f"{path}: no such table") from None
    except UnicodeDecodeError as error:
        raise CellfeatError(f"{path}: not UTF-8 text (byte {error.start}); save it as “CSV UTF-8”") from None
    except OSError as error:
        raise CellfeatError(f"{path}: cannot be read ({error.strerror or error})") from None


def _separator(text: str) -> str:
    """What separates the fields, by the header; a comma where it says nothing."""
    for mark in SEPARATORS:
        try:
            if "id" in _header(next(csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True), [])):
                return mark
        except csv.Error:
            continue
    return SEPARATORS[0]


def _header(names: Sequence[str]) -> list[str]:
    """Without blanks around them, and known names in small letters; nameless columns at the end are none."""
    found = [name.strip() for name in names]
    while found and not found[-1]:
        del found[-1]
    small = [name.casefold() for name in found]
    return [
        low if low in KNOWN else f"{PREFIX}{name[len(PREFIX) :]}" if low.startswith(PREFIX) else name
        for name, low in zip(found, small, strict=True)
    ]


def _parsed(path: Path, text: str, mark: str, before: int) -> tuple[list[str], list[tuple[str, ...]], list[int]]:
    """Header, lines and their numbers. before: lines of the file that are not in the text."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    try:
        header = _header(next(reader, []))
        found = [(reader.line_num + before, line) for line in _filled(reader)]
    except csv.Error as error:
        raise CellfeatError(
            f"{path}: not a CSV file: line {reader.line_num + before}: {error}; a quote that ends nowhere, perhaps"
        ) from None
    lines = []
    for number, line in found:
        if any(map(str.strip, line[len(header) :])):
            raise CellfeatError(
                f"{path}: line {number} has {len(line)} fields, more than the header ({len(header)}); save it with "
                "quotes around texts"
            )
        # Spreadsheets leave empty fields at the end out.
        lines.append((*line[: len(header)], *[""] * (len(header) - len(line))))
    return header, lines, [number for number, _ in found]


def _filled(lines: Iterator[list[str]]) -> Iterator[list[str]]:
    return (line for line in lines if any(map(str.strip, line)))
