"""Mean IoU of segmenters against the true masks of a manifest, by domain.

python benchmarks/masks.py cells.csv --segmenter lora-sam --segmenter otsu
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from cellfeat import Workplace, images, metrics

BATCH, SIZE = 16, 224


def main(
    manifest: Annotated[Path, typer.Argument(help="Manifest CSV; rows without mask_path are passed over")],
    segmenter: Annotated[list[str] | None, typer.Option(help="A segmenter's name; repeat for several")] = None,
    device: str = "auto",
) -> None:
    work = Workplace.on_terminal(device)
    context = work.context(1234, "masks")
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = sorted((row for row in csv.DictReader(file) if row.get("mask_path")), key=lambda row: row["id"])
    table = Table()
    for heading in ("segmenter", "domain", "cells", "mean IoU", "median", "below 0.5"):
        table.add_column(heading, justify="left" if heading in ("segmenter", "domain") else "right")
    for name in segmenter or ["lora-sam", "otsu"]:
        method = work.registry.create("segmenter", name, {}, context)
        found: dict[str, list[float]] = {}
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            frames = [images.resize(images.read_rgb(manifest.parent / row["path"]), SIZE) for row in batch]
            truth = [images.resize_mask(images.read_mask(manifest.parent / row["mask_path"]), SIZE) for row in batch]
            mask = method.segment(torch.from_numpy(np.stack(frames).transpose(0, 3, 1, 2).copy())).cpu().numpy()
            for row, value in zip(batch, metrics.intersection_over_union(mask, np.stack(truth)), strict=True):
                found.setdefault(row["domain"], []).append(float(value))
        for domain, values in sorted(found.items()):
            share = np.mean(np.array(values) < 0.5)
            figures = (f"{np.mean(values):.3f}", f"{np.median(values):.3f}", f"{100 * share:.1f} %")
            table.add_row(name, domain, str(len(values)), *figures)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
