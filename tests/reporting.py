"""Small runs for the tests of observations and reports."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from cellfeat import recipe
from cellfeat.console import SilentReporter
from cellfeat.registry import Registry, installed
from cellfeat.run import run
from cellfeat.transfers import Scored, Transfer
from cellfeat.workplace import Workplace


def small_run(
    manifest: Path, out: Path, align: Any = "per-domain-z", registry: Registry | None = None, **asked
) -> Path:
    """A run of `colour` and logistic regression in 2 folds. asked: `protocol`, `classifier`, `pictures`, `skip_bad`."""
    classifier = asked.get("classifier", "lr")
    content = recipe.parse(
        {
            "dataset": {"manifest": str(manifest)},
            "backbone": {"name": "colour", "bins": 3},
            "align": {"name": align},
            "protocol": {"folds": 2, **asked.get("protocol", {})},
            **({"classifier": {"name": classifier}} if classifier else {}),
        }
    )
    work = Workplace(registry or installed(), SilentReporter(), device="cpu", skip_bad=asked.get("skip_bad", False))
    return run(content, out, work, asked.get("pictures", True))[0]


def rewritten(manifest: Path, out: Path, **values: Any) -> Path:
    """The manifest with columns changed: {column: function of a row}; images stay where they are."""
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["path"] = str((manifest.parent / row["path"]).resolve())
        if row.get("mask_path"):
            row["mask_path"] = str((manifest.parent / row["mask_path"]).resolve())
        row |= {name: str(change(row)) for name, change in values.items()}
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, sorted({name for row in rows for name in row}))
        writer.writeheader()
        writer.writerows(rows)
    return out


def drawn_texts(text: str) -> list[str]:
    return [element.text for element in ElementTree.fromstring(text).iter() if element.text and element.text.strip()]


def record(matrix, classes=("a", "b"), **changes):
    matrix = np.array(matrix, float)
    score = {"mean": 0.75, "low": 0.5, "high": 1.0}
    return {
        "source": "s",
        "target": "t",
        "seed": 1,
        "cells": int(matrix.sum()),
        "classes": list(classes),
        "class_counts": {name: int(n) for name, n in zip(classes, matrix.sum(1), strict=True) if n},
        "confusion": matrix.tolist(),
        "scores": {"balanced_accuracy": score},
        "majority": {"balanced_accuracy": 0.5},
        "calibration": {"expected_error": 0.123},
        **changes,
    }


def transfer(proba, label):
    proba, label = np.array(proba, float), np.array(label)
    hit = proba.argmax(1) == label
    ids = np.array([f"{i:03d}" for i in range(len(label))])
    return Transfer("s", "t", ids, label, proba, hit.astype(float), proba.max(1), hit, 1)


ANSWERS = transfer([[0.9, 0.1]] * 10 + [[0.2, 0.8]] * 10, [0] * 10 + [1] * 10)
SCORED = Scored("s → t", [record([[8, 2], [1, 9]])], ANSWERS)
