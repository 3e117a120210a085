"""Drawn image files for measuring, and the bytes of a folder."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import common
from cellfeat import synthetic

SIDE = 360  # px, about that of published single-cell images
DRAWINGS = 50  # different cells; every file of one is shifted and lit differently, since drawing takes time


def write_drawn(folder: Path, count: int, seed: int = 0, side: int = SIDE) -> Path:
    """A manifest of `count` JPEG files of drawn cells, no two alike; labels by class."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng((common.SEED, seed))
    kinds = [synthetic.CLASSES[place % len(synthetic.CLASSES)] for place in range(min(count, DRAWINGS))]
    drawings = [synthetic.draw_cell(kind, "lab-a", rng, size=side).image for kind in kinds]
    with (folder / "cells.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "label", "domain"])
        for number in range(count):
            place = number % len(drawings)
            image = np.roll(drawings[place], rng.integers(-20, 21, 2), axis=(0, 1))
            image = np.clip(image * rng.uniform(0.9, 1.1, 3), 0, 255).astype(np.uint8)
            name = f"{seed}-{number:06}.jpg"
            Image.fromarray(image).save(folder / name, quality=95)
            writer.writerow([name, name, kinds[place], f"lab-{number % 2}"])
    return folder / "cells.csv"


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
