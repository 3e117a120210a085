"""Rows of a Lance data set: a digest and a value of any shape, packed; and such rows read as a column."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class LanceColumn:
    """Rows of one Lance data set, unpacked as they are read."""

    dataset: Any
    rows: np.ndarray
    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self, rows: np.ndarray) -> np.ndarray:
        index = self.rows[np.asarray(rows)]
        if not len(index):
            return np.empty((0, *self.shape[1:]), self.dtype)
        # Lance reads sorted, distinct rows fastest; the wanted order is put back afterwards.
        distinct, order = np.unique(index, return_inverse=True)
        table = self.dataset.take(distinct.tolist(), columns=["value"])
        flat = table.column("value").combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return _unpack(flat.reshape(len(distinct), -1), self.shape[1:], self.dtype)[order]


def packed_table(digests: list[str], array: np.ndarray) -> Any:
    """Rows as an Arrow table: digest and packed value; shape and type of a value in the schema's metadata."""
    import pyarrow as pa

    packed = _pack(array)
    kind = pa.list_(pa.from_numpy_dtype(packed.dtype), packed.shape[1])
    value = pa.FixedSizeListArray.from_arrays(pa.array(packed.reshape(-1)), type=kind)
    about = {"shape": json.dumps(array.shape[1:]), "dtype": array.dtype.name}
    schema = pa.schema([pa.field("digest", pa.string()), pa.field("value", kind)], metadata=about)
    return pa.table([pa.array(digests), value], schema=schema)


def metadata_of(dataset: Any) -> dict[str, str]:
    """`shape` of a value, as JSON, and its `dtype`."""
    return {key.decode(): value.decode() for key, value in dataset.schema.metadata.items()}


def _pack(array: np.ndarray) -> np.ndarray:
    """(n, ...) -> (n, width): masks as bits, everything else as it is."""
    flat = array.reshape(len(array), -1)
    return np.packbits(flat, axis=1) if array.dtype == np.bool_ else np.ascontiguousarray(flat)


def _unpack(flat: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    if dtype == np.bool_:
        flat = np.unpackbits(flat, axis=1, count=int(np.prod(shape))).astype(bool)
    return flat.reshape(len(flat), *shape)
