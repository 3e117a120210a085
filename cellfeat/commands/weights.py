"""`cellfeat weights`: the weights that backbones know by name, and the files of other programs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cellfeat import completion

if TYPE_CHECKING:
    from cellfeat.weights import NamedWeights, WeightsRow

app = typer.Typer(
    help="List, download and verify named weights; import and export the files of other programs.", no_args_is_help=True
)

DIGITS = 8  # of a digest in the table

Name = Annotated[str, typer.Argument(autocompletion=completion.weights, help="A name from `cellfeat weights list`")]
Format = Annotated[str, typer.Argument(metavar="FORMAT", help="Offered by a plugin; an unknown one lists them all")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the format")]


def _named() -> dict[str, NamedWeights]:
    """Every backbone's named weights."""
    from cellfeat.registry import installed

    return installed().named_weights()


@app.command("list")
def list_weights(
    as_json: Annotated[bool, typer.Option("--json", help="The same, and where they are described, as JSON")] = False,
) -> None:
    """Names, sizes, licences, the data they have seen, and whether the file is here already.

    --json has the whole: digests, paths, and what is said of the data.
    """
    import json

    from rich.table import Table

    from cellfeat.console import say
    from cellfeat.showing import show
    from cellfeat.weights import weights_status

    rows = weights_status(_named())
    if as_json:
        print(json.dumps([_described(row) for row in rows], indent=1, ensure_ascii=False))
        return
    table = Table()
    for heading in ("name", "size", "licence", "has seen", "here", "digest"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        seen = "not known" if row.saw is None else ", ".join(map(_short, row.saw)) or "nothing"
        algorithm, _, digits = row.digest.rpartition(":")
        digest = f"{algorithm}:{digits[:DIGITS]}…" if digits else "the hub's"
        size = f"{row.size_mb:,.0f} MB" if row.size_mb else "not known"
        table.add_row(row.name, size, row.licence, seen, "yes" if row.path else "no", digest)
    show(table)
    if any(row.path is None for row in rows):
        say("What is not here comes with: cellfeat weights fetch NAME")


def _short(seen: str) -> str:
    """The name of data, less what is said of it."""
    return re.split(r" \(|: ", seen, maxsplit=1)[0]


def _described(row: WeightsRow) -> dict[str, Any]:
    """JSON values. null: of `saw` and `size_mb`, not known; of `path`, not here; of `digest`, the hub's."""
    return {
        "name": row.name,
        "size_mb": row.size_mb or None,
        "licence": row.licence,
        "saw": None if row.saw is None else list(row.saw),
        "path": row.path and str(row.path),
        "digest": row.digest or None,
        "card": row.card,
    }


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


@app.command("import")
def import_weights(
    format: Format,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The other program's file")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make, which must not exist")],
    sets: Sets = None,
) -> None:
    """Make a folder that a method reads from another program's file, such as the DoRL authors' checkpoints.

    Formats come from the installed plugins: `dorl` makes an adapter of lora-sam. Code in a file is never run.
    """
    from cellfeat.console import say
    from cellfeat.exchange import import_file
    from cellfeat.registry import installed

    said = import_file(installed(), format, file, out, sets or [])
    say(f"{out}: made from {file}" + (f"\n{said}" if said else ""))


@app.command("export")
def export_weights(
    format: Format,
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="What to write, such as an adapter's folder")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write, which must not exist")],
    sets: Sets = None,
) -> None:
    """Write another program's file; formats come from the installed plugins, as for `import`."""
    from cellfeat.console import say
    from cellfeat.exchange import export_file
    from cellfeat.registry import installed

    said = export_file(installed(), format, source, out, sets or [])
    say(f"{out}: made from {source}" + (f"\n{said}" if said else ""))
