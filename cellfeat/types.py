"""The values that flow through cellfeat: `Features` of a batch of images, `Cells` of a data set."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from cellfeat.errors import CellfeatError, unknown

if TYPE_CHECKING:
    import torch

UNLABELED = -1  # a hidden label, and nothing else


class Features(NamedTuple):
    """What a backbone returns for a batch of B images.

    embedding: (B, C, h, w) token map or (B, D) vector, float.
    mask: (B, S, S) bool in the backbone's frame, True on the cell; None when the backbone does not segment.
    pooled: (B, D) float when the backbone pools better than the mean over the cell's tokens that the core takes.
    quality: (B,) float 0..1, predicted intersection over union of the mask with the cell; None when the backbone
        cannot tell.
    """

    embedding: torch.Tensor
    mask: torch.Tensor | None = None
    pooled: torch.Tensor | None = None
    quality: torch.Tensor | None = None


class MissingColumnError(CellfeatError, AttributeError):
    """A column was asked for that these cells do not have."""


class Column(Protocol):
    """Values of N cells that are read when they are needed. `shape` includes N."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The rows (n,) int64 as a fresh (n, ...) array, which the caller may change."""


@dataclass(frozen=True, eq=False)
class ArrayColumn:
    """A column held in memory, seen read-only; reading copies."""

    array: np.ndarray

    def __post_init__(self) -> None:
        view = self.array.view()
        view.setflags(write=False)
        object.__setattr__(self, "array", view)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self.array[np.asarray(rows)]


@dataclass(frozen=True, eq=False)
class _Selection:
    """Rows of another column, in a new order."""

    source: Column
    rows: np.ndarray

    def __post_init__(self) -> None:
        self.rows.setflags(write=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.source.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        return self.source.dtype

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self.source.read(self.rows[np.asarray(rows)])


@dataclass(frozen=True)
class _Joined:
    """The rows of one column, then those of another."""

    first: Column
    second: Column

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.first.shape[0] + self.second.shape[0], *self.first.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        return self.first.dtype

    def read(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows)
        values = np.empty((len(rows), *self.shape[1:]), self.dtype)
        early = rows < self.first.shape[0]
        values[early] = self.first.read(rows[early])
        values[~early] = self.second.read(rows[~early] - self.first.shape[0])
        return values


@dataclass(frozen=True, eq=False)
class Cells:
    """N cells and their columns. Read-only: every change makes a copy, so nobody can spoil another's view.

    id: (N,) str, unique. domain: (N,) str. label: (N,) int64, -1 = hidden. group: (N,) str, rows that no split
    may separate (a patient, a slide). is_target: (N,) bool, rows of a domain to adapt to.

    Columns, each read on demand as a NumPy array (`cells.pooled`, or `cells.read(name, rows)` for some rows):
    image (N, 3, S, S) uint8 RGB in the backbone's frame; mask (N, S, S) bool, True on the cell;
    map (N, C, h, w) float token map; pooled (N, D) float32, mean over the cell's tokens;
    crop (N, 3, 128, 128) uint8 RGB, the cell alone, 128 outside it;
    quality (N,) float32 0..1, the mask's predicted intersection over union, where the backbone tells it: for reports,
    and no column that a method may read.
    """

    id: np.ndarray
    domain: np.ndarray
    label: np.ndarray
    group: np.ndarray
    is_target: np.ndarray
    columns: Mapping[str, Column] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kinds = {"id": str, "domain": str, "label": np.int64, "group": str, "is_target": bool}
        for name, kind in kinds.items():
            array: np.ndarray = np.array(getattr(self, name), dtype=kind)
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        object.__setattr__(self, "columns", MappingProxyType(dict(self.columns)))
        sizes = {name: len(getattr(self, name)) for name in kinds}
        sizes |= {name: column.shape[0] for name, column in self.columns.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"the columns of Cells differ in length: {sizes}")

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor, because pickling and copying would forget that the arrays are read-only.
        return Cells, (self.id, self.domain, self.label, self.group, self.is_target, dict(self.columns))

    @classmethod
    def from_arrays(
        cls,
        label: Any,
        *,
        id: Any = None,
        domain: Any = "domain",
        group: Any = None,
        is_target: Any = False,
        **columns: Any,
    ) -> Cells:
        """Cells from plain arrays in memory; what is not given is filled (ids by position, a group per cell)."""
        label = np.asarray(label, dtype=np.int64)
        n = len(label)
        ids = np.array([f"{i:08d}" for i in range(n)]) if id is None else np.asarray(id, dtype=str)
        return cls(
            id=ids,
            domain=np.broadcast_to(np.asarray(domain, dtype=str), (n,)),
            label=label,
            group=ids if group is None else np.asarray(group, dtype=str),
            is_target=np.broadcast_to(np.asarray(is_target, dtype=bool), (n,)),
            columns={name: ArrayColumn(np.array(values)) for name, values in columns.items()},
        )

    def __len__(self) -> int:
        return len(self.id)

    def __getitem__(self, rows: Any) -> Cells:
        """The cells at `rows` (integer indices, a slice or a boolean mask), as a copy."""
        index = self._index(rows)
        return Cells(
            self.id[index],
            self.domain[index],
            self.label[index],
            self.group[index],
            self.is_target[index],
            {name: _Selection(column, index) for name, column in self.columns.items()},
        )

    def __getattr__(self, name: str) -> np.ndarray:
        if name.startswith("_") or name == "columns":  # asked for by copy and pickle before __init__ ran
            raise AttributeError(name)
        return self.read(name)

    def _index(self, rows: Any) -> np.ndarray:
        return np.atleast_1d(np.arange(len(self))[rows])

    def read(self, name: str, rows: Any = slice(None)) -> np.ndarray:
        """A fresh array of one column: all rows, or those at integer indices, a slice or a boolean mask."""
        return self.column(name).read(self._index(rows))

    def column(self, name: str) -> Column:
        """The lazy column itself: its shape and dtype cost nothing to look at."""
        if name not in self.columns:
            raise MissingColumnError(
                unknown("column of these cells", name, self.columns, "A method must name in `reads` what it reads")
            )
        return self.columns[name]

    def with_column(self, name: str, values: np.ndarray | Column) -> Cells:
        """A copy with one column set: an array, which is copied, or a lazy column."""
        column = ArrayColumn(values.copy()) if isinstance(values, np.ndarray) else values
        return replace(self, columns={**self.columns, name: column})

    def with_target(self, rows: Any) -> Cells:
        """A copy in which `is_target` is True on `rows` and False elsewhere."""
        flags = np.zeros(len(self), dtype=bool)
        flags[rows] = True
        return replace(self, is_target=flags)

    def joined(self, other: Cells) -> Cells:
        """These cells, then the other ones, with the columns that both have."""
        both = {
            name: np.concatenate([getattr(self, name), getattr(other, name)])
            for name in ("id", "domain", "label", "group", "is_target")
        }
        shared = [name for name in self.columns if name in other.columns]
        return Cells(**both, columns={name: _Joined(self.columns[name], other.columns[name]) for name in shared})

    def hide_labels(self, rows: Any = slice(None)) -> Cells:
        """A copy whose labels at `rows` are -1."""
        label = self.label.copy()
        label[rows] = UNLABELED
        return replace(self, label=label)

    def batches(
        self, columns: tuple[str, ...], size: int, generator: torch.Generator | None = None, prefetch: int = 2
    ) -> Iterator[tuple[np.ndarray, dict[str, torch.Tensor]]]:
        """Yield (rows, {column: tensor}) in order, or shuffled when given a generator; the last batch may be short.

        rows: (B,) int64 indices into these cells, so that `cells.label[rows]` belongs to the batch.
        Reading happens in a background thread, `prefetch` batches ahead.
        """
        import torch

        order = np.arange(len(self)) if generator is None else torch.randperm(len(self), generator=generator).numpy()
        return self.read_ahead(columns, [order[start : start + size] for start in range(0, len(order), size)], prefetch)

    def read_ahead(
        self, columns: tuple[str, ...], batches: Sequence[np.ndarray], prefetch: int = 2
    ) -> Iterator[tuple[np.ndarray, dict[str, torch.Tensor]]]:
        """`batches` with the rows of every batch given: (B,) integer indices, in any order, also repeated."""
        import torch

        sources = {name: self.column(name) for name in columns}

        def load(rows: np.ndarray) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
            return rows, {name: torch.from_numpy(column.read(rows)) for name, column in sources.items()}

        return _prefetched((load, list(batches)), prefetch)


def _prefetched(work: tuple[Any, list], depth: int) -> Iterator[Any]:
    """Run `function` over items in one background thread, `depth` results waiting at most, errors passed on."""
    function, items = work
    results: queue.Queue = queue.Queue(maxsize=max(depth, 1))
    stop = threading.Event()

    def put(result: tuple[bool, Any]) -> None:
        while not stop.is_set():
            try:
                return results.put(result, timeout=0.1)
            except queue.Full:
                continue

    def produce() -> None:
        for item in items:
            if stop.is_set():
                return
            try:
                put((True, function(item)))
            except BaseException as error:  # handed to the consumer, which raises it
                return put((False, error))

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    try:
        for _ in items:
            good, value = results.get()
            if not good:
                raise value
            yield value
    finally:
        stop.set()
        thread.join()
