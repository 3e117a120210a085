"""The built-in demo set: synthetic cells of three laboratories that do not exist."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from cellfeat.artifacts import atomic_folder
from cellfeat.datasets import Dataset, read_manifest
from cellfeat.errors import CellfeatError
from cellfeat.manifest import write_manifest
from cellfeat.scan import ProgressBar
from cellfeat.slots import Progress

PER_CLASS = 24
SEED = 1234

SMEAR_FRAMES = (5, 4)  # width and height of a drawn smear, in frames around one cell
SMEAR_CELLS, SMEAR_TOUCHING = 12, 0.2  # white cells of a smear; share laid against another

SMEARS = """\
smears/  whole fields at the scale of the laboratory's cells, PNG, RGB, and cells.csv with every white cell in them:
         field, x1, y1, x2, y2 (px), label, touching, cut
"""
README = """\
Synthetic white blood cells, drawn by cellfeat. They are no photographs, and the laboratories do not exist.

images/  one cell each, PNG, RGB
masks/   0 background, 128 cytoplasm, 255 nucleus
manifest.csv  id, path, label, domain, mask_path, width, height
{smears}
Drawn with: cellfeat data demo DIR --per-class {per_class} --seed {seed}{options}
A score on these images says that the program works, and nothing about real blood.
"""


def write_demo(
    folder: Path | str,
    per_class: int = PER_CLASS,
    size: int | None = None,
    seed: int = SEED,
    progress: ProgressBar | None = None,
    smears: int = 0,
) -> Path:
    """Draw `per_class` cells of each of five classes in each laboratory into a new folder; gives its manifest.

    size: side in px; None leaves each laboratory its own. The same arguments give the same pixels: each cell has a
    random stream of its own, so a larger set begins with the smaller one. smears: photographs of whole fields for each
    laboratory in `smears/`, at the scale of its cells, and `smears/cells.csv` with the white cells in them.

    Raises: CellfeatError when the folder exists, for a size below 32 px, no cells at all, or fewer than 0 smears.
    """
    from PIL import Image

    if per_class < 1 or (size is not None and size < 32):
        raise CellfeatError(f"{per_class} cells per class of {size} px cannot be drawn; at least 1, of at least 32 px")
    if smears < 0:
        raise CellfeatError(f"{smears} smears per laboratory cannot be drawn; 0 or more")
    show = progress or (lambda total, text: nullcontext())
    with atomic_folder(Path(folder)) as partial:
        (partial / "images").mkdir()
        (partial / "masks").mkdir()
        rows: list[dict[str, str | Path]] = []
        with show(_count(per_class, smears), "drawing the demo set") as bar:
            for key, laboratory, label, image, mask in _cells(per_class, size, seed):
                row: dict[str, str | Path] = {"id": key, "path": partial / "images" / f"{key}.png", "label": label}
                row |= {"domain": laboratory, "mask_path": partial / "masks" / f"{key}.png"}
                row |= {"width": str(image.shape[1]), "height": str(image.shape[0])}
                Image.fromarray(image).save(row["path"])
                Image.fromarray(mask).save(row["mask_path"])
                rows.append(row)
                if bar is not None:
                    bar.advance(1)
            if smears:
                _draw_smears(partial / "smears", smears, size, seed, bar)
        write_manifest(partial / "manifest.csv", rows)
        options = "".join(f" --{name} {value}" for name, value in (("size", size), ("smears", smears)) if value)
        text = README.format(per_class=per_class, seed=seed, options=options, smears=SMEARS if smears else "")
        (partial / "README.txt").write_text(text, encoding="utf-8")
    return Path(folder) / "manifest.csv"


def demo_manifest(cache: Path, progress: ProgressBar | None = None) -> Path:
    """The manifest of the demo set inside `cache`, drawn on the first call.

    The folder is named after the drawing program, so that another version of it draws its own set.
    """
    from cellfeat import synthetic, synthetic_cells, synthetic_laboratories, synthetic_types

    modules = (synthetic, synthetic_cells, synthetic_laboratories, synthetic_types)
    program = b"".join(Path(str(module.__file__)).read_bytes() for module in modules)
    folder = Path(cache) / f"{PER_CLASS}-per-class-seed-{SEED}-{hashlib.sha256(program).hexdigest()[:12]}"
    manifest = folder / "manifest.csv"
    if not manifest.is_file():
        try:
            write_demo(folder, progress=progress)
        except (CellfeatError, OSError):
            if not manifest.is_file():  # otherwise another process drew the same set in the meantime
                raise
    return manifest


def demo_dataset(cache: Path, progress: ProgressBar | None = None) -> Dataset:
    """The demo set of `demo_manifest`, read."""
    return read_manifest(demo_manifest(cache, progress))


def _count(per_class: int, smears: int) -> int:
    from cellfeat.synthetic import CLASSES, LABORATORIES

    return (per_class * len(CLASSES) + smears) * len(LABORATORIES)


def _cells(per_class: int, size: int | None, seed: int) -> Iterator[tuple[str, str, str, np.ndarray, np.ndarray]]:
    """(id, laboratory, label, image (H, W, 3) uint8 RGB, mask (H, W) uint8) one after the other."""
    from cellfeat.synthetic import CLASSES, LABORATORIES, draw_cell

    for lab_number, laboratory in enumerate(LABORATORIES):
        for class_number, label in enumerate(CLASSES):
            for number in range(per_class):
                rng = np.random.default_rng([seed, lab_number, class_number, number])
                image, mask, _ = draw_cell(label, laboratory, rng, size)
                yield f"{laboratory}_{label}_{number + 1:04d}", laboratory, label, image, mask


def _draw_smears(folder: Path, count: int, size: int | None, seed: int, bar: Progress | None) -> None:
    """So many smears of every laboratory into a new folder, with the table of their white cells."""
    from PIL import Image

    from cellfeat.synthetic import CLASSES, LABORATORIES
    from cellfeat.synthetic_smears import draw_smear

    folder.mkdir()
    with (folder / "cells.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["field", "x1", "y1", "x2", "y2", "label", "touching", "cut"])
        for lab_number, (name, laboratory) in enumerate(LABORATORIES.items()):
            frame = size or laboratory.image_size
            field = (SMEAR_FRAMES[0] * frame, SMEAR_FRAMES[1] * frame)
            for number in range(count):
                # the place after the last class, so that no cell has the same stream
                rng = np.random.default_rng([seed, lab_number, len(CLASSES), number])
                diameter = frame * laboratory.cell_share
                smear = draw_smear(laboratory, rng, field, SMEAR_CELLS, diameter, SMEAR_TOUCHING)
                Image.fromarray(smear.image).save(folder / f"{name}-{number + 1}.png")
                for box, label, *flags in zip(smear.boxes, smear.labels, smear.touching, smear.cut, strict=True):
                    said = ["yes" if flag else "no" for flag in flags]
                    table.writerow([f"{name}-{number + 1}", *box.astype(int).tolist(), label, *said])
                if bar is not None:
                    bar.advance(1)
