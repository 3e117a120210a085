"""What the shell offers where a name is typed: methods, recipes, weights, and the like, with what they are.

Installed by `cellfeat --install-completion`. Names come from the installed plugins; what goes wrong offers nothing.
"""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Callable, Iterable

Offers = list[tuple[str, str]]  # name and one line of help
VARIABLE = "_CELLFEAT_COMPLETE"  # set by the shell that asks


def _guarded(offers: Callable[[], Iterable[tuple[str, str]]]) -> Callable[[str], Offers]:
    """A callback for Typer: those that begin with what is typed, in order; none where asking fails."""

    @functools.wraps(offers)
    def complete(incomplete: str) -> Offers:
        try:
            return sorted({(name, told) for name, told in offers() if name.startswith(incomplete)})
        except Exception:  # a message would end up in the line that is being typed
            return []

    # Typer hands over what it finds by annotation, and `wraps` has set those of the wrapped function.
    complete.__annotations__ = {"incomplete": str, "return": Offers}
    del complete.__wrapped__  # type: ignore[attr-defined]
    return complete


def _methods(slot: str) -> Iterable[tuple[str, str]]:
    from cellfeat.registry import installed

    return [(offer.name, offer.summary) for offer in installed().offers if offer.slot == slot]


@_guarded
def backbones() -> Iterable[tuple[str, str]]:
    return _methods("backbone")


@_guarded
def segmenters() -> Iterable[tuple[str, str]]:
    return _methods("segmenter")


@_guarded
def classifiers() -> Iterable[tuple[str, str]]:
    return _methods("classifier")


def aligners(incomplete: str) -> Offers:
    """One method, or the last one of a chain: per-domain-z,cor."""
    above, comma, last = incomplete.rpartition(",")
    return [(f"{above}{comma}{name}", told) for name, told in _aligners(last)]


@_guarded
def _aligners() -> Iterable[tuple[str, str]]:
    return _methods("align")


@_guarded
def methods() -> Iterable[tuple[str, str]]:
    """Of every slot."""
    from cellfeat.slots import SLOTS

    return [one for slot in SLOTS for one in _methods(slot)]


@_guarded
def recipes() -> Iterable[tuple[str, str]]:
    """Those that come with cellfeat, and the YAML files that are here."""
    from pathlib import Path

    from cellfeat.recipe import built_in

    files = [path.name for path in (*Path().glob("*.yaml"), *Path().glob("*.yml"))]
    return [*((name, "comes with cellfeat") for name in built_in()), *((name, "a file here") for name in files)]


@_guarded
def vocabularies() -> Iterable[tuple[str, str]]:
    from cellfeat.labels import VOCABULARIES

    return [(name, f"{len(one.classes)} classes") for name, one in VOCABULARIES.items()]


@_guarded
def weights() -> Iterable[tuple[str, str]]:
    from cellfeat.registry import installed

    return [(name, f"{item.size_mb:,.0f} MB, {item.licence}") for name, item in installed().named_weights().items()]


@_guarded
def adaptations() -> Iterable[tuple[str, str]]:
    from cellfeat.report import ADAPT_WORDS

    return ADAPT_WORDS.items()


@_guarded
def devices() -> Iterable[tuple[str, str]]:
    return [("auto", "the best there is"), ("cpu", ""), ("cuda", "NVIDIA GPU"), ("mps", "Apple GPU")]


@_guarded
def precisions() -> Iterable[tuple[str, str]]:
    from cellfeat.training import PRECISIONS

    return PRECISIONS.items()


@_guarded
def parameters() -> Iterable[tuple[str, str]]:
    """SECTION.KEY= of the methods that the line names, or of all parameters where it names none."""
    from cellfeat.plugin_pages import OPTIONS, parameter_rows
    from cellfeat.registry import installed

    words = typed()
    asked = {slot: words[words.index(option) + 1] for slot, option in OPTIONS.items() if option in words[:-1]}
    found: Offers = []
    for offer in installed().offers:
        if offer.name in asked.get(offer.slot, "").split(","):
            found += [(f"{key}=", kind) for key, kind, _ in parameter_rows(offer)]
    return found


def is_asked() -> bool:
    """Whether a shell asks what could be typed."""
    return VARIABLE in os.environ


def typed() -> list[str]:
    """The words of the line that a shell asks about, the program's name first; none where no shell asks."""
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""
    if not is_asked():
        return []
    try:
        return shlex.split(line)
    except ValueError:  # a quote that is still open
        return line.split()
