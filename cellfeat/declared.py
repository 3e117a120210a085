"""What a method declares of itself: read from its factory and its object, checked, shown and stamped on records."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from cellfeat.slots import Factory

WRITES = ("pooled", "image")


@dataclass(frozen=True)
class Facts:
    """The facts of one method; `reads` to `uses_labels` are an aligner's alone, `detects` a segmenter's.

    None: it is none, or the fact depends on parameters that have no defaults. requires_cellfeat: a version specifier
    (">=0.1") or "". licence: SPDX or "". paper: a citation or "". detects: whether it finds cells in whole photographs.
    """

    reads: tuple[str, ...] | None = None
    writes: str | None = None
    uses_target: bool | None = None
    uses_labels: bool | None = None
    several_sources: bool = True
    deterministic: bool = True
    api: int = 1
    requires_cellfeat: str = ""
    licence: str = ""
    paper: str = ""
    detects: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON values, by the names of the fields."""
        return {**asdict(self), "reads": None if self.reads is None else list(self.reads)}


class Rule(NamedTuple):
    """What a declared fact must be, in words and as a function."""

    must: str
    holds: Callable[[Any], bool]


def _is_names(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and all(isinstance(name, str) for name in value)


FLAG = Rule("True or False", lambda value: isinstance(value, bool))
TEXT = Rule("text", lambda value: isinstance(value, str))
ANY_SLOT = {"deterministic": FLAG, "licence": TEXT, "paper": TEXT}
ALIGNER = {
    "reads": Rule("a tuple of column names", _is_names),
    "writes": Rule(" or ".join(map(repr, WRITES)), lambda value: value in WRITES),
    **dict.fromkeys(("uses_target", "uses_labels", "several_sources"), FLAG),
}
SEGMENTER = {"detects": FLAG}
ASKED = ("reads", "writes", "uses_target", "uses_labels")  # of every aligner
_ABSENT = object()


def faults(slot: str, declaring: Any) -> list[str]:
    """What is wrong with the facts that a factory or an object declares, as in "reads is 'map', but must be …"."""
    found = []
    for name, rule in _rules(slot).items():
        value = _declared(declaring, name)
        if value is not _ABSENT and not rule.holds(value):
            found.append(f"{name} is {value!r}, but must be {rule.must}")
    return found


def facts(
    slot: str, factory: Factory, product: Any = None, api: int = 1, requires_cellfeat: str = "", licence: str = ""
) -> Facts:
    """The facts of a method, with its plugin's api, requirement and licence.

    What its object says counts more than what its factory says, since facts may depend on parameters. Without an object
    an aligner whose factory does not tell is built with its defaults, where it has them and asks for no context.
    """
    if product is None and slot == "align" and any(_declared(factory, name) is _ABSENT for name in ASKED):
        product = _built(factory)  # which may import much, and is seldom needed
    found: dict[str, Any] = {"licence": licence}
    for name in _rules(slot):
        value = _ABSENT if product is None else _declared(product, name)
        value = _declared(factory, name) if value is _ABSENT else value
        if value is not _ABSENT:
            found[name] = value
    if slot == "segmenter" and "detects" not in found:
        found["detects"] = _detects(factory if product is None else product)
    if _is_names(found.get("reads")):
        found["reads"] = tuple(found["reads"])
    return Facts(api=api, requires_cellfeat=requires_cellfeat, **found)


def _rules(slot: str) -> dict[str, Rule]:
    return {"align": ALIGNER, "segmenter": SEGMENTER}.get(slot, {}) | ANY_SLOT


def _detects(declaring: Any) -> bool | None:
    """Whether a segmenter, or its class, has `detect`; None for a function, which does not tell what it gives."""
    while isinstance(declaring, functools.partial):
        declaring = declaring.func
    return None if inspect.isroutine(declaring) else callable(getattr(declaring, "detect", None))


def _declared(declaring: Any, name: str) -> Any:
    """A fact as it stands there. On a class, what only its objects can tell (a property, say) is not there."""
    while isinstance(declaring, functools.partial):
        declaring = declaring.func
    if not inspect.isclass(declaring):
        return getattr(declaring, name, _ABSENT)
    value = inspect.getattr_static(declaring, name, _ABSENT)
    return _ABSENT if hasattr(type(value), "__get__") else value


def _built(factory: Factory) -> Any:
    parameters = inspect.signature(factory).parameters.values()
    asks = [one.name for one in parameters if one.default is one.empty and one.kind not in (2, 4)]
    if asks or any(one.name == "context" for one in parameters):
        return None
    try:
        return factory()
    except (Exception, SystemExit):  # what its class says must do then
        return None
