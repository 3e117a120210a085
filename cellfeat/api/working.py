"""What the functions of `cellfeat.api` share: where they work, and what they show."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellfeat.workplace import Workplace

Sets = Mapping[str, Any] | Sequence[str]  # {"align.epochs": 50} or ["align.epochs=50"]


def workplace(verbose: bool, *args: Any, **options: Any) -> Workplace:
    """The installed plugins, and somebody who looks on only where that was asked for; the rest as `Workplace`."""
    from cellfeat.console import SilentReporter, TerminalReporter
    from cellfeat.registry import installed
    from cellfeat.workplace import Workplace

    return Workplace(installed(), TerminalReporter() if verbose else SilentReporter(), *args, **options)


def bar(verbose: bool) -> Callable[[int | None, str], AbstractContextManager[Any]] | None:
    """Progress on stderr where it was asked for."""
    from cellfeat.console import progress

    return progress if verbose else None


def assignments(sets: Sets) -> list[str]:
    """As `--set` has them; JSON is YAML."""
    if isinstance(sets, Mapping):
        return [f"{key}={json.dumps(value)}" for key, value in sets.items()]
    return list(sets)
