"""Checks that encoders and classifiers share: that it can be used at all, and what its use does to everything else."""

from __future__ import annotations

from typing import Any

from cellfeat.testing.checks import Failed, NotReached, check, told
from cellfeat.testing.devices import gpu_in_sight
from cellfeat.testing.gates import gate, needs
from cellfeat.testing.process import unusual_process
from cellfeat.testing.used import Used

TOLD = 3  # of many files, that are named


@gate("Give the object every member that its slot asks for, of the type that cellfeat/slots.py says.")
def members(subject: Used) -> None:
    """It has what its slot asks for, and what it says of itself has the right form."""
    try:
        _ = subject.product
    except Failed:
        raise
    except (Exception, SystemExit):
        raise NotReached("runs") from None
    subject.check_product()


@gate("Mend what is raised; the same call made by hand shows the whole traceback.")
def runs(subject: Used) -> None:
    """It is built with these parameters, and answers."""
    try:
        _ = subject.product
    except Failed:
        raise NotReached("members") from None
    needs(subject, members)
    subject.first()


@check("Compute on `context.device`, for which the factory asks by an argument `context`; look for no GPU yourself.")
def device(subject: Used) -> None:
    """It computes on the CPU when its context says so, though there is a GPU."""
    subject.works()
    tensors: list[Any] = []
    with gpu_in_sight() as tempted:
        try:
            tensors = subject.use()
        except (Exception, SystemExit) as error:
            if not tempted:
                raise Failed(f"where torch sees a GPU it raises {told(error)}") from error
    if tempted:
        raise Failed(tempted[0])
    elsewhere = sorted({str(tensor.device) for tensor in tensors if tensor.device.type != "cpu"})
    if elsewhere:
        raise Failed(f"its context names the CPU, and it answers on {', '.join(elsewhere)}")


@check(
    "Draw from `context.generator` or a generator of your own, seeded by `context.seed`; put settings of the process "
    "back, or leave them to the user (cellfeat.training.seeded serves for networks)."
)
def process(subject: Used) -> None:
    """It leaves random states, threads, settings, environment and working folder as they were."""
    subject.works()
    subject.changed.clear()
    with unusual_process():
        subject.use()
    if subject.changed:
        raise Failed(f"it changed {', '.join(dict.fromkeys(subject.changed))}")


@check("Tell the user by `context.note` and show progress by `context.progress`; print nothing.")
def quiet(subject: Used) -> None:
    """It writes nothing to the terminal by itself."""
    subject.works()  # all that it did so far was listened to
    if subject.heard:
        first = next(line for line in subject.heard[0].splitlines() if line.strip())
        raise Failed(f"it wrote to the terminal: {first.strip()[:100]!r}")


@check("Write into `context.scratch` alone, for which the factory asks by an argument `context`.")
def scratch(subject: Used) -> None:
    """It writes no file outside of its scratch folder."""
    subject.works()  # all that it did so far was watched
    if subject.written:
        named = ", ".join(map(str, subject.written[:TOLD]))
        more = f" and {len(subject.written) - TOLD} more" if len(subject.written) > TOLD else ""
        raise Failed(f"it wrote, moved or removed {named}{more}")


@gate("Make it faster, have it checked with smaller parameters, or raise the budget if it has to be slow.")
def budget(subject: Used) -> None:
    """It takes no longer than the budget: one fit, one predict, or one pass of an encoder, on toys."""
    subject.works()
    seconds = subject.timed()
    if seconds > subject.budget:  # perhaps the machine was busy, or something was loaded
        seconds = min(seconds, subject.timed())
    if seconds > subject.budget:
        raise Failed(f"it took {seconds:.2g} s; the budget is {subject.budget:g} s")


def in_time(subject: Used) -> None:
    """Go on where nothing was too slow so far, or not by its own fault. Raises: NotReached, of `budget`."""
    if subject.longest > subject.budget:
        needs(subject, budget)
