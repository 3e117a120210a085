"""The life of an alignment method, as a run leads it: made, fitted, asked, saved, loaded and asked again."""

from __future__ import annotations

import math
import os
import random
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cellfeat.errors import UnseenDomainError
from cellfeat.handing import shown, shuffled
from cellfeat.slots import Context
from cellfeat.store import cache_folder
from cellfeat.testing.bars import WatchedReporter
from cellfeat.testing.columns import Reads, Snapshot
from cellfeat.testing.hearing import heard
from cellfeat.testing.process import UNUSUAL_SEED, kept_process
from cellfeat.testing.toys import cpu_context
from cellfeat.types import Cells
from cellfeat.watching import written_outside

Make = Callable[[Context], Any]
SCRATCH, MADE, SAVED, MOVED, AWAY = "scratch", "made", "saved", "moved", "away"
OWN = (SCRATCH, MADE, SAVED, MOVED, AWAY)  # folders of a life; all else in its folder is astray


@dataclass(eq=False)
class Life:
    """One method's life in a folder of its own, and all that was seen of it.

    answers: features (N, D), and where the method has them proba, weight, corrected, drawn; of the rows `ids`, in
    their order. loaded: the same of its loaded copy. errors: of what is optional, by the check that tells of it.
    disturbed: what it changed of what it was handed; changed: of the process. seconds: of everything that it did.
    """

    folder: Path
    number: int
    reporter: WatchedReporter = field(default_factory=WatchedReporter)
    reads: Reads = field(default_factory=Reads)

    method: Any = None
    context: Any = None
    classes: int = 0
    seen: Any = None  # the cells that `answers` are of, labels hidden
    source: Any = None  # the rows of the source, labels hidden
    ids: np.ndarray = field(default_factory=lambda: np.zeros(0, str))
    answers: dict[str, Any] = field(default_factory=dict)
    loaded: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, BaseException] = field(default_factory=dict)
    disturbed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    altered: list[str] = field(default_factory=list)  # of the folder that was saved, by load
    steps: tuple[float, int] = (0, 0)  # by the end of fit: what bars were advanced by, blocks of columns that were read

    @property
    def saved(self) -> Path:
        """Where it was saved, after the folder was moved."""
        return self.folder / MOVED

    def lead(self, make: Make, cells: Cells, saving: bool = False) -> Life:
        """Fit on cells whose labels may all be known, as a run knows them, and ask; saving: also draw, save and load.

        Raises: whatever the method raises when it is made, fitted, or asked for features.
        """
        with self.watched():
            self._fit(make, cells)
            self._ask(cells, saving)
            if saving:
                self._save()
        return self

    def first_asked(self, make: Make, cells: Cells, asked: Cells) -> Any:
        """Fit on cells, and the features of others that are the first ones asked for."""
        with self.watched():
            self._fit(make, cells)
            return self.method.transform(asked, self.context)

    def revived(self, make: Make, cells: Cells, home: Path) -> dict[str, Any]:
        """What a copy answers that is loaded from the folder of an earlier life, with nothing fitted in this one."""
        with self.watched():
            self.context = replace(cpu_context(self.folder / SCRATCH), reporter=self.reporter)
            kind = type(make(cpu_context(self.folder / MADE)))
            self.method = kind.load(home / MOVED)
            self._ask_features(cells)
            return self.answers_of(self.method)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Around everything that the method does."""
        allowed = [cache_folder(), *(self.folder / name for name in OWN)]  # the first for weights that are fetched
        with kept_process(), heard() as said:
            self._settle()
            filters = list(warnings.filters)
            try:
                with kept_process() as changed, written_outside(allowed) as written:
                    yield
            finally:
                self.changed += changed
                self.changed += ["Python's filters of warnings"] if list(warnings.filters) != filters else []
                self.written += [str(path) for path in written]
        self.heard += said
        astray = sorted(path for path in self.folder.iterdir() if path.name not in OWN)
        self.written += [str(path) for path in astray if str(path) not in self.written]

    def _settle(self) -> None:
        """An empty working folder, and random numbers that no other life begins with."""
        import torch

        self.folder.mkdir(parents=True, exist_ok=True)
        stand_in(self.folder)
        seed = UNUSUAL_SEED + self.number
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the state of the process
        torch.manual_seed(seed)

    def _fit(self, make: Make, cells: Cells) -> None:
        self.context = replace(cpu_context(self.folder / SCRATCH), reporter=self.reporter)
        with self.timed("the factory"):
            method = make(cpu_context(self.folder / MADE))
        whole = Snapshot("the cells", cells, tuple(method.reads))
        visible = cells.hide_labels(cells.is_target)
        if not method.uses_target:
            visible = visible[~visible.is_target]
        view = shown(self.reads.of(visible), method, shuffled(visible, self.context))
        handed = Snapshot("the cells of fit", view)
        if hasattr(method, "prepare"):
            with self.timed("prepare"):
                method.prepare(self.context)
        with self.timed("fit"):
            fitted = method.fit(view, self.context)
        self.steps = self.reporter.done, self.reads.count
        self.reporter.stop_at = self.reads.stop_at = None  # a fit alone is interrupted
        self.method = method if fitted is None else fitted
        self.disturbed += [*whole.changes(), *handed.changes()]

    def _ask(self, cells: Cells, draw: bool) -> None:
        """Everything that a fitted method can be asked; draw: pictures too, which takes long."""
        whole = Snapshot("the cells", cells, tuple(self.method.reads))
        self._ask_features(cells)
        handed = Snapshot("the cells of transform", self.seen)
        self.answers |= self._optional(self.method, self.errors, draw)
        self._correct()
        self.disturbed += [*whole.changes(), *handed.changes()]

    def _ask_features(self, cells: Cells) -> None:
        """Of all cells, or of the source's where a method that was shown no target refuses these."""
        source = cells[~cells.is_target]
        self.classes = len(np.unique(source.label[source.label >= 0]))
        self.source = self._shown(source)
        try:
            self._transform(cells)
        except UnseenDomainError:
            if self.method.uses_target:
                raise
            self._transform(source)

    def _transform(self, cells: Cells) -> None:
        self.seen, self.ids = self._shown(cells), cells.id[shuffled(cells, self.context)]
        handed = Snapshot("the cells of transform", self.seen)
        with self.timed("transform"):
            self.answers["features"] = self.method.transform(self.seen, self.context)
        self.disturbed += handed.changes()

    def _shown(self, cells: Cells) -> Cells:
        return shown(cells, self.method, shuffled(cells, self.context)).hide_labels()

    def _optional(self, method: Any, errors: dict[str, BaseException], draw: bool) -> dict[str, Any]:
        asked: dict[str, tuple[str, str, Callable[[], Any]]] = {
            "predict_proba": ("head", "proba", lambda: method.predict_proba(self.seen, self.context)),
            "sample_weight": ("sample-weight", "weight", lambda: method.sample_weight(self.source)),
            "reconstruct": ("reconstruct", "drawn", lambda: method.reconstruct(self.seen, self.context)),
        }
        found = {}
        for member, (check, name, ask) in asked.items():
            if hasattr(method, member) and (draw or member != "reconstruct"):
                with kept_error(errors, check), self.timed(member):
                    found[name] = ask()
        return found

    def _correct(self) -> None:
        """`adjust` before anything was adapted to and after, of a method that has it."""
        method = self.method
        if hasattr(method, "adjust") and hasattr(method, "fit_adjust"):
            with kept_error(self.errors, "adjust"):
                self.answers["uncorrected"] = self.corrected(method)
            with kept_error(self.errors, "adjust"):
                self._fit_adjust(method)
        if hasattr(method, "adjust"):
            with kept_error(self.errors, "adjust"):
                self.answers["corrected"] = self.corrected(method)

    def _fit_adjust(self, method: Any) -> None:
        adapted = np.flatnonzero(self.seen.is_target)
        proba = self.proba()[adapted]
        with self.timed("fit_adjust"):
            method.fit_adjust(proba, self.seen[adapted], self.context)
        if not np.array_equal(proba, self.proba()[adapted]):
            self.disturbed.append("the probabilities of fit_adjust")

    def proba(self) -> np.ndarray:
        """(N, K) probabilities of some classifier."""
        return np.random.default_rng(0).dirichlet(np.ones(self.classes), len(self.seen))

    def corrected(self, method: Any, rows: Any = slice(None)) -> Any:
        """What `adjust` makes of them, or of those at some rows."""
        proba = self.proba()[rows]
        with self.timed("adjust"):
            answer = method.adjust(proba, self.seen[rows])
        if not np.array_equal(proba, self.proba()[rows]):
            self.disturbed.append("the probabilities of adjust")
        return answer

    def _save(self) -> None:
        (self.folder / SAVED).mkdir()
        with kept_error(self.errors, "save-load"):
            with self.timed("save"):
                self.method.save(self.folder / SAVED)
            (self.folder / SAVED).rename(self.saved)  # as a run does, once everything is written
            before = _files(self.saved)
            with self.without_scratch(), self.timed("load"):
                loaded = type(self.method).load(self.saved)
            with self.without_scratch():
                self.loaded = self.answers_of(loaded)
            self.altered += sorted({path for path, _ in before ^ _files(self.saved)})

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Around something that the method does to its end: the shortest of its times is kept."""
        started = time.monotonic()
        yield
        self.seconds[what] = min(time.monotonic() - started, self.seconds.get(what, math.inf))

    @contextmanager
    def without_scratch(self) -> Iterator[None]:
        """An empty scratch folder, as where a saved run is used; what fit left in it is back afterwards."""
        scratch, away = self.folder / SCRATCH, self.folder / AWAY
        scratch.rename(away)
        scratch.mkdir()
        try:
            yield
        finally:
            shutil.rmtree(scratch)
            away.rename(scratch)

    def answers_of(self, method: Any) -> dict[str, Any]:
        """What a loaded copy answers to the same cells; an error that is told already is not raised again."""
        errors: dict[str, BaseException] = {}
        answers = {"features": method.transform(self.seen, self.context), **self._optional(method, errors, draw=True)}
        if hasattr(method, "adjust"):
            with kept_error(errors, "adjust"):
                answers["corrected"] = self.corrected(method)
        for check in errors.keys() - self.errors.keys():
            raise errors[check]
        return answers


def _files(folder: Path) -> set[tuple[str, tuple[int, int]]]:
    """Every file below a folder, by its path in it, with its size and the time of its last change."""
    files = [(path, path.stat()) for path in folder.rglob("*") if path.is_file()]
    return {(str(path.relative_to(folder)), (found.st_size, found.st_mtime_ns)) for path, found in files}


def stand_in(folder: Path) -> None:
    """Make a folder the working one, with modules beside the caller still found; `kept_process` takes it back."""
    sys.path[:] = [entry or str(Path.cwd()) for entry in sys.path]
    os.chdir(folder)


@contextmanager
def kept_error(errors: dict[str, BaseException], check: str) -> Iterator[None]:
    """What a block raises is told by a check, the first of it, and stops nothing else."""
    try:
        yield
    except (Exception, SystemExit) as error:
        errors.setdefault(check, error)
