"""What a method is handed, and how its answers are taken: the one place where it is decided what a method can see.

A method gets a copy with only the columns it reads, in an order that says nothing (published file names, and so the
order of ids, tell the class), with numbers for ids and groups. Its answers are put back into the order of the cells,
and refused when they have the wrong form or when a row's answer depends on which other rows came with it.
"""

from __future__ import annotations

import hashlib
import inspect
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np

from cellfeat.errors import CellfeatError, blamed, unknown
from cellfeat.slots import Context
from cellfeat.store import COLUMNS, cache_folder
from cellfeat.types import Cells
from cellfeat.watching import written_outside

IMAGES_AT_ONCE = 256  # handed to a method that writes images
PROBE_ROWS = 4  # answered a second time by themselves, to see that a row's answer is its own
PROBE_TOLERANCE = 1e-2  # relative to the spread of the answers; rounding differs with the batch
SHARED = ("site-packages", "dist-packages")  # folders of many distributions' modules

_told: WeakSet[type] = WeakSet()  # methods whose stray files the user of this process knows of


def shown(cells: Cells, aligner: Any, order: np.ndarray) -> Cells:
    """The cells at `order` as a method sees them; all labels are hidden from one that uses none.

    Which labels a method that uses them may see has been decided by the protocol, which hid the others.
    """
    missing = sorted(set(aligner.reads) - set(cells.columns))
    if missing:
        raise CellfeatError(f"it reads {', '.join(missing)}, which these cells do not have")
    copy = cells[order]
    copy = replace(
        copy,
        id=np.array([f"{row:08d}" for row in range(len(copy))], dtype=str),
        group=_numbered(copy.group),
        columns={name: copy.columns[name] for name in aligner.reads},
    )
    return copy if aligner.uses_labels else copy.hide_labels()


def _numbered(names: np.ndarray) -> np.ndarray:
    """Equal names to equal numbers, in the order of their first appearance."""
    _, first, inverse = np.unique(names, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(str)


def shuffled(cells: Cells, context: Context) -> np.ndarray:
    """An order by digests of seed and id: the same in every run, and without any trace of the order of the ids.

    A permutation of positions would not do: two class-sorted domains of one size would be permuted alike.
    """
    digests = [hashlib.blake2b(f"{context.seed}|{name}".encode(), digest_size=8) for name in cells.id.tolist()]
    return np.argsort(np.array([int(digest.hexdigest(), 16) for digest in digests], dtype=np.uint64), kind="stable")


@dataclass
class Method:
    """One alignment method of a chain, under the name it was asked for by."""

    name: str
    aligner: Any
    probed: bool = False

    @property
    def title(self) -> str:
        return f"align {self.name!r}"

    @property
    def _advice(self) -> str:
        """What whoever meets a method's fault in a run can do."""
        return f". Tell its author, who finds more by `cellfeat plugins check {self.name}`"

    def check_declaration(self, owner: str) -> None:
        """Refuse a column that no cells have."""
        for name in self.aligner.reads:
            if name not in COLUMNS:
                wrong = unknown("column", name, COLUMNS, f"Tell the author of {owner}")
                raise CellfeatError(f"{self.title} of {owner} reads {name!r}: {wrong}")

    def check_sources(self, sources: Collection[str]) -> None:
        """Refuse several source domains for a method that is made for one."""
        if len(sources) > 1 and not getattr(self.aligner, "several_sources", True):
            raise CellfeatError(
                f"{self.title} is fitted on one source domain (several_sources = False), but is given "
                f"{len(sources)}: {', '.join(sorted(sources))}. Use the protocol cross-domain (--set "
                "protocol.name=cross-domain), which gives it one after the other, or name one (--source)"
            )

    def fit(self, cells: Cells, context: Context) -> None:
        """Fit on source rows and, where the method asks for them, target rows; files that it writes elsewhere than in
        scratch are told of."""
        if not self.aligner.uses_target:
            cells = cells[~cells.is_target]
        view = self._shown(cells, shuffled(cells, context))
        found: list[Path] = []
        try:
            watched = written_outside([context.scratch, cache_folder()], _home(self.aligner))
            with blamed(self.title, self.name), watched as found:
                fitted = self.aligner.fit(view, context)
        finally:
            self._tell_written(found, context)
        self.aligner, self.probed = self.aligner if fitted is None else fitted, False

    def _tell_written(self, found: Sequence[Path], context: Context) -> None:
        if found and type(self.aligner) not in _told:
            _told.add(type(self.aligner))
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            context.note(
                f"{self.title} wrote outside its scratch folder: {found[0]}{more}. A run that is started again does "
                "not find that, and runs side by side share it: keep checkpoints in context.scratch; tell its author"
            )

    def transform(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, D) float32 or (N, 3, S, S) uint8, in the order of the cells."""
        with blamed(self.title, self.name):
            if self.aligner.writes == "image":
                return self._painted(cells, context)
            return self._asked(cells, context, "transform", lambda view: self.aligner.transform(view, context))

    def reconstruct(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, 3, s, s) uint8 RGB in the order of the cells, of a method that draws what it kept of them."""
        drawn = self._raw(cells, context, lambda view: self.aligner.reconstruct(view, context))
        if drawn.dtype != np.uint8 or drawn.ndim != 4 or drawn.shape[:2] != (len(cells), 3):
            raise CellfeatError(
                f"{self.title}: reconstruct must give a uint8 array of ({len(cells)}, 3, s, s), but gave {_form(drawn)}"
                f"{self._advice}"
            )
        return drawn

    def predict_proba(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, K) float, of a method with its own head."""
        return np.asarray(self._raw(cells, context, lambda view: self.aligner.predict_proba(view, context)), float)

    def sample_weight(self, cells: Cells, context: Context) -> np.ndarray:
        """(N,) float weights of source rows."""
        return np.asarray(self._raw(cells, context, self.aligner.sample_weight), float)

    def fit_adjust(self, proba: np.ndarray, cells: Cells, context: Context) -> None:
        """Show the method the classifier's probabilities of the cells that the protocol lets it adapt to."""
        order = shuffled(cells, context)
        self.aligner.fit_adjust(proba[order], self._shown(cells, order).hide_labels(), context)

    def adjust(self, proba: np.ndarray, cells: Cells, context: Context) -> np.ndarray:
        """(N, K) corrected probabilities, each row by itself."""
        order = shuffled(cells, context)
        view = self._shown(cells, order).hide_labels()
        answer = np.asarray(self.aligner.adjust(proba[order], view), float)
        few = slice(0, PROBE_ROWS)
        self._same(np.asarray(self.aligner.adjust(proba[order][few], view[few]), float), answer[few], "adjust")
        return answer[np.argsort(order)]

    def _shown(self, cells: Cells, order: np.ndarray) -> Cells:
        try:
            return shown(cells, self.aligner, order)
        except CellfeatError as error:
            raise CellfeatError(f"{self.title}: {error}") from None

    def _raw(self, cells: Cells, context: Context, ask: Any) -> np.ndarray:
        order = shuffled(cells, context)
        return np.asarray(ask(self._shown(cells, order).hide_labels()))[np.argsort(order)]

    def _asked(self, cells: Cells, context: Context, what: str, ask: Any) -> np.ndarray:
        order = shuffled(cells, context)
        view = self._shown(cells, order).hide_labels()
        answer = self._vectors(ask(view), len(cells))
        if not self.probed and len(cells) > PROBE_ROWS:
            few = slice(0, PROBE_ROWS)
            self._same(self._vectors(ask(view[few]), PROBE_ROWS), answer[few], what)
            self.probed = True
        return answer[np.argsort(order)]

    def _painted(self, cells: Cells, context: Context) -> np.ndarray:
        order = shuffled(cells, context)
        view = self._shown(cells, order).hide_labels()
        shape = cells.column("image").shape
        images = _on_disk(shape, context)
        for start in range(0, len(view), IMAGES_AT_ONCE):
            part = view[start : start + IMAGES_AT_ONCE]
            images[order[start : start + len(part)]] = self._images(
                self.aligner.transform(part, context), (len(part), *shape[1:])
            )
        return images

    def _same(self, alone: np.ndarray, together: np.ndarray, what: str) -> None:
        if np.abs(alone - together).max(initial=0) > PROBE_TOLERANCE * max(1.0, float(np.std(together))):
            raise CellfeatError(
                f"{self.title}: {what} answers a cell differently when other cells come with it, so that cells which "
                f"are only scored would be adapted to. What is learned from cells belongs into fit{self._advice}"
            )

    def _vectors(self, values: Any, count: int) -> np.ndarray:
        if not isinstance(values, np.ndarray) or values.ndim != 2 or len(values) != count or values.dtype != np.float32:
            raise CellfeatError(
                f"{self.title} must give a float32 array of ({count}, D), but gave {_form(values)}{self._advice}"
            )
        bad = ~np.isfinite(values).all(axis=1)
        if bad.any():
            raise CellfeatError(
                f"{self.title} gave NaN or infinite features for {bad.sum()} of {count} cells{self._advice}"
            )
        return values

    def _images(self, values: Any, shape: tuple[int, ...]) -> np.ndarray:
        if not isinstance(values, np.ndarray) or values.shape != shape or values.dtype != np.uint8:
            raise CellfeatError(
                f"{self.title} must give a uint8 array of {shape}, but gave {_form(values)}{self._advice}"
            )
        return values


def _home(aligner: Any) -> list[Path]:
    """The folder of a method's own module, where authors like to keep things; none where it is everybody's."""
    try:
        folder = Path(inspect.getfile(type(aligner))).parent
    except (OSError, TypeError):  # made in a session, or built in
        return []
    return [] if folder.name in SHARED else [folder]


def _on_disk(shape: tuple[int, ...], context: Context) -> np.ndarray:
    """Zeroed uint8 of a shape in a file without a name, gone with the array: images of 100,000 cells fit no memory."""
    with tempfile.TemporaryFile(dir=context.scratch) as file:
        return np.memmap(file, np.uint8, "w+", shape=shape) if np.prod(shape) else np.zeros(shape, np.uint8)


def _form(values: Any) -> str:
    return f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
