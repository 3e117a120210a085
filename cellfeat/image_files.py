"""The images of many files, read at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from cellfeat.decode import ImageError, read_rgb

READERS = 8

T = TypeVar("T")


def for_each(paths: Sequence[Path | str], work: Callable[[int, np.ndarray], T]) -> list[T | None]:
    """`work(number, (H, W, 3) uint8 RGB)` for each file, in threads; None where one cannot be read any more.

    An `ImageError` of `work` counts as its file's.
    """

    def one(number: int) -> T | None:
        try:
            return work(number, read_rgb(paths[number]))
        except ImageError:
            return None

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(one, range(len(paths))))
