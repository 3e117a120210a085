"""The scale of photographs that were taken alike: one estimate for the fields of a patient, of one microscope."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from cellfeat.decode import read_rgb
from cellfeat.smear_photographs import Photograph
from cellfeat.smear_scale import typical_diameter

ESTIMATED = "estimated from the photograph"
POOLED = "estimated from the photographs of the patient"
BORROWED = "estimated from other photographs of this size"
APART = 1.4  # factor between a photograph's own estimate and the patient's beyond which it has another magnification


class Estimate(NamedTuple):
    """diameter: of a typical white cell, px; None where nothing tells it. origin: where it is from."""

    diameter: float | None
    origin: str = ""


def estimated(photographs: Sequence[Photograph], advance: Callable[[], object]) -> list[Estimate]:
    """The scale of each photograph, by `typical_diameter` of all of them; advance: called after each."""
    found = []
    for one in photographs:
        found.append(typical_diameter(read_rgb(one.path)))
        advance()
    return pooled(photographs, found)


def pooled(photographs: Sequence[Photograph], diameters: Sequence[float | None]) -> list[Estimate]:
    """Of each photograph the median estimate over the patient's photographs of the same size in px.

    A field that tells little of its scale, or nothing, such as an empty one, thus has that of its neighbours, and all
    have one. Its own estimate stands where it is so far off that it must be of another objective. Where nothing of the
    patient's tells it, the other photographs of this size do.
    """
    sizes = [tuple(sorted((one.width, one.height))) for one in photographs]
    keys = [(one.patient, size) for one, size in zip(photographs, sizes, strict=True)]
    found = []
    for own, key, size in zip(diameters, keys, sizes, strict=True):
        alike = [value for value, other in zip(diameters, keys, strict=True) if other == key and value is not None]
        near = [value for value in alike if own is None or 1 / APART <= value / own <= APART]
        others = [value for value, other in zip(diameters, sizes, strict=True) if other == size and value is not None]
        if near:
            found.append(Estimate(median(near), POOLED if len(near) > 1 or own is None else ESTIMATED))
        else:
            found.append(Estimate(median(others), BORROWED) if others else Estimate(None))
    return found
