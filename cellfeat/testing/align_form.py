"""What an alignment method declares, and the form of everything that it answers."""

from __future__ import annotations

from typing import Any

import numpy as np

from cellfeat.testing.align_subject import AlignSubject
from cellfeat.testing.checks import Failed, NotReached, check, told
from cellfeat.testing.gates import gate, needs
from cellfeat.testing.life import Life
from cellfeat.testing.says import check_facts

READABLE = ("image", "mask", "map", "pooled", "crop")
RELATIVE, ABSOLUTE = 1e-4, 1e-5  # by which answers may differ that are computed in another batch


@gate("Give the class the named members; `cellfeat/slots.py` says what each of them is.")
def members(subject: AlignSubject) -> None:
    """The factory gives an object with every member of an aligner."""
    try:
        _ = subject.product
    except Failed:
        raise
    except (Exception, SystemExit) as error:
        raise Failed(f"the factory raises {told(error)}") from error


@gate("Correct the class attribute: `reads` is a tuple of column names, `writes` 'pooled' or 'image', flags are bool.")
def declaration(subject: AlignSubject) -> None:
    """What the method declares means something: reads, writes, flags, and the optional facts."""
    needs(subject, members)
    check_facts("align", subject.factory, subject.product)
    there = [name for name in READABLE if name in subject.data().columns]
    unknown = [name for name in subject.product.reads if name not in there]
    if unknown:
        raise Failed(f"reads names {', '.join(unknown)}; there are {', '.join(there)}")


def _first(subject: AlignSubject, check_name: str) -> Life:
    """The first life. Raises: Failed with what stopped it, if that is this check's affair; Skipped, if another's."""
    needs(subject, declaration)
    if isinstance(subject.first, Life):
        return subject.first
    if subject.first.check == check_name:
        raise Failed(subject.first.text)
    raise NotReached(subject.first.check)


@gate("Name in `reads` every column that the method asks the cells for.")
def reads(subject: AlignSubject) -> None:
    """The method asks for no column but those that it declares in `reads`."""
    _first(subject, "reads")


@gate("Mend what is raised; a message for the user is a CellfeatError, but these cells are ordinary ones.")
def runs(subject: AlignSubject) -> None:
    """A fit and a transform of ordinary cells come to their end."""
    _first(subject, "runs")


def lived(subject: AlignSubject) -> Life:
    """The first life. Raises: Skipped, where something stopped it."""
    needs(subject, runs)
    return _first(subject, "runs")


def stopped_by(subject: AlignSubject, name: str) -> Life:
    """The first life, or Failed where what stopped it is the affair of this check."""
    return _first(subject, name)


@gate("Return one row per cell: (N, D) for `writes = 'pooled'`, (N, 3, S, S) as they came for `writes = 'image'`.")
def shape(subject: AlignSubject) -> None:
    """transform gives a NumPy array with one row per cell, of the shape that `writes` says."""
    life = lived(subject)
    answer, writes = life.answers["features"], life.method.writes
    if not isinstance(answer, np.ndarray):
        raise Failed(f"transform must give a NumPy array, not {type(answer).__name__}")
    wanted = life.seen.column("image").shape if writes == "image" and "image" in life.method.reads else None
    if answer.ndim != (2 if writes == "pooled" else 4):
        must = "(cells, features)" if writes == "pooled" else "(cells, 3, S, S)"
        raise Failed(f"transform gave the shape {answer.shape}, must be {must}")
    if len(answer) != len(life.seen):
        raise Failed(f"{len(life.seen)} cells went in, {len(answer)} rows came out")
    if wanted is not None and answer.shape != wanted:
        raise Failed(f"transform gave images of the shape {answer.shape}, not {wanted}")


def formed(subject: AlignSubject) -> Life:
    """The first life, whose answers have one row per cell. Raises: Skipped, where they do not."""
    needs(subject, runs, shape)
    return lived(subject)


@check("End transform with `.astype(np.float32)`, or `.astype(np.uint8)` for images.")
def dtype(subject: AlignSubject) -> None:
    """transform gives float32 vectors or uint8 images."""
    life = formed(subject)
    wanted = np.float32 if life.method.writes == "pooled" else np.uint8
    found = life.answers["features"].dtype
    if found != wanted:
        raise Failed(f"transform must give {np.dtype(wanted)}, not {found}")


@check("Look for a division by zero or an overflow in the domains that are named.")
def finite(subject: AlignSubject) -> None:
    """transform gives neither NaN nor infinite values, in any domain."""
    life = formed(subject)
    bad = ~finite_rows(life)
    if bad.any():
        domains = ", ".join(sorted(set(life.seen.domain[bad].tolist())))
        raise Failed(f"transform gave NaN or infinite values for {bad.sum()} of {len(bad)} cells, of {domains}")


def finite_rows(life: Life) -> np.ndarray:
    """(N,) bool: which rows of the features are numbers throughout."""
    values = np.asarray(life.answers["features"], np.float64)
    return np.asarray(np.isfinite(values).reshape(len(values), -1).all(axis=1))


def close(got: Any, wanted: Any, exact: bool = False, absolute: float = ABSOLUTE) -> bool:
    """Whether two answers are the same, bit for bit or but for the rounding of another batch; NaN equals NaN."""
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    if got.shape != wanted.shape:
        return False
    if exact:
        return np.array_equal(got, wanted, equal_nan=True)
    return np.allclose(got, wanted, rtol=RELATIVE, atol=absolute, equal_nan=True)


def same_dtype(what: str, got: Any, life: Life) -> None:
    """Raises: Failed, unless features have the dtype of the first life's; which one that must be, `dtype` tells."""
    found, wanted = np.asarray(got).dtype, life.answers["features"].dtype
    if found != wanted:
        raise Failed(f"{what}: transform gave {found}, but {wanted} at first")


def differing(got: Any, wanted: Any) -> str:
    """By how much two answers differ, for a message."""
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    if got.shape != wanted.shape:
        return f"the shape {got.shape}, not {wanted.shape}"
    difference = np.abs(got - wanted).reshape(len(got), -1)
    rows = (~(difference <= 0)).any(axis=1).sum()
    return f"{rows} of {len(got)} rows differ, by up to {np.nanmax(difference, initial=0):.3g}"


def compared(what: str, got: dict[str, Any], wanted: dict[str, Any], exact: bool = False) -> None:
    """Raises: Failed, if one of the answers that both have is another."""
    for name in wanted:
        if name in got and not close(got[name], wanted[name], exact):
            raise Failed(f"{what}: of {NAMES[name]} {differing(got[name], wanted[name])}")


NAMES = {
    "features": "the features",
    "proba": "the probabilities",
    "weight": "the weights",
    "uncorrected": "the probabilities before fit_adjust",
    "corrected": "the corrected probabilities",
    "drawn": "the drawings",
}

FORM = (members, declaration, reads, runs, shape, dtype, finite)
