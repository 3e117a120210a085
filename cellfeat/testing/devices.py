"""A GPU in sight that nobody asked for: whether a plugin goes to it although its context names the CPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

TEMPTED = "it chose the GPU that torch sees, though its context names the CPU"


class Tempted(RuntimeError):
    """Raised in a plugin that goes to the pretended GPU."""


@contextmanager
def gpu_in_sight() -> Iterator[list[str]]:
    """Yields a list that has, when the block has ended, `TEMPTED` if the block went to a GPU.

    A real GPU's allocations are counted. Without one, torch tells everybody but itself that there is one; whoever goes
    there is stopped. (torch's own optimisers would ask a driver that is not there.)
    """
    import torch

    found: list[str] = []
    if torch.cuda.is_available():
        before = _allocations()
        yield found
        if _allocations() > before:
            found.append(TEMPTED)
        return

    def refuse(*_: Any, **__: Any) -> None:
        found[:] = [TEMPTED]
        raise Tempted(TEMPTED)

    with (
        mock.patch.object(torch.cuda, "is_available", _pretended(torch.cuda.is_available, True)),
        mock.patch.object(torch.cuda, "device_count", _pretended(torch.cuda.device_count, 1)),
        mock.patch.object(torch.cuda, "_lazy_init", refuse),
    ):
        yield found


def _allocations() -> int:
    import torch

    return int(torch.cuda.memory_stats().get("allocation.all.allocated", 0))


def _pretended(real: Any, answer: Any) -> Any:
    """The function, with another answer for whoever is not torch."""

    def told(*arguments: Any, **options: Any) -> Any:
        asking = sys._getframe(1).f_globals.get("__name__", "")
        return real(*arguments, **options) if asking.partition(".")[0] == "torch" else answer

    return told
