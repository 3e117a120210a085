"""Interrupting a fit as Ctrl-C would, and starting it again beside what it left in its scratch folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cellfeat.testing.align_fits import comparable, forgets
from cellfeat.testing.align_form import compared
from cellfeat.testing.align_subject import AlignSubject
from cellfeat.testing.checks import Failed, Skipped, check
from cellfeat.testing.gates import needs
from cellfeat.testing.life import Life
from cellfeat.training import Checkpoint


@check(
    "Keep checkpoints by `cellfeat.training.Checkpoint`, with a key of cells, parameters and seed; let Ctrl-C through."
)
def resume(subject: AlignSubject) -> None:
    """A fit that was interrupted, and is started again in the same scratch folder, ends as one that was not."""
    needs(subject, forgets)
    first = comparable(subject)
    stops = _stops(first)
    with checkpoints_at_once():
        begun = subject.begun()
        for advanced, read in stops:
            life = subject.begun(begun.folder, advanced, read)
            try:
                life.lead(subject.made, subject.data())
            except KeyboardInterrupt:
                if not (life.reporter.stopped or life.reads.stopped):
                    raise  # the user's own
                continue
            if life.reporter.stopped or life.reads.stopped:
                raise Failed("fit went on although it was interrupted: it must let KeyboardInterrupt through")
        resumed = subject.begun(begun.folder).lead(subject.made, subject.data())
    compared("a fit that was interrupted and resumed is another", resumed.answers, first.answers)


def _stops(first: Life) -> list[tuple[float | None, int | None]]:
    """(advanced, read): in the middle and at the end of what bars tell of a fit, or else of what it reads."""
    advanced, read = first.steps
    if advanced:
        return [(advanced / 2, None), (advanced, None)]
    if read:
        return [(None, (read + 1) // 2), (None, read)]
    raise Skipped("fit has no bar and reads nothing: there is nothing to interrupt it at")


@contextmanager
def checkpoints_at_once() -> Iterator[None]:
    """Checkpoints are due after every step: a fit of seconds would have none."""
    before, Checkpoint.seconds = Checkpoint.seconds, 0.0
    try:
        yield
    finally:
        Checkpoint.seconds = before


RESUME = (resume,)
