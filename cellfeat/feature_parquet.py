"""Feature files as Parquet: columns about the cells, then one per feature (f0, f1, …), read and written in groups.

Provenance is JSON under the key `cellfeat` of the schema's metadata.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cellfeat.errors import CellfeatError
from cellfeat.types import Column

ROWS_PER_GROUP = 2048  # 10 MB of 1,152 features
KEY = "cellfeat"
FEATURE = re.compile(r"f\d+")


def installed() -> Any:
    """The package that files need: of the base installation."""
    import pyarrow

    return pyarrow


def write(path: Path, rows: Mapping[str, np.ndarray], vectors: Column, provenance: Mapping[str, Any]) -> None:
    """Written group by group, so that the features of many cells are never in memory together."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def table(some: np.ndarray) -> Any:
        features = vectors.read(some)
        columns = {name: pa.array(values[some]) for name, values in rows.items()}
        columns |= {f"f{i}": pa.array(features[:, i]) for i in range(features.shape[1])}
        return pa.table(columns).replace_schema_metadata({KEY: json.dumps(provenance)})

    every = np.arange(vectors.shape[0])
    with pq.ParquetWriter(path, table(every[:0]).schema, compression="zstd") as writer:
        for start in range(0, len(every), ROWS_PER_GROUP):
            writer.write_table(table(every[start : start + ROWS_PER_GROUP]))


def read(path: Path) -> tuple[dict[str, np.ndarray], Column, dict[str, Any]]:
    """(columns about the cells, (N, D) float32 features that are read when they are needed, provenance).

    Raises: CellfeatError for a file that is no Parquet, and for one that cellfeat did not write.
    """
    file = opened(path)
    provenance = provenance_of(path, file)
    about = [name for name in file.schema_arrow.names if not FEATURE.fullmatch(name)]
    width = len(file.schema_arrow.names) - len(about)
    wanted = [f"f{i}" for i in range(width)]
    if not width or set(wanted) - set(file.schema_arrow.names):
        raise CellfeatError(f"{path}: its features are not f0, f1, … without a gap; extract them again")
    types = {str(file.schema_arrow.field(name).type) for name in wanted}
    if types != {"float"}:
        raise CellfeatError(f"{path}: features of type {', '.join(sorted(types))}, not float32; extract them again")
    table = file.read(columns=about)
    return {name: _array(path, name, table.column(name)) for name in about}, _Groups(path, file, wanted), provenance


def opened(path: Path) -> Any:
    """The open Parquet file, its end read and nothing else. Raises: CellfeatError where it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, pa.ArrowIOError) as error:
        said = " ".join(str(error).split())[:200]
        raise CellfeatError(f"{path} cannot be read as Parquet: it is none, or damaged ({said})") from None


def provenance_of(path: Path, file: Any) -> dict[str, Any]:
    """Raises: CellfeatError where cellfeat did not write the file, or it was written again without its metadata."""
    text = (file.schema_arrow.metadata or {}).get(KEY.encode())
    if text is None or "id" not in file.schema_arrow.names:
        raise CellfeatError(
            f"{path} is no feature file: it has no key {KEY!r} in its metadata. `cellfeat extract` and "
            "`cellfeat transform` write such files; programs that write them anew may lose it"
        )
    return json.loads(text)


def _array(path: Path, name: str, column: Any) -> np.ndarray:
    import pyarrow as pa

    if column.null_count:
        raise CellfeatError(f"{path}: {column.null_count} cells have no {name}; a feature file has no empty fields")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    of = pa.types
    kinds = (of.is_string, of.is_large_string, of.is_boolean, of.is_integer, of.is_floating)
    if not any(is_kind(column.type) for is_kind in kinds):
        raise CellfeatError(f"{path}: {name} is of type {column.type}; possible are texts, numbers, true and false")
    values = column.to_numpy()
    return np.array(values, dtype=str) if values.dtype == object else values


@dataclass(frozen=True, eq=False)
class _Groups:
    """The features of a Parquet file, of which the last group that was read stays in memory."""

    path: Path
    file: Any
    names: list[str]
    held: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.file.metadata.num_rows, len(self.names))

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    def read(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows)
        sizes = [self.file.metadata.row_group(i).num_rows for i in range(self.file.num_row_groups)]
        ends = np.cumsum(sizes)
        group = np.searchsorted(ends, rows, side="right")
        values = np.empty((len(rows), len(self.names)), np.float32)
        for number in np.unique(group).tolist():
            here = group == number
            values[here] = self._group(number)[rows[here] - (ends[number] - sizes[number])]
        return values

    def _group(self, number: int) -> np.ndarray:
        if number not in self.held:
            table = self.file.read_row_group(number, columns=self.names)
            self.held.clear()
            self.held[number] = np.stack([table.column(name).to_numpy() for name in self.names], axis=1)
        return self.held[number]
