"""Results folders of any size whose answers are drawn, not computed: for what reads records and predictions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cellfeat import __version__, metrics

CLASSES = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
SHARES = (0.05, 0.2, 0.2, 0.15, 0.4)


def write(
    folder: Path,
    cells: Sequence[int] = (300, 400, 5000),
    rows: int = 10,
    classifiers: Sequence[str] = ("svm-linear", "lr"),
    seeds: int = 3,
    adapt: str = "test",
    names: Sequence[str] | None = None,
    seed: int = 0,
) -> int:
    """Laboratories of so many cells, every ordered pair a transfer; gives the number of records.

    names: of the rows. Every row has a skill of its own, equal for its classifiers but for chance.
    """
    rng = np.random.default_rng(seed)
    laboratories = {f"lab-{chr(97 + i)}": rng.choice(len(CLASSES), n, p=SHARES) for i, n in enumerate(cells)}
    _write_cells(folder, laboratories)
    count = 0
    with (folder / "records.jsonl").open("w", encoding="utf-8") as file:
        for number, name in enumerate(names or [f"row-{i:03d}" for i in range(rows)]):
            tables = []
            for classifier in classifiers:
                for fit in range(seeds):
                    for source, target in permutations(laboratories, 2):
                        right = rng.random(len(laboratories[target])) < 0.9 - 0.6 * number / max(rows, 2)
                        label = laboratories[target]
                        answer = np.where(right, label, rng.integers(0, len(CLASSES), len(label)))
                        fit_of = {"row": name, "classifier": classifier, "seed": fit + 1}
                        record = _record(fit_of, source, target, label, answer, adapt)
                        record["predictions"] = {"file": f"predictions/{number}.parquet", "sha256": "0" * 64}
                        file.write(json.dumps(_with_null({**record, "id": f"{count:016x}"}), allow_nan=False) + "\n")
                        tables.append(_answers(record, answer))
                        count += 1
            (folder / "predictions").mkdir(exist_ok=True)
            pq.write_table(pa.concat_tables(tables), folder / record["predictions"]["file"], compression="zstd")
    return count


def _ids(laboratory: str, n: int) -> list[str]:
    return [f"{laboratory}-{i:05d}" for i in range(n)]


def _write_cells(folder: Path, laboratories: dict[str, np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    columns: dict[str, list[str]] = {"id": [], "domain": [], "label": [], "group": []}
    for name, label in laboratories.items():
        ids = _ids(name, len(label))
        columns["id"] += ids
        columns["domain"] += [name] * len(ids)
        columns["label"] += [CLASSES[i] for i in label]
        columns["group"] += ids
    pq.write_table(pa.table(columns), folder / "cells.parquet", compression="zstd")


def _with_null(value: Any) -> Any:
    """NaN, which JSON does not have, becomes null, as in true records."""
    if isinstance(value, dict):
        return {key: _with_null(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_null(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def _answers(record: dict[str, Any], answer: np.ndarray) -> pa.Table:
    n = len(answer)
    fit = {key: [record[key]] * n for key in ("protocol", "classifier", "seed", "source", "target")}
    ids, predicted = _ids(record["target"], n), [CLASSES[i] for i in answer]
    return pa.table({**fit, "fold": pa.array([0] * n, pa.int16()), "id": ids, "predicted": predicted})


def _record(
    fit: dict[str, Any], source: str, target: str, label: np.ndarray, answer: np.ndarray, adapt: str
) -> dict[str, Any]:
    """A record with true scores of these answers; what it says of its making is made up."""
    scored = metrics.evaluate(label, answer, len(CLASSES), replicates=20)
    counts = np.bincount(label, minlength=len(CLASSES))
    row = fit["row"]
    protocol = {"name": "cross-domain", "adapt": adapt, "folds": 5, "fitted_folds": 1, "seeds": [fit["seed"]]}
    return {
        "schema": 1,
        **{"source": source, "target": target, "held_out_folds": False, **fit},
        **{"adapt": adapt, "adapted_to": [target], "together": True, "shots": 0, "left_out": {}},
        **{"weights_saw": ["drawn cells"], "weights_saw_target": False, "cells": len(label)},
        "class_counts": dict(zip(CLASSES, counts.tolist(), strict=True)),
        "scores": scored.record(),
        "scored_classes": [CLASSES[i] for i in scored.classes],
        "recall": dict(zip(CLASSES, metrics.recalls(np.array(scored.confusion)).tolist(), strict=True)),
        "calibration": {"expected_error": 0.1, "brier": 0.3, "log_loss": 0.9},
        "majority": metrics.majority(label, len(CLASSES)),
        "ceiling": metrics.ceiling(label, np.arange(len(CLASSES)), len(CLASSES)),
        "classes": list(CLASSES),
        "confusion": scored.confusion,
        **{"seconds": 10.0, "peak_memory_mb": 1000, "peak_gpu_memory_mb": None},
        "recipe": {"dataset": {"manifest": "m.csv"}, "align": [{"name": row}], "protocol": protocol},
        "recipe_digest": f"{hash(row) & 0xFFFFFFFF:064x}",
        "dataset": {"manifest": "m.csv", "digest": "0" * 64, "cells": len(label), "skipped": 0, "dropped": {}},
        "backbone": {"name": "colour", "weights_sha256": None, "segmenter": None, "used": True},
        "encoding": {"precision": "float32"},
        **{"uses_target": adapt != "none", "uses_labels": False},
        "plugins": {"backbone:colour": f"cellfeat {__version__}"},
        **{"versions": {"cellfeat": __version__}, "hardware": {"cpu": "none", "device": "cpu"}},
        **{"created": "2026-01-01T00:00:00+00:00", "suite": "made-up", "protocol": "transfers"},
        "address": f"{row}/transfers/{fit['classifier']}/{fit['seed']}",
    }
