"""`cellfeat extract`, `transform` and `predict`: methods and finished runs on data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cellfeat.commands.options import (
    BackboneName,
    Batch,
    Before,
    Compile,
    Device,
    Labelled,
    Labels,
    Offline,
    Precision,
    Refit,
    SegmenterName,
    Sets,
    SkipBad,
    Source,
)


def extract(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Manifest CSV, a file or a URL")],
    out: Annotated[Path, typer.Option("--out", "-o", help="features.parquet or features.h5ad")],
    labels: Labels = None,
    backbone: BackboneName = None,
    segmenter: SegmenterName = None,
    sets: Sets = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    compile: Compile = False,
    batch: Batch = None,
    skip_bad: SkipBad = False,
    offline: Offline = False,
    engine: Annotated[str, typer.Option(help="local, or ray: Ray Data, on this machine or many")] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster to join: auto or HOST:PORT; default: start Ray here"),
    ] = None,
    encoders: Annotated[
        int | None, typer.Option(help="Encoder processes of --engine ray; default: one per GPU, or as CPUs allow")
    ] = None,
) -> None:
    """Pooled features of every cell, before any alignment, with their provenance."""
    from cellfeat import compose, use
    from cellfeat.console import say
    from cellfeat.workplace import Workplace

    work = Workplace.on_terminal(device, precision, skip_bad, batch, compile=compile)
    composed = compose.recipe(
        data=data,
        labels=labels,
        backbone=backbone,
        segmenter=segmenter,
        sets=sets or [],
        sections=compose.ENCODING,
    )
    count, width = use.extract(composed, out, work, engine, address, encoders)
    say(f"{out}: {count:,} cells × {width} features")


def transform(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="Manifest CSV")],
    out: Annotated[Path, typer.Option("--out", "-o", help="features.parquet or features.h5ad")],
    source: Source = None,
    refit: Refit = False,
    device: Device = "auto",
    precision: Precision = "fp32",
    skip_bad: SkipBad = False,
    offline: Offline = False,
) -> None:
    """Aligned features of the cells of a manifest, by a finished run's pipeline."""
    from cellfeat import use
    from cellfeat.console import say
    from cellfeat.workplace import Workplace

    work = Workplace.on_terminal(device, precision, skip_bad)
    count, width = use.transform(run, data, out, source, refit, work)
    say(f"{out}: {count:,} cells × {width} features")


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES", help="Image files, folders of them, or a manifest")],
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV to write")] = Path("predictions.csv"),
    domain: Annotated[str, typer.Option(help="Name of the laboratory that the images come from")] = "new",
    per_group: Annotated[
        Path | None,
        typer.Option("--per-group", help="Also a CSV with the classes' shares in each patient, slide or folder"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as JSON")] = False,
    source: Source = None,
    refit: Refit = False,
    labelled: Labelled = None,
    before: Before = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    skip_bad: SkipBad = False,
    offline: Offline = False,
) -> None:
    """Labels and probabilities of new images, which are one new domain.

    Where cells belong to groups (a manifest's column group, or a folder of images for each patient), also the shares of
    the classes in each of them.
    """
    from cellfeat import use
    from cellfeat.console import say
    from cellfeat.showing import show, show_json
    from cellfeat.workplace import Workplace

    work = Workplace.on_terminal(device, precision, skip_bad)
    found, count = use.predict(
        run, images, out, domain, source, refit, work, per_group, labelled=labelled, before=before
    )
    if as_json:
        show_json(found.as_dict())
    else:
        for table in found.tables():
            show(table)
    say(f"{out}: {count:,} images")
    if per_group is not None:
        say(f"{per_group}: {len(found.by_group()):,} groups")
