"""Seconds, memory and disk of `cellfeat extract` from a hundred to a hundred thousand cells, and of a second time.

python -m benchmarks.speed.scaling --cells 100 --cells 1000 --cells 10000

Every size is a process of its own, with a cache of its own; its peak memory is what the system saw of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from benchmarks import common
from benchmarks.speed import measure
from benchmarks.speed.files import bytes_of, write_drawn
from cellfeat import CellfeatError

SIZES = (100, 1_000, 10_000)
SIDE = 224  # px of the files: as many as possible in a given time


class Finished(NamedTuple):
    """seconds of a process, and the most bytes of memory that it held."""

    seconds: float
    peak_bytes: int


def main(
    cells: Annotated[
        list[int] | None, typer.Option(help="How many; may be repeated; default: 100, 1000, 10000")
    ] = None,
    backbone: Annotated[str, typer.Option(help="Backbone")] = "lora-sam",
    json: Annotated[Path | None, typer.Option(help="Append a JSON line per size to this file")] = None,
) -> None:
    """Decode, encode, store and export of drawn cells by the command line; then the same again, from the cache."""
    rows = []
    for count in sorted(cells or SIZES):
        with tempfile.TemporaryDirectory() as folder:
            rows.append({"cells": count, "backbone": backbone, **one(count, backbone, Path(folder))})
        print(", ".join(f"{name} {value:.4g}" for name, value in rows[-1].items() if isinstance(value, float)))
    common.append_json(
        json, "scaling", [{**row, "load": measure.load(), "settings": measure.settings()} for row in rows]
    )
    headings = ("s", "images/s", "peak, MB", "on disk, kB per cell", "again, s")
    table = common.new_table(f"cellfeat extract, {backbone}", "cells", *headings, left=0)
    for row in rows:
        figures = (row["seconds"], row["images_per_second"], row["peak_bytes"] / 1e6, row["bytes_per_cell"] / 1e3)
        table.add_row(f"{row['cells']:,}", *(f"{figure:.4g}" for figure in figures), f"{row['again_seconds']:.2f}")
    common.show(table)


def one(count: int, backbone: str, folder: Path) -> dict[str, Any]:
    manifest = write_drawn(folder / "files", count, side=SIDE)
    time.sleep(3)  # files that were changed a moment ago are looked at twice
    cache = {"CELLFEAT_CACHE": str(folder / "cache")}
    options = ["--backbone", backbone, "--device", "cpu"]
    first = finished(["extract", str(manifest), "-o", str(folder / "1.parquet"), *options], cache)
    again = finished(["extract", str(manifest), "-o", str(folder / "2.parquet"), *options], cache)
    if (folder / "1.parquet").read_bytes() != (folder / "2.parquet").read_bytes():
        raise CellfeatError("the second time gave other features than the first")
    return {
        "seconds": first.seconds,
        "images_per_second": count / first.seconds,
        "peak_bytes": first.peak_bytes,
        "bytes_per_cell": bytes_of(folder / "cache" / "stores") / count,
        "again_seconds": again.seconds,
        "again_peak_bytes": again.peak_bytes,
    }


def finished(arguments: list[str], environment: dict[str, str]) -> Finished:
    """Run `cellfeat` with these arguments to its end."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "cellfeat", *arguments]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=errors, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise CellfeatError(f"{' '.join(arguments)} ended with: {errors.read().decode()[-400:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Finished(time.perf_counter() - began, usage.ru_maxrss * unit)


if __name__ == "__main__":
    common.start(main)
