"""What an alignment method may answer beside features: probabilities, corrections, weights and drawings, row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cellfeat.handing import shown
from cellfeat.slots import Context
from cellfeat.testing.align_form import ABSOLUTE, close, differing, lived
from cellfeat.testing.align_process import inputs
from cellfeat.testing.align_subject import AlignSubject
from cellfeat.testing.checks import Failed, Skipped, check
from cellfeat.testing.gates import needs
from cellfeat.testing.life import Life

ROUNDING = 1e-4  # of a sum of probabilities
LEVEL = 1.0  # of 255, by which rounding may change a drawing that is computed in another batch
DRAWN = 3  # cells that are drawn again: drawing takes long


@check("Return (N, K) probabilities over the K classes of the fit, in the order of the sorted labels, row by row.")
def head(subject: AlignSubject) -> None:
    """predict_proba gives every cell probabilities of the classes that fit was shown, each row by itself."""
    life = lived(subject)
    proba = answer_of(life, "head", "proba")
    check_proba("predict_proba", proba, (len(life.seen), life.classes))

    def ask(rows: np.ndarray, context: Context) -> Any:
        return life.method.predict_proba(shown(life.seen, life.method, rows), context)

    in_another_order(subject, proba, ask)
    alone(subject, proba, ask, "one cell alone has other probabilities than among others")


@check("Return corrected (N, K) probabilities row by row; where `fit_adjust` was never called, those that came.")
def adjust(subject: AlignSubject) -> None:
    """adjust gives probabilities again, each row by itself, whether or not there was something to adapt to."""
    life = lived(subject)
    corrected = answer_of(life, "adjust", "corrected")
    form = (len(life.seen), life.classes)
    if "uncorrected" in life.answers:
        check_proba("adjust before fit_adjust", life.answers["uncorrected"], form)
    check_proba("adjust", corrected, form)

    def ask(rows: np.ndarray, context: Context) -> Any:
        return life.corrected(life.method, rows)

    in_another_order(subject, corrected, ask)
    alone(subject, corrected, ask, "one cell alone is corrected differently")


@check("Return one weight per source cell, in their order, finite, at least 0, and not all 0.")
def sample_weight(subject: AlignSubject) -> None:
    """sample_weight gives every source cell a weight that a classifier can use."""
    life = lived(subject)
    weight = np.asarray(answer_of(life, "sample-weight", "weight"), float)
    if weight.shape != (len(life.source),):
        raise Failed(f"sample_weight gave {weight.shape} for {len(life.source)} cells")
    if not np.isfinite(weight).all():
        raise Failed("sample_weight gave NaN or infinite weights")
    if weight.min() < 0 or weight.max() == 0:
        raise Failed(
            "sample_weight gave negative weights" if weight.min() < 0 else "sample_weight gave no cell any weight"
        )

    def ask(rows: np.ndarray, context: Context) -> Any:
        return life.method.sample_weight(shown(life.source, life.method, rows))

    in_another_order(subject, weight, ask)  # a mean of 1 over the cells that came is allowed, so none is asked alone


@check("Return (N, 3, s, s) uint8 RGB, one picture per cell, in their order.")
def reconstruct(subject: AlignSubject) -> None:
    """reconstruct draws one picture of every cell."""
    life = lived(subject)
    drawn = answer_of(life, "reconstruct", "drawn")
    form = f"{drawn.dtype} {drawn.shape}" if isinstance(drawn, np.ndarray) else type(drawn).__name__
    right = isinstance(drawn, np.ndarray) and drawn.dtype == np.uint8 and drawn.ndim == 4
    if not right or drawn.shape[:2] != (len(life.seen), 3) or drawn.shape[2] != drawn.shape[3]:
        raise Failed(f"reconstruct must give uint8 of ({len(life.seen)}, 3, s, s), but gave {form}")

    def ask(rows: np.ndarray, context: Context) -> Any:
        return life.method.reconstruct(shown(life.seen, life.method, rows), context)

    in_another_order(subject, drawn, ask, DRAWN, LEVEL)


def answer_of(life: Life, check_name: str, name: str) -> Any:
    """An optional answer. Raises: what kept the method from giving it; Skipped, where it has no such member."""
    if check_name in life.errors:
        raise life.errors[check_name]
    if name not in life.answers:
        raise Skipped("the method has no such member")
    return life.answers[name]


Ask = Callable[[np.ndarray, Context], Any]


def in_another_order(
    subject: AlignSubject, answer: Any, ask: Ask, count: int | None = None, absolute: float = ABSOLUTE
) -> None:
    """Raises: Failed, unless rows are answered in the order in which they come; count: of so many of them."""
    needs(subject, inputs)  # cells that it changes have another answer
    order = np.random.default_rng(0).permutation(len(answer))[:count]
    with subject.asking() as context:
        got = ask(order, context)
    wanted = np.asarray(answer)[order]
    if not close(got, wanted, absolute=absolute):
        raise Failed(f"cells in another order get other rows: {differing(got, wanted)}")


def alone(subject: AlignSubject, answer: Any, ask: Ask, what: str) -> None:
    """Raises: Failed, unless the first and the last cell are answered alone as among others."""
    for row in (0, len(answer) - 1):
        with subject.asking() as context:
            got = ask(np.array([row]), context)
        wanted = np.asarray(answer)[[row]]
        if not close(got, wanted):
            raise Failed(f"{what}: {differing(got, wanted)}")


def check_proba(what: str, proba: Any, form: tuple[int, ...]) -> None:
    """Raises: Failed, unless these are (cells, classes) probabilities."""
    if np.shape(proba) != form:
        raise Failed(f"{what} gave {np.shape(proba)}, must be (cells, classes) = {form}")
    if not np.isfinite(proba).all():
        raise Failed(f"{what} gave NaN or infinite probabilities")
    if np.min(proba) < 0:
        raise Failed(f"{what} gave negative probabilities")
    if not np.allclose(np.sum(proba, axis=1), 1, atol=ROUNDING):
        raise Failed(f"the rows of {what} do not sum to 1")


OPTIONAL = (head, adjust, sample_weight, reconstruct)
