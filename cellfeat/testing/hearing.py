"""What a block of code says on the terminal: kept from it, and told."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import IO, Any

OUTPUTS = (1, 2)  # descriptors of stdout and stderr


@contextmanager
def heard() -> Iterator[list[str]]:
    """Yields a list that has, when the block has ended, what it wrote to stdout or stderr, if anything.

    Compiled code counts. Warnings do not: they are how a programmer is told something; here they are shown to nobody.
    """
    said: list[str] = []
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as file:
        try:
            with ExitStack() as stack:
                stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                stack.enter_context(_led_to(file))
                stack.enter_context(redirect_stdout(file))
                stack.enter_context(redirect_stderr(file))
                yield said
        finally:
            file.flush()
            file.seek(0)
            text = file.read()
            if text.strip():
                said.append(text)


@contextmanager
def _led_to(file: IO[Any]) -> Iterator[None]:
    """The descriptors themselves; where there are none (in a notebook's kernel, say) Python's streams must do."""
    kept: dict[int, int] = {}
    _flush()
    for output in OUTPUTS:
        with suppress(OSError):
            kept[output] = os.dup(output)
            os.dup2(file.fileno(), output)
    try:
        yield
    finally:
        for output, copy in kept.items():
            os.dup2(copy, output)
            os.close(copy)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
