"""`cellfeat convert`: features between .parquet, .h5ad and stores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cellfeat.commands.options import Labels

Given = Annotated[Path, typer.Argument(metavar="IN", help="features.parquet, features.h5ad or the folder of a store")]
Out = Annotated[
    str,
    typer.Argument(metavar="OUT", help="features.parquet, features.h5ad, the folder of a store, or the word: cache"),
]
Data = Annotated[str | None, typer.Option("--data", help="Manifest CSV that names the images of a store")]


def convert(source: Given, out: Out, data: Data = None, labels: Labels = None) -> None:
    """Write features in another form, without a loss.

    Into `cache`, features that were extracted elsewhere: a run here with the same encoding does not compute them again.
    """
    from cellfeat.console import note, say
    from cellfeat.conversion import convert as write

    done = write(source, out, data, labels)
    if done.added is None:
        say(f"{done.where}: {done.cells:,} cells × {done.width} features")
        return
    had = done.cells - done.added
    say(f"{done.where}: {done.added:,} images × {done.width} features added, {had:,} were there")
    say(f"Found by a run in whose cache it lies with just this encoding: {done.encoding}")
    if done.differs:
        note(f"runs here will encode again, as features differ with versions: {'; '.join(done.differs)}")
