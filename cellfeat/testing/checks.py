"""What a check of the conformance kit is, what it finds of a plugin, and how that is told."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellfeat.errors import CellfeatError, unknown

OWN = Path(__file__).resolve().parent.parent


class Failed(AssertionError):
    """A check's verdict: what the plugin did, in one line."""


class Skipped(Exception):
    """A check that has nothing to look at in this plugin, and why."""


class NotReached(Skipped):
    """A check that waits for another one, by whose name this is raised, and which failed."""

    def __init__(self, awaited: str) -> None:
        super().__init__(f"not reached: {awaited} failed")
        self.awaited = awaited


class NonconformityError(AssertionError):
    """A plugin that breaks the contract of its slot; the message names every failed check and its remedy."""


@dataclass(frozen=True)
class Check:
    """One promise of the contract. `look(subject)` raises Failed where it is broken, Skipped where it is not asked."""

    name: str
    promise: str
    remedy: str
    look: Callable[[Any], None]


def check(remedy: str) -> Callable[[Callable[[Any], None]], Check]:
    """Make a check of a function: named after it, its promise is the first line of its documentation.

    remedy: what the author of a plugin that fails should do, one sentence.
    """

    def made(look: Callable[[Any], None]) -> Check:
        promise = (look.__doc__ or "").partition("\n")[0].rstrip(".")
        return Check(look.__name__.replace("_", "-"), promise, remedy, look)

    return made


@dataclass(frozen=True)
class Finding:
    """What one check found. passed: None where it was not asked; `text` says why. awaited: the check that it waits for,
    where that failed."""

    check: str
    promise: str
    passed: bool | None
    text: str
    remedy: str
    seconds: float
    awaited: str = ""


@dataclass(frozen=True)
class Report:
    """Every check of a slot on one plugin, in order."""

    slot: str
    name: str
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.passed is False]

    def raise_failures(self) -> None:
        """Raises: NonconformityError, unless every check that was asked for passed or has nothing to look at."""
        lines = [f"{item.check}: {item.text}\n    remedy: {item.remedy}" for item in self.failed]
        lines = lines or [f"{item.check}: {item.text}" for item in self.findings if item.awaited]
        if lines:
            count = f"{len(lines)} of {len(self.findings)} checks failed"
            raise NonconformityError("\n".join([f"{self.slot} {self.name}: {count}", *lines]))


def find(checks: Sequence[Check], name: str) -> Check:
    """The check of this name. Raises: CellfeatError with the names that there are."""
    for item in checks:
        if item.name == name:
            return item
    raise CellfeatError(unknown("check", name, [item.name for item in checks]))


def looked(checks: Sequence[Check], subject: Any) -> Iterator[Finding]:
    """The findings of every check on one subject, one after the other, whatever the plugin raises."""
    for item in checks:
        yield looked_at(item, subject)


def looked_at(item: Check, subject: Any) -> Finding:
    """The finding of one check; only an interruption gets through."""
    started = time.monotonic()
    passed: bool | None = True
    text = awaited = ""
    try:
        item.look(subject)
    except NotReached as reason:
        passed, text, awaited = None, str(reason), reason.awaited
    except Skipped as reason:
        passed, text = None, str(reason)
    except Failed as fault:
        passed, text = False, str(fault)
    except (Exception, SystemExit) as error:  # the plugin's own, which must not stop the other checks
        passed, text = False, told(error)
    seconds = time.monotonic() - started
    return Finding(item.name, item.promise, passed, " ".join(text.split()), item.remedy, seconds, awaited)


def told(error: BaseException) -> str:
    """An error in one line, with the last place outside of cellfeat that it went through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if OWN not in Path(frame.filename).parents]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
