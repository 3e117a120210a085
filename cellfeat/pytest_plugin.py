"""The conformance kit as a pytest plugin: one marked function becomes one test for every check of its slot.

    @pytest.mark.cellfeat("align", MyMethod, epochs=1)
    def test_contract(conformance):
        conformance()

gives test_contract[members], test_contract[row-order] and so on. The marker takes the slot, the factory (or the name of
an installed method) and the parameters to check it with. How it is looked at is a marker of its own, because a method
may have parameters of any name: `@pytest.mark.cellfeat_options(budget=30, cells=my_cells)`, see OPTIONS. Both may stand
on a class or a module (`pytestmark`) as well. One subject serves all checks of a function, so that a fit which several
of them look at happens once.

Nothing is imported here but pytest: this module is loaded in every session, also where no test needs cellfeat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cellfeat.testing.subject import Subject

MARKER, FIXTURE = "cellfeat", "conformance"
OPTIONS = {  # of the second marker
    "budget": "seconds that one fit, or one pass of an encoder, may take on the toys",
    "only": "names of checks; the others make no test",
    "cells": "of an aligner: Cells to look at it with, instead of toy cells",
    "size": "of a segmenter: side of the toy images in pixels",
}
USE = f'@pytest.mark.{MARKER}("align", MyMethod, epochs=1) on a test that has the argument `{FIXTURE}` and calls it'


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"{MARKER}(slot, factory, **params): a method that keeps the contract of its slot"
    )
    options = "; ".join(f"{name}: {meaning}" for name, meaning in OPTIONS.items())
    config.addinivalue_line("markers", f"{MARKER}_options({', '.join(OPTIONS)}): how it is looked at. {options}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    item = metafunc.definition
    if _markers(item) > 1:
        raise _misused(f"{item.name} has several markers, of which one alone would count: write a function for each")
    if FIXTURE not in metafunc.fixturenames:
        if any(marker.name == MARKER for marker in item.own_markers):
            raise _misused(f"{item.name} is marked, but has no argument `{FIXTURE}`: nothing would be checked")
        return
    marker = item.get_closest_marker(MARKER)
    if marker is None:
        raise _misused(f"{item.name} asks for `{FIXTURE}`, but no marker says which method to look at")
    try:
        names = _checks(marker, _options(item))
    except ValueError as error:
        raise _misused(f"{item.name}: {error}") from None
    metafunc.parametrize(FIXTURE, names, indirect=True)


def _markers(item: pytest.Item) -> int:
    """How many methods a function, or one set of its parameters, names; those of its class do not count."""
    return sum(marker.name == MARKER for marker in item.own_markers)


def _misused(text: str) -> Exception:
    return pytest.Collector.CollectError(f"cellfeat: {text}. Write {USE}")


def _checks(marker: pytest.Mark, options: dict[str, Any]) -> list[str]:
    """Names of the checks that become tests; nothing of the method runs. Raises: ValueError."""
    from cellfeat.errors import CellfeatError
    from cellfeat.testing.checks import find
    from cellfeat.testing.kit import checks_of

    if len(marker.args) != 2:
        raise ValueError(f"the marker takes a slot and a factory, and was given {len(marker.args)} arguments")
    try:
        known = checks_of(marker.args[0])
        only = [find(known, name).name for name in options.get("only", ())]
    except CellfeatError as error:
        raise ValueError(str(error)) from None
    if not callable(marker.args[1]) and not isinstance(marker.args[1], str):
        raise ValueError(f"{marker.args[1]!r} is neither a factory nor the name of an installed method")
    return only or [item.name for item in known]


def _options(item: pytest.Item) -> dict[str, Any]:
    """What the second marker says, wherever it stands; the closest one counts. Raises: ValueError."""
    found: dict[str, Any] = {}
    for marker in item.iter_markers(f"{MARKER}_options"):
        strange = sorted(set(marker.kwargs) - set(OPTIONS))
        if marker.args or strange:
            given = ", ".join([*map(repr, marker.args), *strange])
            raise ValueError(
                f"{MARKER}_options takes {', '.join(f'{name}=' for name in OPTIONS)} and was given {given}"
            )
        found = {**marker.kwargs, **found}
    if isinstance(found.get("only"), str):
        found["only"] = (found["only"],)
    return found


class _Subjects:
    """One subject for all checks of one marked function, until the session ends."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self._made: dict[str, Subject] = {}

    def of(self, item: pytest.Item) -> Subject:
        key = item.nodeid.removesuffix(item.name) + getattr(item, "originalname", item.name)
        if key not in self._made:
            self._made[key] = self.stack.enter_context(_subject(item))
        return self._made[key]


def _subject(item: pytest.Item) -> Any:
    from cellfeat.registry import installed
    from cellfeat.testing.kit import subject
    from cellfeat.testing.subject import BUDGET

    marker = item.get_closest_marker(MARKER)
    assert marker is not None
    slot, factory = marker.args
    params: Any = marker.kwargs
    if isinstance(factory, str):
        offer = installed().find(slot, factory)
        checked = offer.arguments(params)
        factory, params = offer.factory, {name: checked[name] for name in params}
    options = {name: value for name, value in _options(item).items() if name != "only"}
    return subject(slot, factory, params, None, options.pop("budget", BUDGET), **options)


@pytest.fixture(scope="session")
def _cellfeat_subjects() -> Iterator[_Subjects]:
    subjects = _Subjects()
    with subjects.stack:
        yield subjects


@pytest.fixture
def conformance(request: pytest.FixtureRequest, _cellfeat_subjects: _Subjects) -> Iterator[Callable[[], None]]:
    """Looks at one check when it is called: passes, fails with the fault and its remedy, or skips with the reason."""
    called = False

    def look() -> None:
        nonlocal called
        called = True
        _look(request.node, request.param, _cellfeat_subjects)

    yield look
    if not called:
        pytest.fail(f"cellfeat: `{FIXTURE}` was never called, so that nothing was checked. Write {USE}", pytrace=False)


def _look(item: pytest.Item, name: str, subjects: _Subjects) -> None:
    from cellfeat.errors import CellfeatError
    from cellfeat.testing.checks import find, looked_at
    from cellfeat.testing.kit import checks_of

    if _markers(item) > 1:
        pytest.fail(f"cellfeat: {item.name} has several markers, of which one alone would count", pytrace=False)
    try:
        subject = subjects.of(item)
    except (CellfeatError, TypeError) as error:  # an unknown method, a wrong parameter, an option of another slot
        pytest.fail(f"cellfeat: {error}", pytrace=False)
    finding = looked_at(find(checks_of(subject.slot), name), subject)
    if finding.passed is None and finding.awaited in ("", *_options(item).get("only", (finding.awaited,))):
        pytest.skip(finding.text)  # what it waits for, if anything, fails in a test of its own
    if not finding.passed:
        pytest.fail(f"{finding.check}: {finding.text}\nremedy: {finding.remedy}", pytrace=False)
