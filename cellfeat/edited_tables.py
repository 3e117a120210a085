"""Tables that people make or save in spreadsheets: CSV with commas, semicolons or tabs, headers as typed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cellfeat.errors import CellfeatError

MARKS = ",;\t"  # between columns
SEPARATOR = "sep="  # of a first line that is for a spreadsheet alone


class Line(NamedTuple):
    """number: of the file's lines, from 1. values: {header in small letters: text}, stripped."""

    number: int
    values: dict[str, str]


class Rows(NamedTuple):
    """header: names as typed, stripped. lines: of each its number, that of the file's line at which it ends, and its
    texts as they are, as many as the header has; those that a spreadsheet left out at the end are empty."""

    header: list[str]
    lines: list[tuple[int, list[str]]]


def read_lines(table: Path, option: str = "") -> list[Line]:
    """The lines of a table by column; none where there is a header at most.

    Raises: CellfeatError as `read_rows` does, and for two columns of one name.
    """
    found = read_rows(table, option)
    header = [name.casefold() for name in found.header]
    refuse_twice([name for name in header if name], f"{option} {table}".strip())
    return [
        Line(number, {name: text.strip() for name, text in zip(header, texts, strict=True) if name})
        for number, texts in found.lines
    ]


def refuse_twice(names: Sequence[str], said: str) -> None:
    """Raises: CellfeatError for two columns of one name."""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise CellfeatError(f"{said}: the column {twice[0]} is there twice; keep one")


def read_rows(table: Path, option: str = "") -> Rows:
    """The rows of a table, empty ones left out, and so is a first line `sep=;`.

    option: that names the table, for messages.

    Raises: CellfeatError for a file that cannot be read, and lines of more fields than the header.
    """
    said = f"{option} {table}".strip()
    text = _text(table, said)
    first, _, rest = text.partition("\n")
    told = first.strip().strip('"').casefold()
    skipped = told.startswith(SEPARATOR)
    text = rest if skipped else text
    mark = told[len(SEPARATOR) :][:1] if skipped else ""
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=mark if mark and mark in MARKS else _mark(text), strict=True
    )
    try:
        return _rows(((reader.line_num + skipped, fields) for fields in reader), said)
    except csv.Error as error:
        raise CellfeatError(f"{said}: not a CSV in UTF-8 (line {reader.line_num + skipped}: {error})") from None


def _text(table: Path, said: str) -> str:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            return file.read()
    except FileNotFoundError:
        raise CellfeatError(f"{said}: no such file") from None
    except UnicodeDecodeError as error:
        raise CellfeatError(f"{said}: not a CSV in UTF-8 (byte {error.start}); save it as “CSV UTF-8”") from None
    except OSError as error:
        raise CellfeatError(f"{said}: cannot be read ({error.strerror or error})") from None


def _mark(text: str) -> str:
    """What is between the columns: what gives the header most of them."""

    def columns(mark: str) -> int:
        try:
            return len(next(csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True), []))
        except csv.Error:
            return 0

    return max(MARKS, key=columns)


def _rows(rows: Iterator[tuple[int, list[str]]], said: str) -> Rows:
    """rows: numbers of lines, and their fields."""
    header = [name.strip() for name in next(rows, (0, []))[1]]
    while header and not header[-1]:
        del header[-1]
    found = []
    for number, fields in rows:
        if not any(map(str.strip, fields)):
            continue
        if any(map(str.strip, fields[len(header) :])):
            raise CellfeatError(
                f"{said}: line {number} has {len(fields)} fields, the header {len(header)}; put quotes around a text "
                "that has the mark between columns in it"
            )
        found.append((number, [*fields[: len(header)], *[""] * (len(header) - len(fields))]))
    return Rows(header, found)
