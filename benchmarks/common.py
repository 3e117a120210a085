"""What several benchmark programs share: cells with masks, intervals, JSON lines, one line per mistake of the user."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cellfeat import CellfeatError, Workplace, images, metrics

SIZE, BATCH = 224, 16  # px of every frame that is judged; images at a time
SEED = 1234
REPLICATES = 2000
NUCLEUS = 255  # level of a mask whose cytoplasm has another one


class Row(NamedTuple):
    """One image of a manifest; paths as they can be opened."""

    id: str
    domain: str
    path: Path
    mask_path: Path | None
    label: str = ""


class Cell(NamedTuple):
    """image (S, S, 3) uint8 RGB, cell (S, S) bool, nucleus the same or None where the mask does not tell it."""

    image: np.ndarray
    cell: np.ndarray
    nucleus: np.ndarray | None


def start(main: Callable[..., None]) -> None:
    """Run a program: a mistake of its user is one line on stderr and exit status 2, as in `cellfeat`."""
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(main)
    try:
        app()
    except (CellfeatError, OSError) as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(' '.join(str(error).split()))}", soft_wrap=True)
        sys.exit(2)


def read_rows(
    manifest: Path, domains: Sequence[str] | None = None, limit: int | None = None, masked: bool = True
) -> list[Row]:
    """The rows of a manifest by id, of these domains, and `limit` of each, evenly spaced; `masked`: with a mask only.

    Raises: CellfeatError where a column is missing, a domain is not there, or no row is left.
    """
    with manifest.open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    missing = {"id", "domain", "path"} - set(found[0] if found else ())
    if missing:
        raise CellfeatError(f"{manifest} has no column {', '.join(sorted(missing))}; make it by `cellfeat data index`")
    rows = [_row(manifest.parent, values) for values in sorted(found, key=lambda values: values["id"])]
    rows = [row for row in rows if row.mask_path or not masked]
    names = sorted({row.domain for row in rows})
    for name in domains or []:
        if name not in names:
            which = " with masks" if masked else ""
            raise CellfeatError(f"{manifest} has no domain {name!r}{which}; it has: {', '.join(names) or 'none'}")
    kept = [row for name in domains or names for row in _spaced([row for row in rows if row.domain == name], limit)]
    if not kept:
        lacks = "no row has a mask_path; there is nothing to compare with" if masked else "it has no row"
        raise CellfeatError(f"{manifest}: {lacks}")
    return kept


def read_ids(path: Path | None) -> frozenset[str]:
    """Ids, one to a line; none without a file."""
    if path is None:
        return frozenset()
    ids = frozenset(line.strip() for line in path.read_text(encoding="utf-8").splitlines()) - {""}
    if not ids:
        raise CellfeatError(f"{path} names no id")
    return ids


def _row(folder: Path, values: Mapping[str, str]) -> Row:
    mask = values.get("mask_path")
    return Row(
        values["id"],
        values["domain"],
        folder / values["path"],
        folder / mask if mask else None,
        values.get("label") or "",
    )


def _spaced(rows: list[Row], limit: int | None) -> list[Row]:
    if limit is None or limit >= len(rows):
        return rows
    return [rows[place] for place in np.linspace(0, len(rows) - 1, limit).round().astype(int)]


def read_cell(row: Row, size: int | None = SIZE) -> Cell:
    """A row's image and masks, resized to a square of `size` px, or as they are."""
    image = images.read_rgb(row.path)
    if row.mask_path is None:
        raise CellfeatError(f"{row.id} has no mask_path")
    cell, nucleus = images.read_mask(row.mask_path), _nucleus(row.mask_path)
    if cell.shape != image.shape[:2]:
        raise CellfeatError(f"{row.mask_path} is {cell.shape}, its image {image.shape[:2]} px; they must be alike")
    if size is None:
        return Cell(image, cell, nucleus)
    small = None if nucleus is None else images.resize_mask(nucleus, size)
    return Cell(images.resize(image, size), images.resize_mask(cell, size), small)


def _nucleus(path: Path) -> np.ndarray | None:
    """The pixels of level 255, where another level tells the cytoplasm; a plain mask of 0 and 255 tells no nucleus."""
    with Image.open(io.BytesIO(images.read_bytes(path))) as file:
        levels = np.asarray(file)
    if levels.ndim != 2 or levels.dtype != np.uint8 or not {NUCLEUS} < set(np.unique(levels[levels > 0]).tolist()):
        return None
    return levels == NUCLEUS


def batches(items: Sequence[Any], size: int = BATCH) -> Iterator[Sequence[Any]]:
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]


def tensor(frames: Sequence[np.ndarray]) -> Any:
    """(S, S, 3) uint8 images as one (B, 3, S, S) torch tensor."""
    import torch

    return torch.from_numpy(np.stack(frames).transpose(0, 3, 1, 2).copy())


def make_segmenter(name: str, params: Mapping[str, Any], work: Workplace) -> Any:
    return work.registry.create("segmenter", name, dict(params), work.context(SEED, "benchmarks"))


def lora_sam_params(weights: str | None) -> dict[str, str]:
    """Parameters of `lora-sam` for weights by name or file; none for its own default."""
    if weights is None:
        return {}
    return {"weights": str(Path(weights).resolve()) if Path(weights).is_file() else weights}


def interval(values: Sequence[float], seed: int = SEED) -> tuple[float, float]:
    """95 % percentile bootstrap of the mean over images."""
    array = np.asarray(values, float)
    drawn = np.random.default_rng(seed).integers(0, len(array), (REPLICATES, len(array)))
    low, high = np.quantile(array[drawn].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def spread(values: Sequence[float]) -> float:
    """Standard deviation of a few draws or seeds (n - 1); 0 of a single one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def new_table(title: str, *headings: str, left: int = 1) -> Table:
    """An empty table; all but the first `left` columns hold figures."""
    table = Table(title=title, title_justify="left")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place < left else "right")
    return table


def show(table: Table) -> None:
    # Without a terminal Rich assumes 80 columns, which would break the rows of a log.
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def append_json(path: Path | None, benchmark: str, records: Sequence[Mapping[str, Any]]) -> None:
    """Add one JSON object per line, each with the versions and the machine; nothing where no file was asked for."""
    if path is None:
        return
    import torch

    packages = ("cellfeat", "torch", "numpy", "scikit-learn", "opencv-python-headless", "segment-anything")
    about = {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "hardware": {"cpu": cpu_model(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps({"benchmark": benchmark, **record, **about}, allow_nan=False) + "\n")


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def figures(values: Sequence[float]) -> dict[str, float]:
    """Of the IoU of every cell: their number, mean with its 95 % interval, median, share below a half."""
    low, high = interval(list(values))
    below = float(np.mean(np.array(values) < 0.5))
    return {
        "cells": len(values),
        "mean": float(np.mean(values)),
        "low": low,
        "high": high,
        "median": float(np.median(values)),
        "below_half": below,
    }


def cell_ious(method: Any, cells: Sequence[Cell]) -> list[float]:
    """IoU of a segmenter with the whole cell, of cells in frames of one size."""
    found: list[float] = []
    for batch in batches(cells):
        masks = method.segment(tensor([cell.image for cell in batch])).cpu().numpy()
        found += metrics.intersection_over_union(masks, np.stack([cell.cell for cell in batch])).tolist()
    return found
