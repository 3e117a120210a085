"""Results on stdout: tables that fit the terminal without losing anything, JSON, and characters that the output has."""

from __future__ import annotations

import codecs
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cellfeat.console import console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Column, Table

PLAIN = {  # what cellfeat's own texts have beyond ASCII
    **{"×": "x", "·": "-", "→": "->", "←": "<-", "…": "...", "–": "-", "—": "-", "−": "-", "²": "2", "³": "3"},
    **{"≤": "<=", "≥": ">=", "±": "+-", "µ": "u", "✓": "+", "✗": "x", "†": "*", "‡": "**", "≈": "~", "•": "*"},
    **{"“": '"', "”": '"', "„": '"', "’": "'", "‘": "'", "\xa0": " "},
}
HANDLER = "cellfeat-plain"


def show(table: Table, on: Console | None = None) -> None:
    """Print a table without cutting a word: as it is, with intervals below their figures, or every row as lines.

    Names in it come from data: whatever stands in brackets is text, never Rich's markup.
    """
    on = on or console
    for one in (table, _with_intervals_below(table)):
        literal = _literal(one)
        if fitted(literal, on.width):
            on.print(literal)
            return
    for line in stacked(table):
        on.print(_text(line), soft_wrap=True)


def fitted(table: Table, width: int) -> bool:
    """Give the columns widths that no word is wider than; False where all together are wider than `width`.

    Rich by itself takes from the widest columns first, whatever stands in them.
    """
    room = width - 3 * len(table.columns) - 1  # two spaces beside each column, and the lines between
    natural = [max(map(cell_width, _lines(column)), default=0) for column in table.columns]
    least = [
        full
        if column.no_wrap
        else max((cell_width(word) for line in _lines(column) for word in line.split()), default=0)
        for column, full in zip(table.columns, natural, strict=True)
    ]
    if sum(least) > room:
        return False
    if sum(natural) > room:
        for column, own in zip(table.columns, _shared(least, natural, room), strict=True):
            column.width = own
    return True


def _shared(least: Sequence[int], natural: Sequence[int], room: int) -> list[int]:
    """Widths that use the room: what is left beyond the least goes to those that have the fewest, as they need it."""
    widths = list(least)
    for _ in range(room - sum(widths)):
        wanting = [number for number, width in enumerate(widths) if width < natural[number]]
        if not wanting:
            break
        widths[min(wanting, key=lambda number: widths[number])] += 1
    return widths


def _lines(column: Column) -> list[str]:
    """What stands in a column, its heading included."""
    return [line for one in (column.header, *column.cells) for line in str(one).splitlines()]


def cell_width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    from rich.cells import cell_len

    return cell_len(text)


def _with_intervals_below(table: Table) -> Table:
    """The same table with `80.2 [77.0, 84.1]` in two lines, and headings a word to a line."""
    return _rebuilt(
        table,
        lambda column: str(column.header).replace(" ", "\n") if column.justify == "right" else column.header,
        lambda one: "\n[".join(part.strip() for part in one.split(" [")) if isinstance(one, str) else one,
    )


def _literal(table: Table) -> Table:
    """The same table with texts in place of strings, which Rich would read markup in."""
    new = _rebuilt(table, lambda column: _text(column.header), _text)
    new.title, new.caption = _text(table.title, "table.title"), _text(table.caption, "table.caption")
    return new


def _text(one: Any, style: str = "") -> Any:
    from rich.text import Text

    return Text(one, style) if isinstance(one, str) else one


def _rebuilt(table: Table, heading: Callable[[Column], Any], cell: Callable[[Any], Any]) -> Table:
    """A copy with other headings and cells."""
    from rich.table import Table

    new = Table(title=table.title, caption=table.caption)
    new.title_justify, new.caption_justify = table.title_justify, table.caption_justify
    for column in table.columns:
        new.add_column(heading(column), justify=column.justify, no_wrap=column.no_wrap, overflow=column.overflow)
    for row, cells in zip(table.rows, zip(*(column.cells for column in table.columns), strict=True), strict=True):
        new.add_row(*map(cell, cells), style=row.style, end_section=row.end_section)
    return new


def stacked(table: Table) -> Iterator[Any]:
    """A table as lines: its title, of every row the first cells and below them heading and value, the caption."""
    headings = [" ".join(str(column.header).split()) for column in table.columns]
    named = next((number for number, heading in enumerate(headings) if heading or number == 1), 0)
    if table.title:
        yield table.title
    for row in zip(*(list(column.cells) for column in table.columns), strict=True):
        first = " ".join(text for text in map(str, row[: named + 1]) if text)
        yield first
        for heading, value in zip(headings[named + 1 :], row[named + 1 :], strict=True):
            if str(value).strip():
                yield f"  {heading}: {' '.join(str(value).split())}" if heading else f"  {value}"
    if table.caption:
        yield table.caption


def show_json(value: Any) -> None:
    """Print JSON values for other programs: ASCII alone, and what is no number as null."""
    print(json.dumps(_finite(value), indent=1))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, (list, tuple)) else value


def write_what_it_can() -> None:
    """Let stdout and stderr write `PLAIN` for a character that their encoding lacks, and the code point of any other,
    instead of failing."""
    codecs.register_error(HANDLER, _replaced)
    for stream in (sys.stdout, sys.stderr):
        if "utf" not in (getattr(stream, "encoding", None) or "utf").lower() and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=HANDLER)


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(PLAIN.get(one) or one.encode("ascii", "backslashreplace").decode() for one in lacking), error.end
