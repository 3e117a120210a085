"""What a fit may depend on: its cells, its labels and its seed, and nothing else; and cells that are hard to fit on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np

from cellfeat.errors import CellfeatError
from cellfeat.testing.align_answers import check_numbers, same_answer, transformed
from cellfeat.testing.align_form import close, compared, differing, finite_rows, formed, lived
from cellfeat.testing.align_subject import AlignSubject
from cellfeat.testing.checks import Failed, Skipped, check, told
from cellfeat.testing.gates import gate, needs
from cellfeat.testing.life import Life
from cellfeat.types import ArrayColumn, Cells, MissingColumnError

OUTSIDE = 128  # grey of a crop outside the cell, and of all of it where there is no cell


@gate("Draw every random number from `context.generator` or `context.seed`, in the factory and in load as in fit.")
def same_seed(subject: AlignSubject) -> None:
    """Two fits on the same cells with one seed are equal, bit for bit."""
    needs(subject, same_answer)
    if not subject.facts.deterministic:
        raise Skipped("the method declares `deterministic = False`")
    compared("two fits with one seed differ", subject.second.answers, formed(subject).answers, exact=True)


def comparable(subject: AlignSubject) -> Life:
    """The first life, to which another one can be compared. Raises: Skipped, where two are never equal."""
    needs(subject, same_seed)
    return formed(subject)


@gate("Keep what is learned on the object (`self.mean_ = …`), never on the class, in a module or in a cache.")
def forgets(subject: AlignSubject) -> None:
    """A fit on other cells and labels in between changes neither a fitted method nor the next fit."""
    life = comparable(subject)
    with suppress(CellfeatError):  # a refusal is an affair of other checks
        subject.life(_roles_changed(subject.data()))
    now = transformed(subject, life.seen)
    if not close(now, life.answers["features"], exact=True):
        raise Failed(f"another fit changed a fitted method: {differing(now, life.answers['features'])}")
    compared("another fit changed the next one", subject.life(subject.data()).answers, life.answers, exact=True)


def _roles_changed(cells: Cells) -> Cells:
    """The first target domain as the source, with labels, and the source as a target."""
    targets = sorted(set(cells.domain[cells.is_target].tolist()))
    named = with_hidden_labels(cells)
    return named.with_target(cells.domain != targets[0]) if targets else named


def with_hidden_labels(cells: Cells) -> Cells:
    """The cells with a label for every row, as a run has them."""
    drawn = np.random.default_rng(2).integers(0, max(cells.label.max() + 1, 2), len(cells))
    return replace(cells, label=np.where(cells.label < 0, drawn, cells.label))


@check("Learn from the cells that fit is handed and from nothing else: no global state, no other objects, no stack.")
def hidden_labels(subject: AlignSubject) -> None:
    """Labels that are hidden from the method change nothing, though they lie in reach as in a run."""
    needs(subject, forgets)
    life = comparable(subject)
    cells = with_hidden_labels(subject.data())
    if not life.method.uses_labels:
        cells = replace(cells, label=(cells.label + 1) % (cells.label.max() + 1))
    compared("labels that it must not see change its answers", subject.life(cells).answers, life.answers, exact=True)


@check("Let fit work where there is no target domain, or raise a CellfeatError that says what to do.")
def one_domain(subject: AlignSubject) -> None:
    """A fit on the source domain alone works or is refused by a CellfeatError."""
    life = formed(subject)
    if life.method.uses_target:
        _works_or_refuses(subject, "one domain", lambda cells: cells[~cells.is_target])


@check("Let fit work where the labelled cells are of several domains, or declare `several_sources = False`.")
def several_sources(subject: AlignSubject) -> None:
    """A fit on two source domains works, unless the method declares that it takes one."""
    formed(subject)
    if not subject.facts.several_sources:
        raise Skipped("the method declares `several_sources = False`")
    if len(set(subject.data().domain.tolist())) < 2:
        raise Skipped("the cells are of one domain")
    _works_or_refuses(subject, "two source domains", _two_sources, refusals=False)


def _two_sources(cells: Cells) -> Cells:
    """The source and the first target domain as sources, with labels."""
    first = min(cells.domain[cells.is_target].tolist(), default="")
    return with_hidden_labels(cells).with_target(cells.is_target & (cells.domain != first))


@check("Let fit work where the source has one class, or raise a CellfeatError that says what to do.")
def one_class(subject: AlignSubject) -> None:
    """A fit on source cells of one class works or is refused by a CellfeatError."""
    _works_or_refuses(subject, "one class", lambda cells: cells[cells.is_target | (cells.label == 0)])


@check("Let fit work where a target domain has one cell (its deviation is 0), or raise a CellfeatError.")
def lone_cell(subject: AlignSubject) -> None:
    """A fit with one cell of a target domain works or is refused by a CellfeatError."""
    life = lived(subject)
    if not life.method.uses_target or not life.seen.is_target.any():
        raise Skipped("its fit is shown no target cells")
    _works_or_refuses(subject, "a lone cell", _with_one_target_cell)


def _with_one_target_cell(cells: Cells) -> Cells:
    return cells[np.append(np.flatnonzero(~cells.is_target), cells.is_target.argmax())]


@check("Leave cells without a cell in them out of the fit, and give them some finite row in transform.")
def empty_masks(subject: AlignSubject) -> None:
    """Cells in whose image no cell was found disturb neither fit nor transform."""
    read = [name for name in ("mask", "crop") if name in lived(subject).method.reads]
    if not read:
        raise Skipped("it reads neither masks nor crops")
    _works_or_refuses(subject, "empty masks", lambda cells: _emptied(cells, read), refusals=False)


def _emptied(cells: Cells, names: list[str]) -> Cells:
    """The cells with an empty mask in one of every domain."""
    rows = np.unique(cells.domain, return_index=True)[1]
    for name in names:
        values = cells.read(name)
        values[rows] = OUTSIDE if name == "crop" else False
        cells = cells.with_column(name, ArrayColumn(values))
    return cells


def _works_or_refuses(
    subject: AlignSubject, what: str, chosen: Callable[[Cells], Cells], refusals: bool = True
) -> None:
    """Raises: Failed, unless a life on the chosen cells ends with numbers, or with a refusal that a user can act on."""
    first = formed(subject)
    try:
        life = subject.life(chosen(subject.data()))
    except Exception as error:
        if refusals and isinstance(error, CellfeatError) and not isinstance(error, MissingColumnError):
            return
        must = "works or is refused by a CellfeatError" if refusals else "works"
        raise Failed(f"{what}: a fit {must}, but it raises {told(error)}") from error
    known = np.isin(life.ids, first.ids[finite_rows(first)])  # what is no number anyway is told by another check
    answer = life.answers["features"]
    check_numbers(what, answer[known] if np.shape(answer)[:1] == known.shape else answer, known.sum())


FITS = (same_seed, forgets, hidden_labels, one_domain, several_sources, one_class, lone_cell, empty_masks)
