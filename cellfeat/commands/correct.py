"""`cellfeat data correct`: a reviewer's table becomes labelled cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cellfeat.cell_tables import CELLS
from cellfeat.errors import CellfeatError

if TYPE_CHECKING:
    from rich.table import Table

    from cellfeat.corrections import Corrections
    from cellfeat.recounted import Recounted


def correct(
    table: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE", help="A reviewed folder of `cellfeat smear`, or a CSV that was reviewed or edited"
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The manifest CSV to write; never overwritten")],
    domain: Annotated[str, typer.Option(help="Name of the laboratory, the same as for predict and smear")] = "new",
    original: Annotated[
        Path | None,
        typer.Option(help="The table as it was, where labels were changed in place: what differs was corrected"),
    ] = None,
    accept_rest: Annotated[
        bool, typer.Option("--accept-rest", help="With --original: labels that were not changed were checked too")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The counts as JSON, in place of the table")] = False,
) -> None:
    """Make labelled cells of a reviewer's answers, for predict and smear to fit again with (--labelled).

    Cells that nobody looked at, or that were called `unsure` or `not a cell`, are left out.
    """
    from cellfeat import corrections
    from cellfeat.console import say
    from cellfeat.showing import show, show_json

    found = corrections.correct(table, out, domain, original, accept_rest)
    counted = _counted(found)
    if as_json:
        show_json(found.as_dict() | ({"differential": counted.as_dict()} if counted else {}))
    else:
        for one in (_table(found), *(counted.tables() if counted else ())):
            show(one)
    say(f"{out}: {_labelled_cells(len(found.labelled))} of {domain}")
    if remote := sum(isinstance(row.path, str) for row in found.labelled):
        are = "is" if remote == 1 else "are"
        say(f"{remote:,} of the images {are} elsewhere, as the table names them by URL; --labelled fetches them")
    say(_next(found, out, domain))


def _counted(found: Corrections) -> Recounted | None:
    """A smear's count with the answers; None for other tables, and where an edited one does not tell what it needs."""
    from cellfeat.console import note
    from cellfeat.recounted import Recount

    try:
        recount = Recount.of(found.table)
    except CellfeatError as error:
        note(f"not counted again: {error}")
        return None
    return None if recount is None else recount.after(found.answers)


def _labelled_cells(count: int) -> str:
    return f"{count:,} labelled {'cell' if count == 1 else 'cells'}"


def _next(found: Corrections, out: Path, domain: str) -> str:
    """The command that fits again, as the table came of one or the other."""
    from shlex import quote

    named = ("" if domain == "new" else f" --domain {quote(domain)}") + f" --labelled {quote(str(out))}"
    if not found.table.is_smear:
        return f"Next: cellfeat predict RUN IMAGES{named} --before EARLIER.csv -o again.csv"
    cells = found.source.with_name(CELLS)
    earlier = quote(str(cells)) if cells.is_file() else f"OUT/{CELLS}"
    return f"Next: cellfeat smear PHOTOGRAPHS --run RUN{named} --before {earlier} -o again"


def _table(found: Corrections) -> Table:
    """Counts, then the corrections, the most frequent first."""
    from rich.table import Table
    from rich.text import Text

    counts = found.as_dict()
    table = Table("", "predicted", "given", "cells", title="Reviewed cells", title_justify="left")
    table.columns[3].justify = "right"
    for name in ("accepted", "corrected"):
        table.add_row(name, "", "", f"{counts[name]:,}")
    for (old, new), count in found.moves.most_common():
        table.add_row("", Text(old), Text(new), f"{count:,}")
    for name in ("not_a_cell", "unsure", "not_looked_at"):
        table.add_row(name.replace("_", " "), "", "", f"{counts[name]:,}")
    return table
