"""An alignment method under examination: the cells it is shown, and the lives that the checks look at."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import FrozenInstanceError, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from cellfeat.declared import Facts, facts
from cellfeat.slots import Context
from cellfeat.testing.bars import WatchedReporter
from cellfeat.testing.checks import NotReached, told
from cellfeat.testing.columns import ARRAYS, Reads
from cellfeat.testing.devices import gpu_in_sight
from cellfeat.testing.hearing import heard
from cellfeat.testing.life import Life, stand_in
from cellfeat.testing.process import kept_process, unusual_process
from cellfeat.testing.subject import Subject
from cellfeat.testing.toys import cpu_context, toy_cells
from cellfeat.types import UNLABELED, Cells, MissingColumnError

READ_ONLY = ("read-only", "'mappingproxy' object does not support item", "cannot set WRITEABLE flag")


@dataclass(frozen=True)
class Fault:
    """What stopped the first life, and the check that is meant for it."""

    check: str
    text: str


class Tried(NamedTuple):
    """Answers of a fit in other roles, of the first life's method after it, and of a life in whose reach labels lay."""

    others: dict[str, Any]
    first_again: Any
    answers: dict[str, Any]


class Beside(NamedTuple):
    """What a life changed of its process, whether it went to a GPU in sight, and what it then raised."""

    changed: list[str]
    tempted: list[str]
    error: Exception | None


@dataclass(eq=False)
class AlignSubject(Subject):
    """What the checks of aligners share: the first life is led once, whoever asks for it first.

    cells: the author's own, instead of toy cells; a copy of it with labels is never kept, so that there is nothing to
    find for a method that goes looking for one.
    """

    slot: ClassVar[str] = "align"
    cells: Cells | None = None
    outcomes: dict[Any, BaseException | None] = field(default_factory=dict, init=False)
    tried: Tried | None = field(default=None, init=False)
    _lives: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()  # a life has a working folder of its own

    def judged(self) -> Any:
        return self.first.method if isinstance(self.first, Life) else self.product

    @functools.cached_property
    def product(self) -> Any:
        """An object that is asked for its declarations alone."""
        return self.made(cpu_context(self.folder / "declared"))

    @functools.cached_property
    def facts(self) -> Facts:
        """What the method declares of itself, which is checked to have the right form."""
        return facts("align", self.factory, self.product)

    def data(self) -> Cells:
        """New cells with labels 0..K-1 as a run encodes them, those of target rows hidden."""
        return Cells(**self._parts)

    @functools.cached_property
    def _parts(self) -> dict[str, Any]:
        """What the cells are made of; cells themselves are not kept."""
        cells = toy_cells() if self.cells is None else self.cells
        known = (cells.label >= 0) & ~cells.is_target
        label = np.full(len(cells), UNLABELED)
        label[known] = np.unique(cells.label[known], return_inverse=True)[1]
        arrays = {name: getattr(cells, name) for name in ARRAYS}
        return {**arrays, "label": label, "columns": dict(cells.columns)}

    def life(self, cells: Cells, saving: bool = False) -> Life:
        """Another life, on these cells.

        Raises: what the method raises when made, fitted or asked for features; NotReached, where the first life took
        so long that a dozen of them would take hours.
        """
        if self.slow:
            raise NotReached("budget")
        return self.begun().lead(self.made, cells, saving)

    @property
    def slow(self) -> str:
        """What of the first life took longer than the budget, and not only the first time; empty where nothing did."""
        first = self.__dict__.get("first")
        for what, seconds in first.seconds.items() if isinstance(first, Life) else ():
            if seconds > self.budget:  # the first time something may still have to be imported
                seconds = self.second.seconds.get(what, seconds)
            if seconds > self.budget:
                return f"{what} took {seconds:.2g} s, more than {self.budget:g} s"
        return ""

    def begun(self, folder: Path | None = None, stop_at: float | None = None, stop_read: int | None = None) -> Life:
        """A life that is still to be led, in a folder of its own, or in that of a life that was interrupted.

        stop_at, stop_read: where its fit is interrupted: so much advanced on bars, the number of a block that is read.
        """
        self._lives += 1
        folder = folder or self.folder / f"life-{self._lives}"
        return Life(folder, self._lives, WatchedReporter(stop_at), Reads(stop_read))

    @functools.cached_property
    def first(self) -> Life | Fault:
        """The first life, which most checks look at."""
        try:
            return self.begun().lead(self.made, self.data(), saving=True)
        except (Exception, SystemExit) as error:
            return Fault(meant_for(error), told(error))

    @functools.cached_property
    def second(self) -> Life:
        """The same again, with a new object and everything imported."""
        return self.begun().lead(self.made, self.data())

    def fitted_and_asked(self, cells: Cells) -> Any:
        """The features of these cells from a new object that is fitted alike and was asked for nothing before."""
        if self.slow:
            raise NotReached("budget")
        return self.begun().first_asked(self.made, self.data(), cells)

    @functools.cached_property
    def beside(self) -> Beside:
        """A life in an unusual process, in which torch sees a GPU. What it imports has been imported before."""
        if self.slow:
            raise NotReached("budget")
        life, error = self.begun(), None
        with unusual_process(), gpu_in_sight() as tempted:
            try:
                life.lead(self.made, self.data())
            except Exception as raised:
                error = raised
        return Beside(life.changed, tempted, error)

    @contextmanager
    def asking(self) -> Iterator[Context]:
        """Around a question outside of a life: a context, and nothing of it is left in the process or said."""
        with kept_process(), heard():
            context = cpu_context(self.folder / "asked")
            stand_in(context.scratch)
            yield context


def meant_for(error: BaseException) -> str:
    """The check that tells of an error in a life."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MissingColumnError):
            return "reads"
        if _handed(seen):
            return "inputs"
        if isinstance(seen, (RuntimeError, AssertionError)) and ("CUDA" in str(seen) or "NVIDIA" in str(seen)):
            return "device"
        seen = seen.__cause__ or seen.__context__
    return "runs"


def _handed(error: BaseException) -> bool:
    """Whether an error says that something was to be changed which may well be what the method was handed."""
    if not isinstance(error, FrozenInstanceError):
        return isinstance(error, (ValueError, TypeError)) and any(part in str(error) for part in READ_ONLY)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return isinstance(frames[-1].f_locals.get("self"), (Cells, Context))  # whose `__setattr__` refused
