"""That a fitted method outlives its process: saved without a pickle, loaded elsewhere, and the same."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from cellfeat.testing.align_answers import same_answer
from cellfeat.testing.align_cells import with_other_roles
from cellfeat.testing.align_fits import same_seed, tried
from cellfeat.testing.align_form import close, compared, differing, formed, lived
from cellfeat.testing.align_subject import AlignSubject
from cellfeat.testing.checks import Failed, NotReached, Skipped, check, told
from cellfeat.testing.columns import ARRAYS
from cellfeat.testing.fresh import in_fresh_process
from cellfeat.testing.gates import gate, needs
from cellfeat.testing.life import Life
from cellfeat.testing.pickles import pickles
from cellfeat.types import ArrayColumn, Cells

LOADED, FITTED, OTHERS = "loaded/", "fitted/", "others/"


@check("Inherit `cellfeat.SavesState`, or write safetensors, JSON or skops: a pickle runs whatever its author likes.")
def no_pickles(subject: AlignSubject) -> None:
    """What is saved has no pickle in it, under whatever name."""
    life = lived(subject)
    if not life.saved.is_dir():
        raise NotReached("save-load")
    found = pickles(life.saved)
    if found:
        raise Failed(f"{', '.join(found)}: a pickle was saved; use safetensors, JSON or skops")


@gate("Write all that fit learned, and every parameter, into the folder of save; keep no path to that folder.")
def save_load(subject: AlignSubject) -> None:
    """A saved method, loaded from another place, gives the same answers."""
    needs(subject, same_answer)
    life = formed(subject)
    if "save-load" in life.errors:
        raise Failed(f"saving or loading raises {told(life.errors['save-load'])}")
    compared("a loaded copy answers differently", life.loaded, life.answers)
    _keeps_parameters(subject, life)


def _keeps_parameters(subject: AlignSubject, life: Life) -> None:
    """Each parameter that answers depend on, with another value than it was fitted with. Raises: Failed."""
    for name in inspect.signature(type(life.method)).parameters:
        other = _another(getattr(life.method, name, None))
        if other is None:
            continue
        changed, folder = copy.copy(life.method), subject.folder / f"with-{name}"
        got = wanted = None
        # A value that it does not take, or that what it learned does not fit, tells nothing.
        with suppress(Exception), subject.asking() as context:
            setattr(changed, name, other)
            wanted = changed.transform(life.seen, context)
            folder.mkdir()
            changed.save(folder)
            got = type(changed).load(folder).transform(life.seen, context)
        if got is not None and not close(got, wanted):
            raise Failed(f"saved with {name} = {other!r}, a loaded copy answers differently: {differing(got, wanted)}")


def _another(value: Any) -> Any:
    """Another value of the same kind; None for what is no number."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1 if isinstance(value, int) else value / 2 + 0.25
    return None


@check("Write all that is needed in save; never depend on an earlier fit, import order, `hash`, or the order of a set.")
def fresh_process(subject: AlignSubject) -> None:
    """In a fresh interpreter a loaded method answers as before, and a new fit is the same."""
    needs(subject, save_load)
    life = formed(subject)
    cells = subject.data()
    comparable = _comparable(subject)
    there = ask_there(subject, cells, {"loaded"} | ({"fitted"} if comparable else set()))
    compared("a copy loaded there answers differently", _part(there, LOADED), life.answers)
    if comparable:
        compared(
            "a fit in other roles, here the second one, is another there", _part(there, OTHERS), tried(subject).others
        )
    compared("a fit is another there", _part(there, FITTED), life.answers)


def _comparable(subject: AlignSubject) -> bool:
    try:
        needs(subject, same_seed)
    except Skipped:
        return False
    return True


def ask_there(subject: AlignSubject, cells: Cells, wanted: set[str]) -> dict[str, np.ndarray]:
    """What the saved method, and one that is fitted there, answer in a fresh interpreter."""
    arrays = {name: getattr(cells, name) for name in ARRAYS}
    arrays |= {f"column-{name}": cells.read(name) for name in subject.product.reads}
    arrays["wanted"] = np.array(sorted(wanted))
    life = lived(subject)
    with life.without_scratch():
        return in_fresh_process(answers_there, subject.factory, subject.params, life.folder, arrays, slot="align")


def answers_there(
    factory: Callable[..., Any], params: Mapping[str, Any], folder: Path, arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The task of the fresh interpreter, in a folder of a life that was saved."""
    columns = {name.removeprefix("column-"): values for name, values in arrays.items() if name.startswith("column-")}
    cells = Cells(**{name: arrays[name] for name in ARRAYS}, columns={k: ArrayColumn(v) for k, v in columns.items()})
    subject = AlignSubject(factory, params, folder / "there", cells=cells)
    found = _answers(LOADED, subject.begun().revived(subject.made, cells, folder))
    if "fitted" in arrays["wanted"]:
        with suppress(Exception):  # how other cells can be fitted on is an affair of other checks
            found |= _answers(OTHERS, subject.life(with_other_roles(cells)).answers)
        found |= _answers(FITTED, subject.life(cells).answers)
    return found


def _answers(prefix: str, answers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {f"{prefix}{name}": np.asarray(value) for name, value in answers.items()}


def _part(answers: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in answers.items() if name.startswith(prefix)}


SAVING = (no_pickles, save_load, fresh_process)
