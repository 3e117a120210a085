"""One function for many items, in all cores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item, Answer = TypeVar("Item"), TypeVar("Answer")


def in_threads(function: Callable[[Item], Answer], items: Iterable[Item]) -> list[Answer]:
    """The answers in the items' order, as `map` gives them; items start in their order, the longest should come first.

    The function leaves Python for nearly all of its time (libsvm, NumPy) and starts no threads of its own. After an
    error, or Ctrl-C, no further item is started; what is running is waited for when Python ends, and not before.
    """
    from joblib import effective_n_jobs

    workers = effective_n_jobs(-1)  # what affinity, containers and LOKY_MAX_CPU_COUNT leave of the machine
    if workers == 1:
        return [function(item) for item in items]
    pool = ThreadPoolExecutor(workers)
    try:
        return [future.result() for future in [pool.submit(function, item) for item in items]]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
