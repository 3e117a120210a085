"""JSON lines of this folder's programs to Markdown tables, and a plot of the scaling.

python -m benchmarks.speed.table results.jsonl --plot speed.png
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import common
from cellfeat import CellfeatError

RATIOS = ("forward", "end-to-end", "training", "speed-classifiers")  # benchmarks of ways against a plain one
SAID = ("weights", "images", "cells", "folds", "backbone", "engine")  # what sets records of a benchmark apart


def main(
    results: Annotated[list[Path], typer.Argument(metavar="JSONL...", help="Files that --json wrote")],
    plot: Annotated[Path | None, typer.Option(help="Draw seconds and memory by cells into this file")] = None,
) -> None:
    """Tables to standard output, one for every benchmark."""
    records = [json.loads(line) for path in results for line in path.read_text(encoding="utf-8").splitlines()]
    if not records:
        raise CellfeatError(f"no record in {', '.join(map(str, results))}; measure first, with --json")
    for name in RATIOS:
        chosen = [record for record in records if record["benchmark"] == name]
        if chosen:
            print(markdown(("stage", "of", "way", "items/s", "× plain", "range", "of peak"), map(ratio_row, chosen)))
    scaling = [record for record in records if record["benchmark"] == "scaling"]
    if scaling:
        headings = ("backbone", "cells", "s", "images/s", "peak, MB", "kB per cell", "again, s")
        print(markdown(headings, map(scaling_row, scaling)))
        if plot:
            draw(plot, scaling)
    engines = [record for record in records if record["benchmark"] == "ray"]
    if engines:
        headings = ("engine", "weights", "images", "images/s", "× local", "first images after, s", "equal values")
        print(markdown(headings, map(engine_row, engines)))
    print(machine(records))


def ratio_row(record: dict[str, Any]) -> list[str]:
    low, high = record["ratio_range"]
    peak = record.get("of_peak")
    said = ", ".join(
        f"{record[name]:,}" if isinstance(record[name], int) else str(record[name]) for name in SAID if name in record
    )
    return [
        record["stage"],
        said,
        record["way"],
        f"{record['items_per_second']:.3g}",
        f"{record['ratio']:.2f}",
        f"{low:.2f}–{high:.2f}",
        "" if peak is None else f"{100 * peak:.0f} %",
    ]


def scaling_row(record: dict[str, Any]) -> list[str]:
    figures = (
        record["seconds"],
        record["images_per_second"],
        record["peak_bytes"] / 1e6,
        record["bytes_per_cell"] / 1e3,
    )
    told = [f"{figure:.3g}" if figure < 1000 else f"{figure:,.0f}" for figure in figures]
    return [record["backbone"], f"{record['cells']:,}", *told, f"{record['again_seconds']:.1f}"]


def engine_row(record: dict[str, Any]) -> list[str]:
    return [
        record["engine"],
        record["weights"],
        f"{record['images']:,}",
        f"{record['images_per_second']:.3g}",
        f"{record['of_local']:.2f}",
        f"{record['seconds_to_first']:.1f}",
        f"{100 * record['equal_values']:.6g} %",
    ]


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows), ""])


def machine(records: Sequence[dict[str, Any]]) -> str:
    """Each processor with its versions, once."""
    told = {
        f"{one['hardware']['cpu']}, {one['hardware']['cores']} cores, {one['hardware']['threads']} threads; "
        + ", ".join(f"{name} {value}" for name, value in one["versions"].items())
        for one in records
    }
    return "\n".join(sorted(told))


def draw(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Images per second, and peak memory, by the number of cells."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for backbone in sorted({record["backbone"] for record in records}):
        own = sorted(
            (record for record in records if record["backbone"] == backbone), key=lambda record: record["cells"]
        )
        cells = [record["cells"] for record in own]
        left.plot(cells, [record["images_per_second"] for record in own], "o-", label=backbone)
        right.plot(cells, [record["peak_bytes"] / 1e6 for record in own], "o-", label=backbone)
    for axes, title in ((left, "images/s, start included"), (right, "peak memory, MB")):
        axes.set(xscale="log", xlabel="cells", title=title, ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    common.start(main)
