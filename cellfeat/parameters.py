"""A factory's keyword arguments as its configuration: names, types and defaults, read from the signature."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import pydantic

from cellfeat.slots import Factory

HOMES = re.compile(r"\b(typing|pathlib(\._local)?)\.")  # that need not be told of a type


def kind(annotation: Any) -> str:
    """A type as a user reads it."""
    return HOMES.sub("", inspect.formatannotation(annotation))


def default_text(field: pydantic.fields.FieldInfo) -> str:
    """A parameter's default as a user reads it, the same on every machine."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return repr(value.as_posix() if isinstance(value, PurePath) else value)


@functools.cache
def model_of(factory: Factory) -> type[pydantic.BaseModel]:
    """The arguments that have defaults or must be given, but for `context`, as a model that checks values by their
    annotations and refuses others."""
    function = inspect.unwrap(factory.func if isinstance(factory, functools.partial) else factory)
    function = function.__init__ if inspect.isclass(function) else function
    known = getattr(function, "__globals__", {})
    fields: dict[str, Any] = {}
    made = _default_factories(factory)
    for name, parameter in inspect.signature(factory).parameters.items():
        if name == "context" or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        if default is MADE_LATER and name in made:
            default = pydantic.Field(default_factory=made[name])
        fields[name] = (_annotation(parameter, known), default)
    config = pydantic.ConfigDict(
        extra="forbid", arbitrary_types_allowed=True, protected_namespaces=(), ser_json_inf_nan="constants"
    )
    return pydantic.create_model("Parameters", __config__=config, **fields)


@dataclass
class _Probe:
    made: list[Any] = field(default_factory=list)


# What stands in a data class's signature for a default that is made anew for every object.
MADE_LATER = inspect.signature(_Probe).parameters["made"].default


def _default_factories(factory: Factory) -> dict[str, Callable[[], Any]]:
    """{field: default_factory} of a data class, also of one whose arguments are partly given."""
    made_by = factory.func if isinstance(factory, functools.partial) else factory
    if not dataclasses.is_dataclass(made_by):
        return {}
    return {
        item.name: item.default_factory
        for item in dataclasses.fields(made_by)
        if item.default_factory is not dataclasses.MISSING
    }


def _annotation(parameter: inspect.Parameter, known: dict[str, Any]) -> Any:
    """A parameter's type; anything, where there is none or it is only imported for type checkers."""
    if parameter.annotation is parameter.empty:
        return Any
    if not isinstance(parameter.annotation, str):
        return parameter.annotation
    try:
        return eval(parameter.annotation, known)
    except (NameError, AttributeError):
        return Any
