"""`cellfeat data`: manifests of images, made, joined and described."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cellfeat.datasets import Dataset
    from cellfeat.label_drafts import Draft
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
    levels: Annotated[
        str | None,
        typer.Option(help="What each level of folders is: class, patient or -, as in class/patient; default: class"),
    ] = None,
    group_from: Annotated[
        str | None,
        typer.Option(
            "--group-from",
            metavar="REGEX",
            help="Patient or slide in an image's path, by its first bracket, as in '(P[0-9]+)_'",
        ),
    ] = None,
    skip_bad: SkipBad = False,
) -> None:
    """Make a manifest of a folder of images, decoding each once.

    Says what was found, accepted and dropped, and why. With --skip-bad, files that cannot be read are listed in
    NAME-skipped.csv beside NAME.csv. No split divides a patient or slide, where --levels or --group-from names it.
    """
    from cellfeat.console import console, progress, say
    from cellfeat.layouts import skipped_beside, write_index

    result = write_index(kind, directory, domain, out, skip_bad, progress, levels, group_from)
    if result.bad:
        bad = len(result.bad)
        what = "1 file that cannot be read is" if bad == 1 else f"{bad:,} files that cannot be read are"
        say(f"{what} listed in {skipped_beside(out)}")
    _print_index(console, result)
    say(f"{out}: {result.accepted:,} of {result.found:,} images")
    _say_next(out, [str(row["label"]) for row in result.rows])
    say("With more laboratories: cellfeat data index each, then cellfeat data merge, and go on with what that makes")


def _say_next(manifest: Path, labels: list[str]) -> None:
    """The command after a manifest: its words need a map, or are known."""
    from cellfeat.console import say
    from cellfeat.labels import vocabulary_of

    name, vocabulary = _quoted(manifest), vocabulary_of(labels)
    if vocabulary is not None:
        say(f"Next: cellfeat data info {name} --labels {vocabulary}")
    else:
        say(f"Next: cellfeat data labels {name} --to five-class -o labels.yaml")


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
        console.print(remark, markup=False, soft_wrap=True)
    groups = {row["group"] for row in result.rows if row.get("group")}
    if groups:
        console.print(f"{len(groups):,} patients or slides; no split will divide one", markup=False)
    if result.duplicates:
        console.print(_duplicates(result), markup=False, soft_wrap=True)


def _duplicates(result: IndexResult) -> str:
    """What is to be said of identical files; those under two labels first."""
    label_of = {str(row["id"]): str(row["label"]) for row in result.rows}
    torn = [group for group in result.duplicates if len({label_of[key] for key in group}) > 1]
    count = sum(len(group) - 1 for group in result.duplicates)
    example = " = ".join((torn or result.duplicates)[0])
    which = f", {len(torn):,} of them under two labels" if torn else ""
    return (
        f"{count:,} {'image is' if count == 1 else 'images are'} byte for byte another one of them{which}, "
        f"e.g. {example}: keep one of each, or a model is tested on what it has learnt"
    )


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
    from cellfeat.manifest import merge_manifests, read_rows

    if len(manifests) < 2:
        raise CellfeatError(f"only {manifests[0]} was named; merge joins two or more manifests")
    count = merge_manifests(manifests, out)
    say(f"{out}: {count:,} images of {len(manifests)} manifests")
    _say_next(out, [row["label"] for row in read_rows(out)])


@app.command()
def labels(
    manifests: Annotated[list[Path], typer.Argument(metavar="MANIFEST...", help="Manifest CSVs, as from data index")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The label map to write, a .yaml; never overwritten")],
    to: Annotated[str, typer.Option(help="The classes: five-class, dorl-13 or a map.yaml of your own")] = "five-class",
    as_json: Annotated[bool, typer.Option("--json", help="The draft also as JSON, in place of the table")] = False,
) -> None:
    """Draft a label map: which class each of your own words for cells would belong to.

    Words of several languages and their abbreviations are known. What is unknown or in doubt is never guessed: its line
    is marked EDIT: and leaves the cells out until you write a class there.
    """
    from cellfeat.console import console, say
    from cellfeat.label_drafts import draft_labels, write_draft
    from cellfeat.manifest import refuse_existing
    from cellfeat.showing import show_json

    refuse_existing(out)
    draft = draft_labels(manifests, to)
    write_draft(out, draft)
    if as_json:
        show_json(draft.as_dict())
    else:
        _print_draft(console, draft)
    if draft.empty_classes:
        say(f"no label for {', '.join(draft.empty_classes)}")
    count, left = len(draft.undecided), sum(line.cells for line in draft.undecided)
    if count:
        say(
            f"{out}: {count} of {len(draft.lines)} labels {'is' if count == 1 else 'are'} undecided "
            f"({left:,} {'cell' if left == 1 else 'cells'}). Open it in any editor: write a class on each line marked "
            "EDIT:, or leave null to leave its cells out"
        )
    else:
        say(f"{out}: all {len(draft.lines)} labels have their place; read it over")
    if count == len(draft.lines):
        say("Not one label is a known word. Are they classes, or patients? cellfeat data index --levels says which")
    manifest = manifests[0] if len(manifests) == 1 else "MANIFEST"
    say(f"Next: cellfeat data info {_quoted(manifest)} --labels {_quoted(out)}")


def _quoted(path: Path | str) -> str:
    from shlex import quote

    return quote(str(path))


def _print_draft(console, draft: Draft) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("label", "cells", "class", "")
    table.columns[1].justify = "right"
    for line in draft.lines:
        place = "EDIT" if line.open else line.place or "left out"
        table.add_row(*map(Text, (line.label, f"{line.cells:,}", place, line.why)))
    console.print(table)


@app.command()
def demo(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that does not exist yet")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same cells")] = 1234,
    per_class: Annotated[int, typer.Option("--per-class", help="Cells per class and laboratory")] = 24,
    size: Annotated[int | None, typer.Option(help="Side in px; default: each laboratory its own")] = None,
    smears: Annotated[int, typer.Option(help="Also photographs of whole fields, so many for each laboratory")] = 0,
) -> None:
    """Draw the demo set: synthetic cells of three invented laboratories and five classes, with masks."""
    from cellfeat.console import progress, say
    from cellfeat.demo import write_demo

    manifest = write_demo(directory, per_class, size, seed, progress, smears)
    say(f"{manifest}: synthetic cells. Next: cellfeat run --data {manifest}")


@app.command()
def info(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="A manifest CSV")],
    labels: Annotated[str | None, typer.Option(help="five-class, dorl-13 or a map.yaml; default: as they are")] = None,
    skip_bad: SkipBad = False,
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON")] = False,
) -> None:
    """Describe a manifest: classes, sizes, masks, groups and dropped labels of each laboratory."""
    from cellfeat.console import note, say
    from cellfeat.datasets import read_manifest
    from cellfeat.showing import show_json

    dataset = read_manifest(manifest, labels, skip_bad=skip_bad)
    for text in dataset.notes():
        note(text)
    if as_json:
        show_json(_as_json(dataset))
        return
    _print_info(dataset)
    choice = f" --labels {_quoted(labels)}" if labels else ""
    if len(dataset.domains) == 1:
        say(
            f"One laboratory: a run tests on held-out parts of {dataset.domains[0]} alone, which says nothing about "
            "any other. Add a second one, of your own or published, with cellfeat data merge"
        )
    say(f"Next: cellfeat run --data {_quoted(manifest)}{choice} --align per-domain-z --out first-run")


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
