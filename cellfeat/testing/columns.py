"""Columns that count how often they are read, and cells as they were before a method was handed them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from cellfeat.types import Cells, Column

ARRAYS = ("id", "domain", "label", "group", "is_target")


@dataclass(eq=False)
class Reads:
    """How many blocks of columns were read; at the one of number `stop_at` it is as if Ctrl-C were pressed."""

    stop_at: int | None = None
    count: int = 0
    stopped: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def one_more(self) -> None:
        """Raises: KeyboardInterrupt, once, where `stop_at` is reached."""
        with self._lock:  # batches are read ahead in another thread
            self.count += 1
            stop = self.count == self.stop_at
        if stop:
            self.stopped = True
            raise KeyboardInterrupt

    def of(self, cells: Cells) -> Cells:
        """The cells with every column counted."""
        return replace(cells, columns={name: _Counted(column, self) for name, column in cells.columns.items()})


@dataclass(frozen=True, eq=False)
class _Counted:
    source: Column
    reads: Reads

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def dtype(self) -> np.dtype:
        return self.source.dtype

    def read(self, rows: np.ndarray) -> np.ndarray:
        self.reads.one_more()
        return self.source.read(rows)


class Snapshot:
    """What cells are, to be compared with what they are later.

    what: how they are called in front of a fault. columns: those that are read and compared, too.
    """

    def __init__(self, what: str, cells: Cells, columns: tuple[str, ...] = ()) -> None:
        self._what, self._cells = what, cells
        self._objects = dict(cells.columns)
        self._before = {name: getattr(cells, name).copy() for name in ARRAYS}
        self._before |= {name: cells.read(name) for name in columns}

    def changes(self) -> Iterator[str]:
        """What is no longer as it was."""
        cells = self._cells
        if {name: id(column) for name, column in cells.columns.items()} != {
            name: id(column) for name, column in self._objects.items()
        }:
            yield f"the columns of {self._what}"
            return
        for name, before in self._before.items():
            now = getattr(cells, name) if name in ARRAYS else cells.read(name)
            if not np.array_equal(now, before, equal_nan=before.dtype.kind == "f"):
                yield f"{name} of {self._what}"
