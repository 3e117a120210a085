"""`cellfeat report`: the page of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Page to write; default: RUN/report.html")] = None,
    figures: Annotated[
        str | None, typer.Option(help="Also each figure as a file in RUN/figures: svg, pdf, png")
    ] = None,
    embedding: Annotated[str, typer.Option(help="Maps of features: tsne, or umap (needs umap-learn)")] = "tsne",
) -> None:
    """One page about a finished run, which opens from a disk: results, figures, mistakes, what was run with what.

    Built from what the run folder holds; no model is loaded, no image outside of it is opened. The page is written anew
    each time, in place of the one that an earlier call made.
    """
    from cellfeat.console import progress, say
    from cellfeat.run_report import write_report

    page, written = write_report(run, out, figures, embedding, progress)
    say(f"{page}: {page.stat().st_size / 1e6:.1f} MB. Open it in a browser; it needs no network and no other file")
    if written:
        say(f"{written[0].parent}: {len(written)} figures")
