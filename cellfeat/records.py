"""Results as files: one JSON line per source, target and seed; every prediction in a Parquet table beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cellfeat import metrics
from cellfeat.artifacts import atomic_file
from cellfeat.errors import CellfeatError
from cellfeat.results import Result
from cellfeat.scoring import calibration, score
from cellfeat.store import QUALITY
from cellfeat.types import Cells

SCHEMA = 1


def of(result: Result, cells: Cells, classes: tuple[str, ...], about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The records of one result: the source by its held-out folds, then each target. `about` stands in all."""
    records = []
    for target, scored in score(result, cells, len(classes)).items():
        inside = target == result.split.name
        rows = result.predicted_rows(target)
        counts = np.bincount(cells.label[rows], minlength=len(classes))
        recall = metrics.recalls(np.array(scored.confusion))
        learnt = np.unique(cells.label[np.concatenate([result.split.rows, *result.shown_for(target)])])
        records.append(
            _json(
                {
                    "schema": SCHEMA,
                    "source": result.split.name,
                    "target": target,
                    "held_out_folds": inside,
                    "seed": result.seed,
                    "adapt": result.adapt,
                    "adapted_to": result.adapted_to[target],
                    "together": result.together,
                    "shots": len(result.split.shown.get(target, ())) if result.uses_shown else 0,
                    "weights_saw": result.weights_saw,
                    "weights_saw_target": saw_target(result.weights_saw, target.split("+") if inside else [target]),
                    "cells": len(rows),
                    "class_counts": {classes[i]: int(n) for i, n in enumerate(counts) if n},
                    "left_out": {classes[i]: n for i, n in result.split.left_out.items()},
                    "scores": scored.record(),
                    "scored_classes": [classes[i] for i in scored.classes],
                    "recall": {classes[i]: float(recall[i]) for i, n in enumerate(counts) if n},
                    "calibration": calibration(result.predictions(target), cells),
                    "majority": metrics.majority(cells.label[rows], len(classes)),
                    "ceiling": metrics.ceiling(cells.label[rows], learnt, len(classes)),
                    "classes": list(classes),
                    "confusion": scored.confusion,
                    "peak_memory_mb": result.peak.memory and round(result.peak.memory),
                    "peak_gpu_memory_mb": result.peak.gpu and round(result.peak.gpu),
                    **({"histories": result.histories} if result.histories else {}),
                    "seconds": round(result.seconds, 3),
                    **about,
                }
            )
        )
    return records


def saw_target(weights_saw: Sequence[str] | None, domains: Sequence[str]) -> bool | None:
    """Whether pretrained weights have seen any of these domains; None where nobody knows what they saw.

    An entry is a data set's name, with a remark in brackets after it: "acevedo20 (images without labels)". Names are
    compared by their letters and digits: Acevedo-20 is acevedo20.
    """
    if weights_saw is None:
        return None
    seen = {_plain(entry.partition(" (")[0]) for entry in weights_saw}
    return any(_plain(domain) in seen for domain in domains)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def append(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Add JSON lines to a file, written whole and synced; a last line that a kill cut off is taken away."""
    import os

    _mend(Path(path))
    with Path(path).open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records)
        file.flush()
        os.fsync(file.fileno())


def _mend(path: Path) -> None:
    last = path.read_bytes().rpartition(b"\n")[2] if path.is_file() else b""
    if last:
        try:
            json.loads(last)
            path.write_bytes(path.read_bytes() + b"\n")  # whole, but for an editor that left out the line's end
        except ValueError:
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size - len(last))


def _json(value: Any) -> Any:
    """What JSON can hold: NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a file; a line that is none is refused by its number."""
    records = []
    for number, record in read_lines(path):
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            raise CellfeatError(f"{path}, line {number}: no record of schema {SCHEMA}")
        records.append(record)
    return records


def read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Number and content of every JSON line. A last line without its end is being written, or was cut off by a kill: it
    is not there."""
    text = Path(path).read_text(encoding="utf-8")
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines) and not text.endswith("\n"):
                return
            raise CellfeatError(f"{path}, line {number}: not JSON ({error.msg})") from None


def write_predictions(path: Path, results: Iterable[Result], cells: Cells, classes: tuple[str, ...]) -> None:
    """Parquet, a row per seed, source, target, fold and cell: id, label, predicted, and a probability per class."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = np.array(classes)
    tables = []
    for result in results:
        for target, predictions in {result.split.name: result.inside, **result.targets}.items():
            for one in predictions:
                columns = {
                    "seed": np.full(len(one.rows), result.seed),
                    "source": np.full(len(one.rows), result.split.name),
                    "target": np.full(len(one.rows), target),
                    "fold": np.full(len(one.rows), one.fold),
                    "id": cells.id[one.rows],
                    "label": names[cells.label[one.rows]],
                    "predicted": names[one.classes],
                    **({"mask_quality": cells.read(QUALITY, one.rows)} if QUALITY in cells.columns else {}),
                }
                proba = {f"p_{name}": one.proba[:, i].astype(np.float32) for i, name in enumerate(classes)}
                tables.append(pa.table({key: pa.array(values) for key, values in {**columns, **proba}.items()}))
    if tables:
        with atomic_file(path) as partial:
            pq.write_table(pa.concat_tables(tables), partial, compression="zstd")
