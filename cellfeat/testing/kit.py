"""The conformance kit as functions: look at one plugin with every check of its slot."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cellfeat.errors import CellfeatError, unknown
from cellfeat.slots import SLOTS
from cellfeat.testing.checks import Check, Finding, Report, find, looked
from cellfeat.testing.subject import BUDGET, Subject


def checks_of(slot: str) -> tuple[Check, ...]:
    """Every check of a slot, in the order in which they are made.

    Raises: CellfeatError for a slot that there is not.
    """
    return _module(slot).CHECKS


def _module(slot: str) -> Any:
    if slot not in SLOTS:
        raise CellfeatError(unknown("slot", slot, SLOTS))
    return importlib.import_module(f"cellfeat.testing.{slot}")


@contextmanager
def subject(
    slot: str, factory: Callable[..., Any], params: Mapping[str, Any], folder: Path | None, budget: float, **own: Any
) -> Iterator[Subject]:
    """What the checks look at; a folder that was not given goes away afterwards. own: what a slot's subject takes."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield _module(slot).SUBJECT(factory, params, folder, budget, **own)
        return
    with tempfile.TemporaryDirectory(prefix="cellfeat-check-") as made:
        yield _module(slot).SUBJECT(factory, params, Path(made), budget, **own)


def findings(
    slot: str,
    factory: Callable[..., Any],
    params: Mapping[str, Any] | None = None,
    *,
    folder: Path | None = None,
    only: Sequence[str] | str = (),
    budget: float = BUDGET,
    **own: Any,
) -> Iterator[Finding]:
    """What every check finds, one after the other. See `examine`."""
    known = checks_of(slot)
    asked = [find(known, name) for name in ([only] if isinstance(only, str) else only)] or list(known)
    with subject(slot, factory, params or {}, folder, budget, **own) as looked_on:
        yield from looked(asked, looked_on)


def examine(
    slot: str,
    factory: Callable[..., Any],
    params: Mapping[str, Any] | None = None,
    *,
    name: str = "",
    folder: Path | None = None,
    only: Sequence[str] | str = (),
    budget: float = BUDGET,
    **own: Any,
) -> Report:
    """Look at one plugin with every check of its slot; whatever it raises is a finding.

    Args:
        slot: backbone, segmenter, align or classifier.
        factory: what the plugin's hook gives under the method's name.
        params: the parameters to check it with; small ones keep a check of a network short.
        name: how the report calls it; by default as the factory is called.
        folder: for scratch folders and saved states; by default one that goes away.
        only: names of checks; by default all.
        budget: seconds that one fit, or one pass of an encoder, on the toys may take.
        own: `cells`, for an aligner, instead of toy cells; `size`, for a segmenter, the images' side in pixels.

    Raises: CellfeatError for an unknown slot or check.
    """
    found = findings(slot, factory, params, folder=folder, only=only, budget=budget, **own)
    return Report(slot, name or name_of(factory), tuple(found))


def name_of(factory: Callable[..., Any]) -> str:
    """How a report calls a factory that nobody named."""
    return getattr(factory, "__name__", type(factory).__name__)
