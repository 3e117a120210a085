"""A UMAP of real cells' features, coloured by class and by laboratory: what scanpy makes of `cellfeat extract`.

python benchmarks/feature_map.py /data/manifest.csv --out docs/formats-umap.png

A number of cells of each laboratory is drawn by the seed, spread over five classes as evenly as they allow, encoded by
the default backbone, and handed to scanpy as features.h5ad. The same seed gives the same cells, and with the same
versions the same picture.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import common
import numpy as np
import typer

from cellfeat import CellfeatError

CLASSES = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")  # of the vocabulary five-class
DPI = 110


def main(
    manifest: Annotated[Path, typer.Argument(help="Manifest of several laboratories")],
    out: Annotated[Path, typer.Option(help="PNG to write; it must not exist")],
    per_domain: Annotated[int, typer.Option(min=5, help="At most so many cells of each laboratory")] = 150,
    seed: Annotated[int, typer.Option(help="Draws the cells and places them on the map")] = common.SEED,
) -> None:
    """Draw the cells, extract their features, and write the picture."""
    if out.exists():
        raise CellfeatError(f"{out} exists and is never overwritten; choose another name or move it away")
    with TemporaryDirectory() as folder:
        cells, features = Path(folder) / "cells.csv", Path(folder) / "features.h5ad"
        write_drawn(manifest, cells, per_domain, seed)
        command = [sys.executable, "-m", "cellfeat", "extract", str(cells), "--labels", "five-class"]
        subprocess.run([*command, "-o", str(features)], check=True)
        data = mapped(features, seed)
    figure(data).savefig(out, dpi=DPI, bbox_inches="tight")
    print(f"{out}: {data.obs.domain.value_counts().to_dict()} of {manifest}, seed {seed}")


def write_drawn(manifest: Path, out: Path, per_domain: int, seed: int) -> None:
    """A manifest of the drawn rows, paths absolute."""
    rng, found = np.random.default_rng(seed), defaultdict(lambda: defaultdict(list))
    with manifest.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            name = row["label"].partition("_")[0]
            if name in CLASSES:
                found[row["domain"]][name].append(row)
    rows = [row for _, classes in sorted(found.items()) for row in evenly(classes, per_domain, rng)]
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "label", "domain"])
        for row in rows:
            path = os.path.abspath(manifest.parent / row["path"])  # noqa: PTH100 - a link stays the link
            writer.writerow([row["id"], path, row["label"], row["domain"]])


def evenly(classes: dict[str, list], most: int, rng: np.random.Generator) -> list:
    """`most` rows in all, class by class in turn until it has no more."""
    drawn: list = []
    left = {name: [rows[i] for i in rng.permutation(len(rows))] for name, rows in sorted(classes.items())}
    while len(drawn) < most and any(left.values()):
        drawn += [rows.pop() for rows in left.values() if rows]
    return drawn[:most]


def mapped(features: Path, seed: int) -> Any:
    """The features with scanpy's neighbours and UMAP."""
    import scanpy

    data = scanpy.read_h5ad(features)
    scanpy.pp.neighbors(data, use_rep="X_cellfeat", random_state=seed)
    scanpy.tl.umap(data, random_state=seed)
    return data


def figure(data: Any) -> Any:
    """The map twice: coloured by class and by laboratory."""
    import scanpy

    return scanpy.pl.umap(data, color=["label", "domain"], size=40, wspace=0.35, show=False, return_fig=True)


if __name__ == "__main__":
    common.start(main)
