"""A reporter that remembers every bar, and that can interrupt a fit where its bar has come so far."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cellfeat.console import SilentReporter


@dataclass
class Bar:
    """One bar of a method: what it said it would do, what it did, and whether it did so inside of its `with`."""

    total: Any
    text: Any
    reporter: WatchedReporter
    done: float = 0
    open: bool = False
    entered: bool = False
    late: bool = False  # advanced before or after its `with`
    back: float = 0  # by how much at most it was advanced backwards

    def __enter__(self) -> Bar:
        self.open = self.entered = True
        return self

    def __exit__(self, *_: object) -> None:
        self.open = False

    def advance(self, n: int = 1) -> None:
        self.back = max(self.back, -n)
        self.done += n
        self.late = self.late or not self.open
        self.reporter.came(n)

    def faults(self) -> Iterator[str]:
        """What is wrong with it, for its author."""
        if not isinstance(self.text, str) or not self.text.strip():
            yield f"a bar has the text {self.text!r}"
        if self.total is not None and self.done > self.total:
            yield f"the bar {self.text!r} was advanced by {self.done:g} of {self.total:g}"
        if self.back > 0:
            yield f"the bar {self.text!r} was advanced by {-self.back:g}"
        if self.late:
            yield f"the bar {self.text!r} was advanced outside of its `with`"
        elif not self.entered:
            yield f"the bar {self.text!r} was never shown: there is no `with` around it"


@dataclass
class WatchedReporter(SilentReporter):
    """Keeps notes and bars; at `stop_at` of all that bars were advanced by, it is as if Ctrl-C were pressed."""

    stop_at: float | None = None
    bars: list[Bar] = field(default_factory=list, init=False)
    done: float = field(default=0, init=False)
    stopped: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        super().__init__()

    def progress(self, total: int | None, text: str) -> Any:
        bar = Bar(total, text, self)
        self.bars.append(bar)
        return bar

    def came(self, n: float) -> None:
        """So much more is done. Raises: KeyboardInterrupt, once, where `stop_at` is reached."""
        self.done += n
        if self.stop_at is not None and self.done >= self.stop_at and not self.stopped:
            self.stopped = True
            raise KeyboardInterrupt
