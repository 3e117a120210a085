"""That a fitted method answers for each cell by itself: in any company, without its label, of any domain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from cellfeat.errors import UnseenDomainError
from cellfeat.handing import shown
from cellfeat.testing.align_form import close, differing, finite_rows, formed, same_dtype
from cellfeat.testing.align_process import inputs
from cellfeat.testing.align_subject import AlignSubject
from cellfeat.testing.checks import Failed, check, told
from cellfeat.testing.gates import gate, needs
from cellfeat.testing.life import Life
from cellfeat.types import Cells

STRANGER = "never-seen"


def transformed(subject: AlignSubject, cells: Cells) -> Any:
    """What the first life's method answers now."""
    with subject.asking() as context:
        return formed(subject).method.transform(cells, context)


@gate("Draw nothing in transform, and put a network into evaluation mode before it is asked.")
def same_answer(subject: AlignSubject) -> None:
    """transform gives the same for the same cells whenever it is asked."""
    needs(subject, inputs)
    life = formed(subject)
    again = transformed(subject, life.seen)
    if not close(again, life.answers["features"]):
        raise Failed(f"asked again, it answers differently: {differing(again, life.answers['features'])}")


@gate("Return the rows in the order of the cells that came: fill an array by row numbers, never sort or group.")
def row_order(subject: AlignSubject) -> None:
    """Rows are answered in the order in which they came."""
    needs(subject, same_answer)
    life = formed(subject)
    order = np.random.default_rng(0).permutation(len(life.seen))
    got, wanted = transformed(subject, life.seen[order]), life.answers["features"][order]
    if not close(got, wanted):
        raise Failed(f"cells in another order get other rows: {differing(got, wanted)}")


@check("Learn from cells in fit alone; transform must not take a mean, a rank or a norm over the rows that came.")
def one_cell(subject: AlignSubject) -> None:
    """A cell is answered alone as among others."""
    needs(subject, row_order)
    life = formed(subject)
    for row in [np.flatnonzero(life.seen.domain == name)[-1] for name in np.unique(life.seen.domain)]:
        alone = shown(life.seen, life.method, np.array([row]))  # numbered anew, as in a run
        got, wanted = transformed(subject, alone), life.answers["features"][[row]]
        if not close(got, wanted):
            raise Failed(f"one cell alone is answered differently than among others: {differing(got, wanted)}")
        same_dtype("one cell alone", got, life)
    _first_of_all(subject, life)


def _first_of_all(subject: AlignSubject, life: Life) -> None:
    """Raises: Failed, if a cell that is asked for before all others has another answer. Only where fits are equal."""
    if not subject.facts.deterministic:
        return
    row = len(life.seen) - 1
    alone, wanted = shown(life.seen, life.method, np.array([row])), life.answers["features"]
    got = subject.fitted_and_asked(alone)
    if not close(got, wanted[[row]]) and close(subject.second.answers["features"], wanted):
        raise Failed(f"one cell, asked before all others, is answered differently: {differing(got, wanted[[row]])}")


@check("Do not look at `cells.label` in transform: there all labels are hidden in a run.")
def transform_labels(subject: AlignSubject) -> None:
    """Labels that are there when cells are transformed change nothing."""
    needs(subject, same_answer)
    life = formed(subject)
    label = np.random.default_rng(1).integers(0, max(life.classes, 1), len(life.seen))
    got, wanted = transformed(subject, replace(life.seen, label=label)), life.answers["features"]
    if not close(got, wanted, exact=True):
        raise Failed(f"transform looks at labels: {differing(got, wanted)}")


@check("Place a domain that fit was not shown, or raise `cellfeat.UnseenDomainError(name, unseen, seen)`.")
def unseen_domain(subject: AlignSubject) -> None:
    """Cells of a domain that fit was not shown are placed or refused by UnseenDomainError."""
    life = formed(subject)
    known = np.flatnonzero(finite_rows(life))[:2]
    stranger = replace(life.seen[known], domain=np.array([STRANGER] * len(known)))
    try:
        answer = transformed(subject, stranger)
    except UnseenDomainError:
        return
    except Exception as error:
        raise Failed(
            f"an unseen domain must be placed or refused by UnseenDomainError, not by {told(error)}"
        ) from error
    check_numbers("an unseen domain", answer, len(known), life)


def check_numbers(what: str, answer: Any, count: int, first: Life) -> None:
    """Raises: Failed, unless there is a row of numbers for every cell, of the dtype of the first life's."""
    if np.shape(answer)[:1] != (count,):
        raise Failed(f"{what}: {count} cells went in, the shape {np.shape(answer)} came out")
    if not np.isfinite(answer).all():
        raise Failed(f"{what}: transform gave NaN or infinite values")
    same_dtype(what, answer, first)


ANSWERS = (same_answer, row_order, one_cell, transform_labels, unseen_domain)
