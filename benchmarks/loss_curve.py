"""The training of a suite's row as its records tell it: losses by epoch as a picture, and how much the last ones fell.

python benchmarks/loss_curve.py benchmarks/results/laboratories dorl --out docs/dorl-loss.png
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import common
import typer

from cellfeat import CellfeatError, pictures


def main(
    results: Annotated[Path, typer.Argument(help="Results folder of `cellfeat bench run`")],
    row: Annotated[str, typer.Argument(help="Row of the suite")],
    out: Annotated[Path, typer.Option(help="PNG to write")],
) -> None:
    lines = (results / "records.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if record["row"] == row and record.get("histories")]
    if not records:
        raise CellfeatError(f"{results} has no record of a row {row!r} that tells of a training")
    record = records[0]
    ((method, history),) = record["histories"].items()
    title = f"{row}: {method}, seed {record['seed']}, {record['dataset']['cells']} cells"
    pictures.loss_curves(out, history, title)
    table = common.new_table(title, "term", "first epoch", "last but one", "last", "last fall")
    for name, values in history.items():
        table.add_row(name, *_cells(values))
    common.show(table)


def _cells(values: list[Any]) -> list[str]:
    before = values[-2] if len(values) > 1 else values[-1]
    fall = (before - values[-1]) / abs(before) if before else 0.0
    return [f"{values[0]:.5f}", f"{before:.5f}", f"{values[-1]:.5f}", f"{100 * fall:.2f} %"]


if __name__ == "__main__":
    common.start(main)
