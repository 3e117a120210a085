"""A smaller manifest: of every domain at most so many rows, drawn with a seed; the others stay whole.

python benchmarks/some_cells.py cells.csv --most 2100 --out some.csv
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import common
import numpy as np
import typer

from cellfeat import CellfeatError

PATHS = ("path", "image_path", "mask_path")


def main(
    manifest: Annotated[Path, typer.Argument(help="Manifest CSV")],
    most: Annotated[int, typer.Option(min=1, help="Rows of a domain")],
    out: Annotated[Path, typer.Option(help="Manifest CSV to write, whose paths are absolute")],
    seed: Annotated[int, typer.Option(help="Of the draw")] = common.SEED,
) -> None:
    """Rows are drawn whatever their labels, so that class shares stay as they are; written in the order of the ids."""
    if out.exists():
        raise CellfeatError(f"{out} exists and is never overwritten; name another with --out")
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["id"])
    kept = []
    for domain in sorted({row["domain"] for row in rows}):
        own = [row for row in rows if row["domain"] == domain]
        chosen = np.random.default_rng(seed).permutation(len(own))[:most]
        kept += [own[number] for number in sorted(chosen)]
        print(f"{domain}: {len(chosen):,} of {len(own):,}")
    for row in kept:
        for name in PATHS:
            if row.get(name):
                row[name] = str((manifest.parent / row[name]).resolve())
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(kept)


if __name__ == "__main__":
    common.start(main)
