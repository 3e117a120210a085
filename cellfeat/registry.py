"""From entry points to checked objects. A plugin that fails is reported; every other one loads."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy
import pydantic
import pydantic_core

from cellfeat import hookspecs
from cellfeat.errors import CellfeatError, unknown
from cellfeat.slots import API_VERSION, MEMBERS, SLOTS, Context, Factory

GROUP = "cellfeat"
NAME = re.compile(r"[\w-]+")  # `,` `:` and `.` part names on the command line


@dataclass(frozen=True)
class Offer:
    """One factory under one name, and who offers it."""

    slot: str
    name: str
    factory: Factory
    plugin: str
    distribution: str
    version: str

    @property
    def summary(self) -> str:
        """The first line of the factory's documentation."""
        return (inspect.getdoc(self.factory) or "").partition("\n")[0]

    def parameters(self) -> type[pydantic.BaseModel]:
        """The configuration, read from the factory's signature."""
        return _parameters(self.factory)

    def resolve(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """`params` checked and completed with the defaults, as JSON values; a wrong key or type is one clear line."""
        try:
            return self._checked(params).model_dump(mode="json", warnings=False)
        except pydantic_core.PydanticSerializationError as error:
            raise CellfeatError(
                f"{self.slot} {self.name!r} of {self.distribution} has a parameter that no recipe can hold: {error}. "
                "Tell the plugin's author"
            ) from None

    def _checked(self, params: Mapping[str, Any]) -> pydantic.BaseModel:
        model = self.parameters()
        for key, value in params.items():
            if key not in model.model_fields:
                raise CellfeatError(unknown(f"parameter of {self.slot} {self.name!r}", str(key), model.model_fields))
            annotation = model.model_fields[key].annotation
            if isinstance(value, bool) and not {bool, Any} & {annotation, *typing.get_args(annotation)}:
                # pydantic would take `yes` for the number 1
                raise CellfeatError(f"{self.slot} {self.name!r}: {key} is {value}, but must be {_kind(annotation)}")
        try:
            return model(**params)
        except pydantic.ValidationError as error:
            raise CellfeatError(self._explain(error, model, params)) from None

    def _explain(
        self, error: pydantic.ValidationError, model: type[pydantic.BaseModel], params: Mapping[str, Any]
    ) -> str:
        first = error.errors()[0]
        key = str(first["loc"][0])
        kind = _kind(model.model_fields[key].annotation)
        if first["type"] == "missing" and len(first["loc"]) == 1:  # else an item of a tuple that is too short
            return f"{self.slot} {self.name!r} needs {key} ({kind}): --set {self.slot}.{key}=…"
        return f"{self.slot} {self.name!r}: {key} is {params[key]!r}, but must be {kind} ({first['msg']})"

    def arguments(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """`params` checked and completed with the defaults, of the types that the factory's signature says."""
        # Through the recipe's JSON values, so that a stored recipe builds the same object; `vars`, because the factory
        # wants the Path or tuple that its signature says.
        return vars(self._checked(self.resolve(params)))

    def create(self, params: Mapping[str, Any], context: Context) -> Any:
        """The object itself, checked for what its slot asks."""
        handed = {"context": context} if "context" in inspect.signature(self.factory).parameters else {}
        product = self.factory(**self.arguments(params), **handed)
        missing = [member for member in MEMBERS[self.slot] if not hasattr(product, member)]
        if missing:
            raise CellfeatError(
                f"{self.slot} {self.name!r} of {self.distribution} gave a {type(product).__name__} without "
                f"{', '.join(missing)}; a {self.slot} needs {', '.join(MEMBERS[self.slot])}. Tell the plugin's author"
            )
        return product


def _kind(annotation: Any) -> str:
    return inspect.formatannotation(annotation).replace("typing.", "")


@functools.cache
def _parameters(factory: Factory) -> type[pydantic.BaseModel]:
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


@dataclass(frozen=True)
class Broken:
    """A plugin that did not load, and why."""

    plugin: str
    distribution: str
    reason: str


@dataclass
class Registry:
    """Every offer of every installed plugin."""

    offers: list[Offer] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)

    def add(self, plugin: str, distribution: str, version: str, load: Callable[[], Any]) -> None:
        """Load one plugin and take its offers; whatever goes wrong in it stays with it."""
        try:
            self.offers += _offers(load(), plugin, distribution, version)
        except (Exception, SystemExit) as error:
            text = str(error) if isinstance(error, CellfeatError) else f"{type(error).__name__}: {error}"
            reason = " ".join(text.split())
            self.broken.append(Broken(plugin, distribution, reason))

    def names(self, slot: str) -> list[str]:
        return sorted({offer.name for offer in self.offers if offer.slot == slot})

    def find(self, slot: str, name: str) -> Offer:
        """The offer called `name`, or `distribution:name` where two distributions offer one name."""
        distribution, _, bare = name.rpartition(":")
        found = [offer for offer in self.offers if offer.slot == slot and offer.name == bare]
        if distribution:
            found = [offer for offer in found if offer.distribution == distribution]
        if not found:
            choices = self.names(slot)
            if distribution:
                choices = [f"{offer.distribution}:{offer.name}" for offer in self.offers if offer.slot == slot]
            raise CellfeatError(unknown(slot, name, choices, self._broken_hint()))
        if len(found) > 1:
            both = ", ".join(f"{offer.distribution}:{bare}" for offer in found)
            raise CellfeatError(f"{len(found)} plugins offer {slot} {bare!r}; say which one: {both}")
        return found[0]

    def create(self, slot: str, name: str, params: Mapping[str, Any], context: Context) -> Any:
        return self.find(slot, name).create(params, context)

    def _broken_hint(self) -> str:
        names = ", ".join(sorted(item.plugin for item in self.broken))
        return f"Not loaded: {names} (`cellfeat plugins list` says why)" if names else ""


def _offers(module: Any, plugin: str, distribution: str, version: str) -> Iterable[Offer]:
    """What one module offers through its hooks, each hook's signature and answer checked."""
    wanted = getattr(module, "CELLFEAT_API_VERSION", API_VERSION)
    if wanted != API_VERSION:
        raise CellfeatError(f"it is written for plugin API {wanted}, this cellfeat has {API_VERSION}")
    manager = pluggy.PluginManager("cellfeat")
    manager.add_hookspecs(hookspecs)
    manager.register(module, name=plugin)
    manager.check_pending()
    offers = []
    for slot in SLOTS:
        for answer in getattr(manager.hook, f"cellfeat_{slot}")():
            if not isinstance(answer, dict) or not all(callable(factory) for factory in answer.values()):
                raise CellfeatError(f"cellfeat_{slot} must return {{name: factory}}, got {answer!r}")
            for name, factory in answer.items():
                _check_offer(slot, name, factory)
                offers.append(Offer(slot, name, factory, plugin, distribution, version))
    if not offers:
        raise CellfeatError("it offers nothing: no function in it is marked @hookimpl, or none returns a factory")
    return offers


def _check_offer(slot: str, name: Any, factory: Factory) -> None:
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise CellfeatError(f"{slot} {name!r} cannot be asked for; a name has letters, digits, - and _")
    if "name" in inspect.signature(factory).parameters:
        raise CellfeatError(f"{slot} {name!r} has a parameter `name`, which in a recipe names the method itself")


def load(points: Iterable[EntryPoint] | None = None) -> Registry:
    """A registry of the installed distributions' plugins (or of the given entry points)."""
    registry = Registry()
    for point in sorted(entry_points(group=GROUP) if points is None else points, key=lambda point: point.name):
        name, version = (point.dist.name, point.dist.version) if point.dist else ("unknown", "?")
        registry.add(point.name, name, version, point.load)
    return registry


@functools.cache
def installed() -> Registry:
    """The registry of this process, loaded once."""
    return load()
