"""That a method does its work and nothing beside it: to its inputs, the process, the disk, the terminal, the clock."""

from __future__ import annotations

import os

from cellfeat.testing.align_form import lived, stopped_by
from cellfeat.testing.align_subject import AlignSubject
from cellfeat.testing.checks import Failed, Skipped, check, told
from cellfeat.testing.gates import gate

SAID = 200  # characters of what a method prints that are told


@gate("Copy before you change: `values = cells.pooled` is yours, `cells.label` and the others are not.")
def inputs(subject: AlignSubject) -> None:
    """Nothing that the method is handed is changed by it."""
    life = stopped_by(subject, "inputs")
    if life.disturbed:
        raise Failed(f"it changed {', '.join(dict.fromkeys(life.disturbed))}")


@check("Use `context.generator` and `cellfeat.training.seeded`; put back every setting that you change.")
def process(subject: AlignSubject) -> None:
    """The process is left as it was: random states, threads, defaults, environment, filters of warnings."""
    lived(subject)
    if subject.beside.changed:
        raise Failed(f"it changed {', '.join(dict.fromkeys(subject.beside.changed))}")


@check("Compute on `context.device`; do not ask torch whether there is a GPU.")
def device(subject: AlignSubject) -> None:
    """The method computes on the device that its context names, also where torch sees another."""
    stopped_by(subject, "device")
    if subject.beside.tempted:
        raise Failed(subject.beside.tempted[0])
    if subject.beside.error is not None:
        raise Failed(f"where torch sees a GPU it raises {told(subject.beside.error)}")


@check("Write into `context.scratch`, and in save into its folder, and nowhere else.")
def scratch(subject: AlignSubject) -> None:
    """Files are written into the scratch folder and the folder of save alone."""
    life = lived(subject)
    if life.written:
        paths = [os.path.relpath(path, life.folder) for path in life.written]
        raise Failed(f"it wrote {', '.join(paths)}, outside of its scratch folder")
    if life.altered:
        raise Failed(f"load changed {', '.join(life.altered)} in the folder that it reads, which may be read-only")


@check("Tell the user something by `context.note` and `context.progress`; leave prints out.")
def quiet(subject: AlignSubject) -> None:
    """Nothing is printed."""
    said = " ".join("".join(lived(subject).heard).split())
    if said:
        raise Failed(f"it printed {said[:SAID]!r}")


@check("`with context.progress(total, 'what it does') as bar: bar.advance()`, and no more than `total` of them.")
def progress(subject: AlignSubject) -> None:
    """Bars have a text, and are advanced within their total and inside of their `with`."""
    life = lived(subject)
    if not life.reporter.bars:
        raise Skipped("it shows no bar")
    faults = [fault for bar in life.reporter.bars for fault in bar.faults()]
    if faults:
        raise Failed("; ".join(dict.fromkeys(faults)))


@check("Check it with fewer epochs, or make it faster: on a few dozen toy cells nothing should take so long.")
def budget(subject: AlignSubject) -> None:
    """Everything that the method is asked for a few toy cells, it does within the seconds that it is given."""
    lived(subject)
    if subject.slow:
        raise Failed(subject.slow)


PROCESS = (inputs, process, device, scratch, quiet, progress, budget)
