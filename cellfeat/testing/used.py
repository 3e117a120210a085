"""A plugin at work: whatever the checks have it do, it is watched, and nothing of it is left in the process."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from cellfeat.slots import Context
from cellfeat.store import cache_folder
from cellfeat.testing.checks import Check
from cellfeat.testing.gates import needs
from cellfeat.testing.hearing import heard
from cellfeat.testing.process import kept_process
from cellfeat.testing.subject import Subject
from cellfeat.watching import written_outside

FIRST = "cellfeat: no module"  # of a filter of warnings before all others, so that another one before it shows


@dataclass(eq=False)
class Used(Subject):
    """A subject whose plugin is watched; of encoders and classifiers.

    written, heard, changed: files outside of scratch, words on the terminal, and settings of the process, of all that
    it did. seconds: how long its latest doing took; longest: the longest of
    all.
    """

    working: ClassVar[tuple[Check, ...]] = ()  # checks without which it cannot be used
    formed: ClassVar[tuple[Check, ...]] = ()  # and those without which its answers cannot be looked into

    outcomes: dict[Any, BaseException | None] = field(default_factory=dict, init=False)
    written: list[Path] = field(default_factory=list, init=False)
    heard: list[str] = field(default_factory=list, init=False)
    changed: list[str] = field(default_factory=list, init=False)
    seconds: float = field(default=0.0, init=False)
    longest: float = field(default=0.0, init=False)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Around everything that the plugin does."""
        allowed = [self.folder, cache_folder()]  # the second for weights that are downloaded
        with kept_process() as changed, heard() as said, written_outside(allowed) as written:
            warnings.filterwarnings("ignore", module=FIRST)
            started = time.monotonic()
            try:
                yield
            finally:
                self.seconds = time.monotonic() - started
                self.longest = max(self.longest, self.seconds)
                self.changed += ["Python's filters of warnings"] if _another_filter_first() else []
        self.changed += changed
        self.heard += said
        self.written += [path for path in written if path not in self.written]

    def made(self, context: Context | None = None) -> Any:
        with self.watched():
            return super().made(context)

    @functools.cached_property
    def product(self) -> Any:
        """The object that most checks ask."""
        return self.made()

    def judged(self) -> Any:
        return self.product

    def check_product(self) -> None:
        """Look at what the object says of itself. Raises: Failed."""

    def first(self) -> Any:
        """What the object answers to the toys, asked for once."""
        raise NotImplementedError

    def use(self) -> list[Any]:
        """One whole use: a new object that answers. Gives the tensors of its answer, where it answers in tensors."""
        raise NotImplementedError

    def timed(self) -> float:
        """Seconds of one fit, or one call of predict, or one pass of an encoder, on toys that it has not seen."""
        raise NotImplementedError

    def works(self) -> None:
        """Raises: Skipped, where it cannot be used."""
        needs(self, *self.working)

    def answers_well(self) -> None:
        """Raises: Skipped, where its answers have not the form that can be looked into."""
        needs(self, *self.working, *self.formed)

    def says(self, fact: str, otherwise: Any = None) -> Any:
        """An optional fact of the object or of its factory."""
        factory = self.factory
        while isinstance(factory, functools.partial):
            factory = factory.func
        return getattr(self.product, fact, getattr(factory, fact, otherwise))


def _another_filter_first() -> bool:
    """Whether the first filter of warnings is no longer the one that `watched` set.

    scikit-learn's threads leave copies of the filters behind, with their patterns compiled.
    """
    if not warnings.filters:
        return True
    action, _, category, module, _ = warnings.filters[0]
    return (action, category, getattr(module, "pattern", module)) != ("ignore", Warning, FIRST)
