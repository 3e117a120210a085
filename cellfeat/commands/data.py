"""`cellfeat data`: manifests of images, made, joined and described."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cellfeat.datasets import Dataset
    from cellfeat.layouts import IndexResult

app = typer.Typer(help="Make, join and describe manifests of images.", no_args_is_help=True)

Out = Annotated[Path, typer.Option("--out", "-o", help="The manifest CSV to write; never overwritten")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave bad files and rows out instead of stopping")]


@app.command()
def index(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="folders (one per class), acevedo20 or matek19")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the images lie")],
    domain: Annotated[str, typer.Option(help="Name of the laboratory or data set")],
    out: Out,
    skip_bad: SkipBad = False,
) -> None:
    """Make a manifest of a folder of images, decoding each once.

    Says what was found, accepted and dropped, and why. With --skip-bad, files that cannot be read are listed in
    NAME-skipped.csv beside NAME.csv.
    """
    from cellfeat.console import console, progress, say
    from cellfeat.layouts import skipped_beside, write_index

    result = write_index(kind, directory, domain, out, skip_bad, progress)
    if result.bad:
        say(f"{len(result.bad)} files that cannot be read are listed in {skipped_beside(out)}")
    _print_index(console, result)
    say(f"{out}: {result.accepted:,} of {result.found:,} images. Next: cellfeat data info {out}")


def _print_index(console, result: IndexResult) -> None:
    from collections import Counter

    from rich.table import Table

    from cellfeat.showing import show

    table = Table("", "label", "images")
    table.columns[2].justify = "right"
    table.add_row("found", "", f"{result.found:,}")
    table.add_section()
    _add_counts(table, "accepted", Counter(str(row["label"]) for row in result.rows))
    _add_counts(table, "dropped", result.dropped)
    if result.bad:
        table.add_row("unreadable", "", f"{len(result.bad):,}")
    show(table)
    for remark in result.remarks:
        console.print(remark, markup=False)
    if result.duplicates:
        first = " = ".join(result.duplicates[0])
        count = sum(len(group) - 1 for group in result.duplicates)
        console.print(f"{count:,} images are byte for byte another one of them, e.g. {first}", markup=False)


def _add_counts(table, heading: str, counts: Mapping[str, int]) -> None:
    if not counts:
        return
    table.add_row(heading, "", f"{sum(counts.values()):,}")
    for label in sorted(counts):
        table.add_row("", label, f"{counts[label]:,}")
    table.add_section()


@app.command()
def merge(
    manifests: Annotated[list[Path], typer.Argument(metavar="MANIFEST...", help="Two or more manifest CSVs")],
    out: Out,
) -> None:
    """Join manifests into one; ids must be unique, and paths are rewritten relative to the new file."""
    from cellfeat.console import say
    from cellfeat.errors import CellfeatError
    from cellfeat.manifest import merge_manifests

    if len(manifests) < 2:
        raise CellfeatError(f"only {manifests[0]} was named; merge joins two or more manifests")
    count = merge_manifests(manifests, out)
    say(f"{out}: {count:,} images of {len(manifests)} manifests")


@app.command()
def demo(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that does not exist yet")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same cells")] = 1234,
    per_class: Annotated[int, typer.Option("--per-class", help="Cells per class and laboratory")] = 24,
    size: Annotated[int | None, typer.Option(help="Side in px; default: each laboratory its own")] = None,
) -> None:
    """Draw the demo set: synthetic cells of three invented laboratories and five classes, with masks."""
    from cellfeat.console import progress, say
    from cellfeat.demo import write_demo

    manifest = write_demo(directory, per_class, size, seed, progress)
    say(f"{manifest}: synthetic cells. Next: cellfeat run --data {manifest}")


@app.command()
def info(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="A manifest CSV")],
    labels: Annotated[str | None, typer.Option(help="five-class, dorl-13 or a map.yaml; default: as they are")] = None,
    skip_bad: SkipBad = False,
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON")] = False,
) -> None:
    """Describe a manifest: classes, sizes, masks, groups and dropped labels of each laboratory."""
    from cellfeat.console import note
    from cellfeat.datasets import read_manifest
    from cellfeat.showing import show_json

    dataset = read_manifest(manifest, labels, skip_bad=skip_bad)
    for text in dataset.notes():
        note(text)
    if as_json:
        show_json(_as_json(dataset))
    else:
        _print_info(dataset)


def _as_json(dataset: Dataset) -> dict[str, Any]:
    """By laboratory: cells by class, groups, masks, and what the vocabulary dropped."""
    import numpy as np

    masks, found = dataset.mask_path or (None,) * len(dataset), {}
    for name in sorted({*dataset.domains, *dataset.dropped_by_domain}):
        rows = np.flatnonzero(dataset.domain == name)
        found[name] = {
            "cells": len(rows),
            "classes": {one: int(np.sum(dataset.label[rows] == i)) for i, one in enumerate(dataset.classes)},
            "groups": len(np.unique(dataset.group[rows])),
            "masks": sum(masks[row] is not None for row in rows),
            "size": _sizes([dataset.path[row] for row in rows]),
            "dropped": dict(dataset.dropped_by_domain.get(name, {})),
        }
    return {"manifest": dataset.source, "cells": len(dataset), "domains": found, "notes": dataset.notes()}


def _print_info(dataset: Dataset) -> None:
    import numpy as np
    from rich.table import Table

    from cellfeat.showing import show

    domains = sorted({*dataset.domains, *dataset.dropped_by_domain})
    table = Table("", *domains)
    for column in table.columns[1:]:
        column.justify = "right"
    members = [np.flatnonzero(dataset.domain == name) for name in domains]
    for number, name in enumerate(dataset.classes):
        table.add_row(name, *(f"{np.sum(dataset.label[rows] == number):,}" for rows in members))
    table.add_section()
    table.add_row("cells", *(f"{len(rows):,}" for rows in members))
    table.add_row("groups", *(f"{len(np.unique(dataset.group[rows])):,}" for rows in members))
    masks = dataset.mask_path or (None,) * len(dataset)
    table.add_row("masks", *(f"{sum(masks[row] is not None for row in rows):,}" for rows in members))
    table.add_row("size, px", *(_sizes([dataset.path[row] for row in rows]) for rows in members))
    table.add_section()
    for label in dataset.dropped:
        counts = (dataset.dropped_by_domain.get(name, {}).get(label, 0) for name in domains)
        table.add_row(f"dropped: {label}", *(f"{count:,}" for count in counts))
    show(table)


def _sizes(paths: list[Path | str]) -> str:
    """The range of sizes, from the headers."""
    from cellfeat.scan import header_sizes

    sizes = [size for size in header_sizes(paths) if size is not None]
    sides = [sorted({size[axis] for size in sizes}) for axis in (0, 1)]
    text = " x ".join(str(side[0]) if len(side) == 1 else f"{side[0]}-{side[-1]}" for side in sides if side)
    unreadable = len(paths) - len(sizes)
    return f"{text} ({unreadable} unreadable)".strip() if unreadable else text
