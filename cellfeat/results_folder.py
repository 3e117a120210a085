"""The folder that a suite's results lie in, as files: records with ids, failures; what may be published of a recipe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cellfeat import records
from cellfeat.errors import CellfeatError
from cellfeat.recipe import PARTS, Part, Recipe
from cellfeat.record_fields import check_failure, check_record

RECORDS, FAILURES, PREDICTIONS, CELLS = "records.jsonl", "failures.jsonl", "predictions", "cells.parquet"
LOCKS = "locks"


def with_id(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with `id`: the beginning of the SHA-256 of all else that it says."""
    return {"id": id_of(record), **{key: value for key, value in record.items() if key != "id"}}


def id_of(record: Mapping[str, Any]) -> str:
    content = {key: value for key, value in record.items() if key != "id"}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The newest record of every fit and target in a results folder; none where there is no such file yet.

    Raises: CellfeatError for a record with a field that is missing or is something else, with file, line, id and field;
    for predictions that lie outside of the folder, behind a link, or in several files for one row.
    """
    path = folder / RECORDS
    newest: dict[tuple[str, str, str], dict[str, Any]] = {}
    for number, record in enumerate(records.read(path) if path.is_file() else [], 1):
        check_record(record, f"{path}, line {number}")
        newest[record["address"], record["source"], record["target"]] = record
    _check_tables(folder, newest.values())
    return list(newest.values())


def _check_tables(folder: Path, found: Iterable[Mapping[str, Any]]) -> None:
    """Whether the answers of every row are in one plain file of this folder."""
    files: dict[str, str] = {}
    for record in found:
        file = record["predictions"]["file"]
        if files.setdefault(record["row"], file) != file:
            raise CellfeatError(
                f"{folder / RECORDS}, record {record['id']}: predictions of row {record['row']} are in {file} and in "
                f"{files[record['row']]}, but must be in one file"
            )
    for place in (PREDICTIONS, *sorted(set(files.values()))) if files else ():
        refuse_link(folder / place)


def refuse_link(path: Path) -> None:
    """Raises: CellfeatError where a file or folder is a link: it could lead to anything on this machine."""
    if path.is_symlink():
        raise CellfeatError(f"{path} is a link; results are plain files: put what it leads to in its place")


def read_failures(folder: Path) -> list[dict[str, Any]]:
    """The newest failure of every fit and source that has no record; a fit that failed as a whole has no source.

    Raises: CellfeatError, as `read_records`.
    """
    path, done = folder / FAILURES, set()
    for record in read_records(folder):
        done |= {(record["address"], record["source"]), (record["address"], None)}
    failed = {}
    for number, line in records.read_lines(path) if path.is_file() else []:
        check_failure(line, f"{path}, line {number}")
        failed[line["address"], line["source"]] = line
    return [line for key, line in failed.items() if key not in done]


def published(recipe: Recipe) -> Recipe:
    """The recipe with files by their names alone: where a machine keeps them is nobody's business, and no content."""
    data = recipe.dataset
    section = data.model_copy(
        update={
            "manifest": Path(data.manifest.partition("?")[0]).name,
            "labels": data.labels and Path(data.labels).name,
        }
    )
    changes: dict[str, Any] = {"dataset": section}
    for key in PARTS:
        value = getattr(recipe, key)
        changes[key] = [_named(part) for part in value] if isinstance(value, list) else value and _named(value)
    return recipe.model_copy(update=changes)


def _named(part: Part) -> Part:
    return Part.of(part.name, {key: _name_of(value) for key, value in part.params.items()})


def _name_of(value: Any) -> Any:
    is_path = isinstance(value, str) and (Path(value).is_absolute() or value.startswith(("./", "../", "~")))
    return Path(value).name if is_path else value  # a name such as timm/resnet18 is none
