"""Computed batches to rows of a store, in a thread beside the one that computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import numpy as np

from cellfeat.encoding import BatchEncoder, Computed
from cellfeat.store import Store

BATCHES_AHEAD = 2  # that may wait between two stages of the way from file to store
ROWS_PER_VERSION = 256  # what a kill can cost: at most so many rows are encoded again


class Writer:
    """Lands batches and appends them, in order; a few batches wait at most.

    What goes wrong is raised by the next `put`, or at the end; nothing is landed after it. What was landed before it is
    written, also after an interruption.
    """

    def __init__(self, store: Store, encoder: BatchEncoder) -> None:
        self.empty = 0  # images whose mask has no pixel
        self._store, self._encoder = store, encoder
        self._landed: list[tuple[Sequence[str], dict[str, np.ndarray]]] = []
        self._failed = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._under_way: deque[Future[None]] = deque()

    def put(self, digests: Sequence[str], done: Computed) -> None:
        """Take over a batch of images with these digests."""
        self._under_way.append(self._pool.submit(self._take, digests, done))
        while len(self._under_way) > BATCHES_AHEAD:
            self._under_way.popleft().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        try:
            while self._under_way:
                self._under_way.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)
            self._append()

    def _take(self, digests: Sequence[str], done: Computed) -> None:
        if self._failed:
            return
        try:
            values = self._encoder.land(done)
            self.empty += int(values.pop("empty").sum())
            self._landed.append((digests, values))
            if sum(len(some) for some, _ in self._landed) >= ROWS_PER_VERSION:
                self._append()
        except BaseException:
            self._failed = True
            raise

    def _append(self) -> None:
        landed, self._landed = self._landed, []
        if landed:
            names = landed[0][1]
            values = {name: np.concatenate([item[name] for _, item in landed]) for name in names}
            self._store.append([digest for some, _ in landed for digest in some], values)
