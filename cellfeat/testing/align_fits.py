"""What a fit may depend on: its cells, the labels that it is shown and its seed, and nothing else."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from cellfeat.testing.align_answers import same_answer, transformed
from cellfeat.testing.align_cells import with_hidden_labels, with_other_labels, with_other_roles
from cellfeat.testing.align_form import close, compared, differing, formed
from cellfeat.testing.align_subject import AlignSubject, Tried
from cellfeat.testing.checks import Failed, Skipped, check
from cellfeat.testing.gates import gate, needs
from cellfeat.testing.life import Life


def tried(subject: AlignSubject) -> Tried:
    """A fit with everything at once that must not matter to it, after a fit on cells in other roles.

    Where it gives what the first fit gave, none of it matters; where not, every check looks at its own part.
    """
    if subject.tried is None:
        life = formed(subject)
        others: dict[str, Any] = {}
        with suppress(Exception):  # how other cells can be fitted on is an affair of other checks
            others = subject.life(with_other_roles(subject.data())).answers
        first_again = transformed(subject, life.seen)
        cells = with_hidden_labels(subject.data())
        in_reach = subject.life(cells if life.method.uses_labels else with_other_labels(cells))
        subject.tried = Tried(others, first_again, in_reach.answers)
    return subject.tried


def _told_apart(subject: AlignSubject) -> bool:
    """Whether such a fit gives something else."""
    try:
        compared("", tried(subject).answers, formed(subject).answers, exact=True)
    except Failed:
        return True
    return False


@gate("Draw every random number from `context.generator` or `context.seed`, in the factory and in load as in fit.")
def same_seed(subject: AlignSubject) -> None:
    """Two fits on the same cells with one seed are equal, bit for bit."""
    needs(subject, same_answer)
    if not subject.facts.deterministic:
        raise Skipped("the method declares `deterministic = False`")
    if _told_apart(subject):
        one, other = subject.life(subject.data()), subject.life(subject.data())
        compared("two fits with one seed differ", other.answers, one.answers, exact=True)


def comparable(subject: AlignSubject) -> Life:
    """The first life, to which another one can be compared. Raises: Skipped, where two are never equal."""
    needs(subject, same_seed)
    return formed(subject)


@gate("Keep what is learned on the object (`self.mean_ = …`), never on the class, in a module or in a cache.")
def forgets(subject: AlignSubject) -> None:
    """A fit on other cells and labels in between changes neither a fitted method nor the next fit."""
    life = comparable(subject)
    now = tried(subject).first_again
    if not close(now, life.answers["features"], exact=True):
        raise Failed(f"another fit changed a fitted method: {differing(now, life.answers['features'])}")
    if _told_apart(subject):
        compared("another fit changed the next one", subject.life(subject.data()).answers, life.answers, exact=True)


@check("Learn from the cells that fit is handed and from nothing else: no global state, no other objects, no stack.")
def hidden_labels(subject: AlignSubject) -> None:
    """Labels that are hidden from the method change nothing, though they lie in reach as in a run."""
    needs(subject, forgets)
    life = comparable(subject)
    compared("labels that it must not see change its answers", tried(subject).answers, life.answers, exact=True)


FITS = (same_seed, forgets, hidden_labels)
