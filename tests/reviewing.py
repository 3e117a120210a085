"""Tables to be reviewed: a smear's folder with drawn thumbnails, made in no time."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("neutrophil", "lymphocyte", "monocyte")
HEADER = ["id", "patient", "field", "x1", "y1", "x2", "y2", "crop", "path", "label", "probability", "set", "novelty"]
HEADER += ["novel", "touching", "cut"]


def disc(number: int, side: int = 48) -> np.ndarray:
    """(side, side, 3) uint8: a dark disc on pink, of a size and colour of its own."""
    place = np.hypot(*(np.indices((side, side)) - side / 2))
    image = np.full((side, side, 3), (238, 205, 214), np.uint8)
    image[place < 10 + number % 9] = (90 + 9 * (number % 7), 50, 120 + 12 * (number % 5))
    return image


def smear_folder(folder: Path, cells: int, classes: tuple[str, ...] = CLASSES, **first: Any) -> Path:
    """`cells.csv` and crops of so many cells, of each class in turn, every seventh without an answer.

    first: other values of the first line.
    """
    rng = np.random.default_rng(7)
    lines = []
    (folder / "crops" / "slide").mkdir(parents=True)
    for number in range(cells):
        name = f"crops/slide/{number:04d}.png"
        if number < 20:
            Image.fromarray(disc(number)).save(folder / name)
        else:  # the same few cells many times
            (folder / name).hardlink_to(folder / f"crops/slide/{number % 20:04d}.png")
        lines.append(_line(number, name, classes, rng) | (first if number == 0 else {}))
    with (folder / "cells.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    return folder


def _line(number: int, crop: str, classes: tuple[str, ...], rng: np.random.Generator) -> dict[str, Any]:
    sure = 0.34 + 0.65 * rng.random()
    best = number % len(classes)
    chances = {f"p_{name}": (1 - sure) / max(1, len(classes) - 1) for name in classes}
    chances[f"p_{classes[best]}"] = sure
    values = [f"slide/{number:04d}", "p1", "slide", 0, 0, 48, 48, crop, crop]
    values += ["" if number % 7 == 6 else classes[best], f"{sure:.6g}", "|".join(classes[:2]) if sure < 0.6 else ""]
    values += ["0.1", "yes" if number % 11 == 5 else "no", "yes" if number % 13 == 1 else "no", "no"]
    return dict(zip(HEADER, values, strict=True)) | {name: f"{value:.6g}" for name, value in chances.items()}


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
