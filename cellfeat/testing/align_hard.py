"""Fits on cells that are hard to fit on, as data sets have them: they work, or are refused in words."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cellfeat.errors import CellfeatError
from cellfeat.testing.align_answers import check_numbers
from cellfeat.testing.align_cells import of_one_class, of_one_domain, of_two_sources, with_a_lone_cell, with_empty_masks
from cellfeat.testing.align_form import NAMES, finite_rows, formed
from cellfeat.testing.align_subject import AlignSubject
from cellfeat.testing.checks import Failed, NotReached, Skipped, check, told
from cellfeat.testing.life import Life
from cellfeat.types import Cells, MissingColumnError


@check("Let fit work where there is no target domain, or raise a CellfeatError that says what to do.")
def one_domain(subject: AlignSubject) -> None:
    """A fit on the source domain alone works or is refused by a CellfeatError."""
    if formed(subject).method.uses_target:  # the others have been shown the source alone from the beginning
        _works(subject, "one domain", of_one_domain, refusals=True)


@check("Let fit work where the labelled cells are of several domains, or declare `several_sources = False`.")
def several_sources(subject: AlignSubject) -> None:
    """A fit on two source domains works, unless the method declares that it takes one."""
    formed(subject)
    if not subject.facts.several_sources:
        raise Skipped("the method declares `several_sources = False`")
    if not subject.data().is_target.any():
        raise Skipped("the cells have no target domain to take as a second source")
    _works(subject, "two source domains", of_two_sources)


@check("Let fit work where the source has one class, or raise a CellfeatError that says what to do.")
def one_class(subject: AlignSubject) -> None:
    """A fit on source cells of one class works or is refused by a CellfeatError."""
    _works(subject, "one class", of_one_class, refusals=True)


@check("Let fit work where a target domain has one cell (its deviation is 0), or raise a CellfeatError.")
def lone_cell(subject: AlignSubject) -> None:
    """A fit with one cell of a target domain works or is refused by a CellfeatError."""
    life = formed(subject)
    if not life.method.uses_target or not life.seen.is_target.any():
        raise Skipped("its fit is shown no target cells")
    _works(subject, "a lone cell", with_a_lone_cell, refusals=True)


@check("Leave cells without a cell in them out of the fit, and give them some finite row in transform.")
def empty_masks(subject: AlignSubject) -> None:
    """Cells in whose image no cell was found disturb neither fit nor transform."""
    if not {"mask", "crop"} & set(formed(subject).method.reads):
        raise Skipped("it reads neither masks nor crops")
    _works(subject, "empty masks", with_empty_masks)


def _works(subject: AlignSubject, what: str, chosen: Callable[[Cells], Cells], refusals: bool = False) -> None:
    """Raises: Failed, unless a life on chosen cells ends with numbers, or, with `refusals`, with a user's error."""
    first = formed(subject)
    try:
        life = subject.life(chosen(subject.data()))
    except NotReached:
        raise
    except Exception as error:
        if refusals and isinstance(error, CellfeatError) and not isinstance(error, MissingColumnError):
            return
        must = "works or is refused by a CellfeatError" if refusals else "works"
        raise Failed(f"{what}: a fit {must}, but it raises {told(error)}") from error
    known = np.isin(life.ids, first.ids[finite_rows(first)])  # what is no number anyway is told by another check
    answer = life.answers["features"]
    check_numbers(what, answer[known] if np.shape(answer)[:1] == known.shape else answer, known.sum(), first)
    _optional(what, life, first, refusals)


def _optional(what: str, life: Life, first: Life, refusals: bool) -> None:
    """Raises: Failed, where what the first life could be asked beside features is refused to this one, or no number."""
    for name, error in life.errors.items():
        refused = refusals and isinstance(error, CellfeatError) and not isinstance(error, MissingColumnError)
        if name not in first.errors and not refused:
            raise Failed(f"{what}: {name} raises {told(error)}")
    for name, answer in life.answers.items():
        if np.isfinite(first.answers.get(name, np.nan)).all() and not np.isfinite(answer).all():
            raise Failed(f"{what}: {NAMES[name]} are NaN or infinite")


HARD = (one_domain, several_sources, one_class, lone_cell, empty_masks)
