"""Checks that others wait for: a fault is told by the check that is meant for it, and by no other."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from cellfeat.testing.checks import Check, NotReached, Skipped, check


def gate(remedy: str) -> Callable[[Callable[[Any], None]], Check]:
    """A check, as `check` makes it, that is looked at once however many others wait for it.

    Its subjects have a dictionary `outcomes`.
    """

    def made(look: Callable[[Any], None]) -> Check:
        return check(remedy)(_once(look))

    return made


def _once(look: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(look)
    def once(subject: Any) -> None:
        if look not in subject.outcomes:
            subject.outcomes[look] = _outcome(look, subject)
        if subject.outcomes[look] is not None:
            raise subject.outcomes[look]

    return once


def _outcome(look: Callable[[Any], None], subject: Any) -> BaseException | None:
    try:
        look(subject)
    except (Exception, SystemExit) as error:
        return error
    return None


class NotAsked(Skipped):
    """A check that waits for one that was not asked."""


def needs(subject: Any, *gates: Check) -> None:
    """Go on only where these checks passed.

    Raises: NotReached, naming the first one that failed; NotAsked, with the reason why one was not asked itself.
    """
    for item in gates:
        try:
            item.look(subject)
        except NotReached as reason:
            raise NotReached(reason.awaited) from None
        except Skipped as reason:
            raise NotAsked(str(reason)) from None
        except (Exception, SystemExit):
            raise NotReached(item.name) from None


def after(subject: Any, *gates: Check) -> None:
    """Go on where these checks passed or were not asked. Raises: NotReached, naming the first one that failed."""
    for item in gates:
        with suppress(NotAsked):
            needs(subject, item)
