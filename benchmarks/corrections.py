"""What a few corrected cells of a new laboratory are worth: accuracy on its other cells, by how many were corrected.

python benchmarks/corrections.py /data/manifest.csv --source acevedo20 --target tecom --target bccd

The run is fitted on the source alone. Cells to be corrected are drawn from the target by chance, and given their true
label; the run is fitted again with them, as `cellfeat predict --labelled` does, and scored on the target's other cells.
"""

from __future__ import annotations

import csv
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import common
import feature_map
import numpy as np
import typer

import cellfeat
from cellfeat import api, metrics


def main(
    manifest: Annotated[Path, typer.Argument(help="Manifest of several laboratories")],
    source: Annotated[str, typer.Option(help="The laboratory whose labels are known")] = "acevedo20",
    target: Annotated[list[str] | None, typer.Option(help="A new laboratory; repeat. Default: every other")] = None,
    align: Annotated[list[str] | None, typer.Option(help="Default: none and per-domain-z; repeat")] = None,
    clf: Annotated[str, typer.Option(help="Classifier")] = "svm-linear",
    corrected: Annotated[
        list[int] | None, typer.Option(help="Corrected cells; default: 0 10 25 50 100; repeat")
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="Draws of the corrected cells")] = 5,
    per_domain: Annotated[int, typer.Option(min=5, help="At most so many cells of each laboratory")] = 600,
    seed: Annotated[int, typer.Option(help="Draws cells, and those that are corrected")] = common.SEED,
    json: Annotated[Path | None, typer.Option(help="Append a JSON line per figure to this file")] = None,
) -> None:
    """Accuracy and balanced accuracy on the cells that were not corrected, mean and spread over draws."""
    records: list[dict[str, Any]] = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        feature_map.write_drawn(manifest, folder / "cells.csv", per_domain, seed)
        with (folder / "cells.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        targets = target or sorted({row["domain"] for row in rows} - {source})
        for method in align or ["none", "per-domain-z"]:
            run, sets = folder / method, [f"dataset.domains=[{source}]"]
            api.run(
                folder / "cells.csv", labels="five-class", align=method, clf=clf, sets=sets, out=run, pictures=False
            )
            for name in targets:
                cells = _cells(rows, name, run)
                for count in corrected or [0, 10, 25, 50, 100]:
                    found = [_scores(run, cells, count, seed + draw, folder) for draw in range(draws if count else 1)]
                    about = {"source": source, "target": name, "align": method, "clf": clf, "corrected": count}
                    records.append({**about, "cells": len(cells), "seed": seed, **_summary(found)})
    common.append_json(json, "corrections", records)
    _show(records)


def _cells(rows: list[dict[str, str]], domain: str, run: Path) -> list[dict[str, str]]:
    """The target's cells of classes that the run was taught, labelled as the run names them."""
    known = set(cellfeat.load(run).classes_)
    named = [{**row, "label": row["label"].partition("_")[0]} for row in rows if row["domain"] == domain]
    return [row for row in named if row["label"] in known]


def _scores(run: Path, cells: list[dict[str, str]], count: int, seed: int, folder: Path) -> tuple[float, float]:
    """Accuracy and balanced accuracy on the cells that were not corrected."""
    shown = set(np.random.default_rng(seed).choice(len(cells), count, replace=False).tolist())
    labelled = folder / "corrected.csv"
    with labelled.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "path", "label", "domain"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(cells[row] for row in sorted(shown))
    rest = [row for number, row in enumerate(cells) if number not in shown]
    paths, domain = [row["path"] for row in rest], cells[0]["domain"]
    fitted = cellfeat.load(run).refit(paths, domain=domain, labelled=labelled if count else None)
    classes = list(fitted.classes_)
    truth = np.array([classes.index(row["label"]) for row in rest])
    answers = np.array([classes.index(one) for one in fitted.predict(paths, domain=domain)])
    right = metrics.confusion(truth, answers, len(classes)).diagonal() / np.bincount(
        truth, minlength=len(classes)
    ).clip(1)
    return float(np.mean(answers == truth)), float(right[np.unique(truth)].mean())


def _summary(found: list[tuple[float, float]]) -> dict[str, float]:
    accuracy, balanced = (list(one) for one in zip(*found, strict=True))
    return {
        "accuracy": float(np.mean(accuracy)),
        "accuracy_spread": common.spread(accuracy),
        "balanced_accuracy": float(np.mean(balanced)),
        "balanced_accuracy_spread": common.spread(balanced),
    }


def _show(records: list[dict[str, Any]]) -> None:
    headings = ("corrected", "accuracy, %", "balanced, %")
    table = common.new_table("Cells that were not corrected", "target", "align", *headings, left=2)
    for one in records:
        figures = [
            f"{100 * one[key]:.1f} ± {100 * one[f'{key}_spread']:.1f}" for key in ("accuracy", "balanced_accuracy")
        ]
        table.add_row(one["target"], one["align"], str(one["corrected"]), *figures)
    common.show(table)


if __name__ == "__main__":
    common.start(main)
