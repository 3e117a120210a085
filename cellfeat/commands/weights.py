"""`cellfeat weights`: the weights that backbones know by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cellfeat.weights import NamedWeights

app = typer.Typer(help="List, download and verify named weights.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A name from `cellfeat weights list`")]


def _named() -> dict[str, NamedWeights]:
    """Every backbone's named weights."""
    from cellfeat.registry import installed

    offers = [offer for offer in installed().offers if offer.slot == "backbone"]
    return {name: item for offer in offers for name, item in getattr(offer.factory, "named_weights", {}).items()}


@app.command("list")
def list_weights() -> None:
    """Names, sizes, licences, and whether the file is here already."""
    from rich.table import Table

    from cellfeat.console import console
    from cellfeat.weights import weights_status

    table = Table()
    for heading in ("name", "size", "licence", "here", "digest"):
        table.add_column(heading, overflow="fold")
    for row in weights_status(_named()):
        table.add_row(row.name, f"{row.size_mb:,.0f} MB", row.licence, row.where, row.digest)
    console.print(table)


@app.command()
def fetch(name: Name) -> None:
    """Download weights into the cache, continuing a broken download, and check their digest."""
    from cellfeat.console import progress, say
    from cellfeat.weights import find_weights

    say(f"{name}: {find_weights(name, _named(), progress=progress)}")


@app.command()
def verify(name: Name) -> None:
    """Check the digest of weights that are here, without any download."""
    from cellfeat.console import say
    from cellfeat.weights import verify_weights

    say(f"{name}: {verify_weights(name, _named())} is intact")
