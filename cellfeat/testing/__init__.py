"""The conformance kit for authors of plugins: every promise of a slot's contract as a check that names what is broken.

    import pytest
    from cellfeat_my_method import MyMethod


    @pytest.mark.cellfeat("align", MyMethod, epochs=1)
    def test_contract(conformance):
        conformance()

is one test for every check. `check_align(MyMethod, epochs=1)` makes them all at once and raises AssertionError with
every fault and its remedy; `examine("align", MyMethod, {"epochs": 1})` gives them as a report; so does
`cellfeat plugins check NAME`. A factory that asks for `context` is handed a CPU context, as in a run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cellfeat.testing.checks import Finding, NonconformityError, Report, looked
from cellfeat.testing.kit import checks_of, examine, name_of, subject
from cellfeat.testing.subject import BUDGET
from cellfeat.testing.toys import cpu_context, toy_cells, toy_images

__all__ = [
    "Finding",
    "NonconformityError",
    "Report",
    "check_align",
    "check_backbone",
    "check_classifier",
    "check_segmenter",
    "checks_of",
    "cpu_context",
    "examine",
    "toy_cells",
    "toy_images",
]


def check_align(factory: Callable[..., Any], folder: Path | None = None, cells: Any = None, **params: Any) -> Any:
    """Check an alignment method on toy cells, or on `cells` of your own: (N,) with the columns that it reads.

    folder: for scratch folders and what is saved; by default one that goes away. Gives the fitted method.

    Raises: NonconformityError, an AssertionError, with every fault and its remedy.
    """
    return _judged("align", factory, params, folder, cells=cells)


def check_backbone(factory: Callable[..., Any], **params: Any) -> Any:
    """Check a backbone on toy images of its own size; gives the backbone. Raises: as `check_align`."""
    return _judged("backbone", factory, params)


def check_segmenter(factory: Callable[..., Any], size: int = 224, **params: Any) -> Any:
    """Check a segmenter on toy images of `size` pixels; gives the segmenter. Raises: as `check_align`."""
    return _judged("segmenter", factory, params, size=size)


def check_classifier(factory: Callable[..., Any], **params: Any) -> Any:
    """Check a classifier on separable toy features; gives a fitted one. Raises: as `check_align`."""
    return _judged("classifier", factory, params)


def _judged(
    slot: str, factory: Callable[..., Any], params: dict[str, Any], folder: Path | None = None, **own: Any
) -> Any:
    with subject(slot, factory, params, folder, BUDGET, **own) as looked_on:
        found = tuple(looked(checks_of(slot), looked_on))
        Report(slot, name_of(factory), found).raise_failures()
        return looked_on.judged()
