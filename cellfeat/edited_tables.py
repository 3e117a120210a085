"""Tables that people make or save in spreadsheets: CSV with commas, semicolons or tabs, headers as typed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cellfeat.errors import CellfeatError

MARKS = ",;\t"  # between columns
SEPARATOR = "sep="  # of a first line that is for a spreadsheet alone


class Line(NamedTuple):
    """number: of the file's lines, from 1. values: {header in small letters: text}, stripped."""

    number: int
    values: dict[str, str]


def read_lines(table: Path, option: str = "") -> list[Line]:
    """The lines of a table, empty ones left out; none where there is a header at most.

    option: that names the table, for messages.

    Raises: CellfeatError for a file that cannot be read, two columns of one name, and lines of more fields than these.
    """
    said = f"{option} {table}".strip()
    try:
        text = table.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise CellfeatError(f"{said}: no such file") from None
    except UnicodeDecodeError as error:
        raise CellfeatError(f"{said}: not a CSV in UTF-8 (byte {error.start}); save it as “CSV UTF-8”") from None
    except OSError as error:
        raise CellfeatError(f"{said}: cannot be read ({error.strerror or error})") from None
    first, _, rest = text.partition("\n")
    skipped = first.strip().strip('"').casefold().startswith(SEPARATOR)
    if skipped:
        text, first = rest, rest.partition("\n")[0]
    mark = max(MARKS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    try:
        return _lines(((reader.line_num + skipped, fields) for fields in reader), said)
    except csv.Error as error:
        raise CellfeatError(f"{said}: not a CSV in UTF-8 (line {reader.line_num + skipped}: {error})") from None


def _lines(rows: Iterator[tuple[int, list[str]]], said: str) -> list[Line]:
    """rows: numbers of lines, and their fields."""
    header = [name.strip().casefold() for name in next(rows, (0, []))[1]]
    named = [name for name in header if name]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise CellfeatError(f"{said}: the column {twice[0]} is there twice; keep one")
    found = []
    for number, fields in rows:
        texts = [text.strip() for text in fields]
        if not any(texts):
            continue
        if any(texts[len(header) :]):
            raise CellfeatError(
                f"{said}: line {number} has {len(texts)} fields, the header {len(header)}; put quotes around a text "
                "that has the mark between columns in it"
            )
        found.append(Line(number, {name: text for name, text in zip(header, texts, strict=False) if name}))
    return found
