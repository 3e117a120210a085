"""What the person in front of the terminal sees: tables on stdout, notes and progress on stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console

from cellfeat.slots import Progress

UNLIMITED = 10_000  # columns of a pipe: nothing is folded or cut that another program, or a log, is to read
# A terminal whose output is kept as a log, or that has no cursor to move, gets no bars and no colours.
IS_LOGGED = os.environ.get("CI", "").lower() not in ("", "0", "false") or os.environ.get("TERM") == "dumb"


def _console(stream: TextIO, **options: Any) -> Console:
    width = None if stream.isatty() else UNLIMITED
    return Console(width=width, highlight=False, force_terminal=False if IS_LOGGED else None, **options)


console = _console(sys.stdout, soft_wrap=False)
messages = _console(sys.stderr, stderr=True)

QUIET_SECONDS = 30.0  # without a terminal, one line of progress at most this often

_said: set[str] = set()


def note(text: str) -> None:
    """One line for the user, once per process however often it is said."""
    if text not in _said:
        _said.add(text)
        messages.print(f"note: {text}", markup=False, style="dim", soft_wrap=not messages.is_terminal)


def say(text: str) -> None:
    """One line about what goes on now."""
    messages.print(text, markup=False, soft_wrap=not messages.is_terminal)


@contextmanager
def progress(total: int | None, text: str) -> Iterator[Progress]:
    """A bar with rate and time left on a terminal; elsewhere nothing, but for a rare line in long work."""
    if messages.is_terminal:
        with _bar(total, text) as bar:
            yield bar
    else:
        yield _Lines(total, text)


@contextmanager
def _bar(total: int | None, text: str) -> Iterator[Progress]:
    from rich import progress as rich

    columns = (
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn("{task.fields[rate]}"),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(*columns, console=messages, transient=True) as bar:
        yield _Bar(bar, bar.add_task(text, total=total, rate=""))


class _Bar:
    def __init__(self, bar, task) -> None:
        self._bar, self._task = bar, task

    def advance(self, n: int = 1) -> None:
        self._bar.advance(self._task, n)
        speed = self._bar.tasks[self._bar.task_ids.index(self._task)].speed
        self._bar.update(self._task, rate=_rate(speed) if speed else "")


class _Lines:
    """Progress for logs: no control characters, a line every `QUIET_SECONDS`.

    The clock starts at the first advance, by which a resumed work tells at once what an earlier run had done.
    """

    def __init__(self, total: int | None, text: str) -> None:
        self.total, self.text, self.done, self.first = total, text, 0, 0
        self.start = self.last = time.monotonic()

    def advance(self, n: int = 1) -> None:
        now = time.monotonic()
        if not self.done and now - self.start < QUIET_SECONDS:
            self.first, self.start = n, now
        self.done += n
        if now - self.last < QUIET_SECONDS:
            return
        self.last = now
        rate = max(self.done - self.first, 1) / (now - self.start)
        left = f", about {max(self.total - self.done, 0) / rate:.0f} s left" if self.total else ""
        say(f"{self.text}: {self.done}{f'/{self.total}' if self.total else ''}, {_rate(rate)}{left}")


def _rate(per_second: float) -> str:
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{1 / per_second:.1f} s each"


class TerminalReporter:
    """The `Reporter` of the command line."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def progress(self, total: int | None, text: str):
        return progress(total, text)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
        note(text)


class SilentReporter:
    """A `Reporter` that keeps the notes and shows nothing: for tests and for use as a library."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    @contextmanager
    def progress(self, total: int | None, text: str) -> Iterator[Progress]:
        yield _Nothing()

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


class _Nothing:
    def advance(self, n: int = 1) -> None:
        pass
