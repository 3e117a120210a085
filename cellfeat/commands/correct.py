"""`cellfeat data correct`: a reviewer's table becomes labelled cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from cellfeat.corrections import Corrections


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
    from shlex import quote

    from cellfeat import corrections
    from cellfeat.console import say
    from cellfeat.showing import show, show_json

    found = corrections.correct(table, out, domain, original, accept_rest)
    if as_json:
        show_json(found.as_dict())
    else:
        show(_table(found))
    say(f"{out}: {len(found.labelled):,} labelled cells of {domain}")
    named = "" if domain == "new" else f" --domain {quote(domain)}"
    say(f"Next: cellfeat predict RUN IMAGES{named} --labelled {quote(str(out))} --before EARLIER.csv -o again.csv")


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
