"""What a run keeps for its report, as files in its folder: written once, read by the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from cellfeat import thumbnails
from cellfeat.artifacts import atomic_file
from cellfeat.errors import CellfeatError
from cellfeat.thumbnails import Thumbnail
from cellfeat.types import Cells

FOLDER, SUMMARY, FEATURES, PICTURES = "observations", "summary.json", "features.parquet", "pictures.parquet"
BEFORE = "before"
ABOUT_CELLS = ("id", "domain", "label", "group")  # columns before the features
SCHEMA = 2
ABOUT: dict[str, type | tuple[type, ...]] = {  # what every summary has
    "adaptable": dict,
    "classes": list,
    "depicted": dict,
    "depicted_left_out": list,
    "domains": dict,
    "empty_masks": dict,
    "examples_left_out": dict,
    "features": dict,
    "grey_levels": (dict, type(None)),
    "masks": (str, type(None)),
    "masks_of_originals": bool,
    "missing": dict,
    "pictures": bool,
    "recall": list,
    "seed": int,
    "shown": list,
}

T = TypeVar("T")


class Compressed(NamedTuple):
    """Principal components (n, k) float32 of (n, `width`) features, and the share of the variance that they hold."""

    values: np.ndarray
    width: int
    explained: float


def after(source: str) -> str:
    """The name of the features that the pipeline of one source gave."""
    return f"after {source}"


def write_features(
    path: Path,
    cells: Cells,
    sample: np.ndarray,
    classes: Sequence[str],
    features: Mapping[str, tuple[np.ndarray, Compressed]],
) -> None:
    """A row per sampled cell: id, domain, label, group; then lists of components, null where a pipeline has none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "id": pa.array(cells.id[sample].tolist()),
        "domain": pa.array(cells.domain[sample].tolist()),
        "label": pa.array([classes[label] if label >= 0 else None for label in cells.label[sample]], pa.string()),
        "group": pa.array(cells.group[sample].tolist()),
    }
    for name, (rows, one) in features.items():
        values: list[list[float] | None] = [None] * len(sample)
        for place, vector in zip(np.searchsorted(sample, rows).tolist(), one.values.tolist(), strict=True):
            values[place] = vector
        columns[name] = pa.array(values, pa.list_(pa.float32()))
    with atomic_file(path) as partial:
        pq.write_table(pa.table(columns), partial, compression="zstd")


class Sample(NamedTuple):
    """Sampled cells and their components: id, domain, label, group (n,); label "" where hidden; values (n, k)."""

    id: np.ndarray
    domain: np.ndarray
    label: np.ndarray
    group: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Observations:
    """What a run left: summary, features by `BEFORE` and `after(source)`, pictures by id, kind and source."""

    summary: dict[str, Any]
    features: dict[str, Sample]
    pictures: dict[tuple[str, str, str], Thumbnail]


def read(run: Path) -> Observations | None:
    """What lies in a run folder; None where it has none.

    Raises: CellfeatError, naming file and field, where it is damaged or of another schema.
    """
    folder = run / FOLDER
    if not (folder / SUMMARY).is_file():
        return None
    summary = _read_summary(folder / SUMMARY)
    pictures = _table(folder / PICTURES, thumbnails.read) if (folder / PICTURES).is_file() else []
    features = _table(folder / FEATURES, _read_features) if (folder / FEATURES).is_file() else {}
    return Observations(summary, features, {(one.id, one.kind, one.source): one for one in pictures})


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(path, error) from None
    if not isinstance(found, dict):
        raise _damaged(path, "it is no JSON object")
    if found.get("schema") != SCHEMA:
        raise CellfeatError(
            f"{path}: the field schema is {found.get('schema')!r}, and this cellfeat reads {SCHEMA}: use the cellfeat "
            f"that made the run, or take {path.parent.name}/ away for a report without data, features and pictures"
        )
    for name, kind in ABOUT.items():
        if name not in found:
            raise _damaged(path, f"it has no field {name}")
        if not isinstance(found[name], kind):
            raise _damaged(path, f"its field {name} is {type(found[name]).__name__}")
    return found


def _table(path: Path, reader: Callable[[Path], T]) -> T:
    import pyarrow as pa

    try:
        return reader(path)
    except KeyError as error:
        raise _damaged(path, error.args[0]) from None
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, what: object) -> CellfeatError:
    return CellfeatError(
        f"{path} is damaged: {what}. Copy it again from where the run was made, or take {path.parent.name}/ away for a "
        "report without data, features and pictures"
    )


def _read_features(path: Path) -> dict[str, Sample]:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    about = [np.array([v or "" for v in table[name].to_pylist()]) for name in ABOUT_CELLS]
    found = {}
    for name in [name for name in table.column_names if name not in ABOUT_CELLS]:
        lists = table[name].to_pylist()
        rows = np.array([i for i, one in enumerate(lists) if one is not None], int)
        values = np.array([lists[i] for i in rows], np.float32)
        found[name] = Sample(about[0][rows], about[1][rows], about[2][rows], about[3][rows], values)
    return found
