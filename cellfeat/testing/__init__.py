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

from cellfeat.testing.checks import Finding, NonconformityError, Report
from cellfeat.testing.kit import checks_of, examine
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


def check_align(factory: Callable[..., Any], folder: Path | None = None, cells: Any = None, **params: Any) -> None:
    """Check an alignment method on toy cells, or on `cells` of your own: (N,) with the columns that it reads.

    Raises: NonconformityError, an AssertionError, with every fault and its remedy.
    """
    examine("align", factory, params, folder=folder, cells=cells).raise_failures()


def check_backbone(factory: Callable[..., Any], folder: Path | None = None, **params: Any) -> None:
    """Check a backbone on toy images of its own size. Raises: NonconformityError, as `check_align`."""
    examine("backbone", factory, params, folder=folder).raise_failures()


def check_segmenter(
    factory: Callable[..., Any], folder: Path | None = None, size: int | None = None, **params: Any
) -> None:
    """Check a segmenter on toy images of `size` pixels. Raises: NonconformityError, as `check_align`."""
    examine("segmenter", factory, params, folder=folder, size=size).raise_failures()


def check_classifier(factory: Callable[..., Any], folder: Path | None = None, **params: Any) -> None:
    """Check a classifier on separable toy features. Raises: NonconformityError, as `check_align`."""
    examine("classifier", factory, params, folder=folder).raise_failures()
