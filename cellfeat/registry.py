"""From entry points to checked objects. A plugin that fails is reported; every other one loads."""

from __future__ import annotations

import functools
import inspect
import re
import sys
import traceback
import typing
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pluggy
import pydantic
import pydantic_core

from cellfeat import hookspecs, plugin_sources
from cellfeat.declared import Facts, facts, faults
from cellfeat.errors import CellfeatError, blamed, unknown
from cellfeat.parameters import kind, model_of
from cellfeat.plugin_choice import ONLY, Choice
from cellfeat.plugin_sources import NotLoadable, Source
from cellfeat.slots import MEMBERS, SLOTS, Context, Factory

OWN_FOLDER = Path(__file__).resolve().parent
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
    api: int = 1
    requires_cellfeat: str = ""  # a version specifier, where the distribution says one
    licence: str = ""  # SPDX, where the distribution says it

    @property
    def summary(self) -> str:
        """The first line of the factory's documentation."""
        return (inspect.getdoc(self.factory) or "").partition("\n")[0]

    def parameters(self) -> type[pydantic.BaseModel]:
        """The configuration, read from the factory's signature."""
        return model_of(self.factory)

    def facts(self, product: Any = None) -> Facts:
        """What the method declares of itself, or what an object of it does."""
        return facts(self.slot, self.factory, product, self.api, self.requires_cellfeat, self.licence)

    def check_declaration(self, declaring: Any) -> None:
        """Refuse facts of a wrong type, of the factory or of an object that it gave.

        Raises: NotLoadable, a CellfeatError, which names the method and the facts.
        """
        wrong = faults(self.slot, declaring)
        if wrong:
            raise NotLoadable(
                f"{self.slot} {self.name!r} of {self.distribution}: {'; '.join(wrong)}",
                f"tell the author of {self.distribution}",
            )

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
                raise CellfeatError(f"{self.slot} {self.name!r}: {key} is {value}, but must be {kind(annotation)}")
        try:
            return model(**params)
        except pydantic.ValidationError as error:
            raise CellfeatError(self._explain(error, model, params)) from None

    def _explain(
        self, error: pydantic.ValidationError, model: type[pydantic.BaseModel], params: Mapping[str, Any]
    ) -> str:
        first = error.errors()[0]
        key = str(first["loc"][0])
        wanted = kind(model.model_fields[key].annotation)
        if first["type"] == "missing" and len(first["loc"]) == 1:  # else an item of a tuple that is too short
            return f"{self.slot} {self.name!r} needs {key} ({wanted}): --set {self.slot}.{key}=…"
        return f"{self.slot} {self.name!r}: {key} is {params[key]!r}, but must be {wanted} ({first['msg']})"

    def arguments(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """`params` checked and completed with the defaults, of the types that the factory's signature says."""
        # Through the recipe's JSON values, so that a stored recipe builds the same object; `vars`, because the factory
        # wants the Path or tuple that its signature says.
        return vars(self._checked(self.resolve(params)))

    def create(self, params: Mapping[str, Any], context: Context) -> Any:
        """The object itself, checked for what its slot asks."""
        handed = {"context": context} if "context" in inspect.signature(self.factory).parameters else {}
        arguments = self.arguments(params)
        with blamed(f"{self.slot} {self.name!r} of {self.distribution}", self.name):
            product = self.factory(**arguments, **handed)
        missing = [member for member in MEMBERS[self.slot] if not hasattr(product, member)]
        if missing:
            raise CellfeatError(
                f"{self.slot} {self.name!r} of {self.distribution} gave a {type(product).__name__} without "
                f"{', '.join(missing)}; a {self.slot} needs {', '.join(MEMBERS[self.slot])}. Tell the plugin's author"
            )
        self.check_declaration(product)
        return product


@dataclass(frozen=True)
class Broken:
    """A plugin, or a method of one, that did not load: why, and in one sentence what the user can do."""

    plugin: str
    distribution: str
    reason: str
    remedy: str = ""
    method: str = ""  # its name, where the rest of the plugin did load, and its slot
    slot: str = ""


@dataclass
class Registry:
    """Every offer of every plugin that is installed, or given as a file. left_out: plugins that were not asked for."""

    offers: list[Offer] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(self, plugin: str, distribution: str, version: str, load: Callable[[], Any]) -> None:
        """Load one plugin and take its offers; whatever goes wrong in it stays with it."""
        self.take(Source(plugin, distribution, version, load))

    def take(self, source: Source) -> None:
        """As `add`."""
        try:
            source.check_requirement()
            with redirect_stdout(sys.stderr):  # what a plugin prints is no part of a list for other programs
                offers = _offers(_loaded(source), source)
        except (Exception, SystemExit) as error:
            self._refuse(source, error)
            return
        for offer in offers:
            try:
                offer.check_declaration(offer.factory)
                self.offers.append(offer)
            except CellfeatError as error:
                self._refuse(source, error, offer.name, offer.slot)

    def _refuse(self, source: Source, error: BaseException, method: str = "", slot: str = "") -> None:
        if isinstance(error, NotLoadable):
            text = error.reason
        else:
            text = str(error) if isinstance(error, CellfeatError) else f"{type(error).__name__}: {error}{_where(error)}"
        reason, remedy = (" ".join(part.split()) for part in (text, source.remedy(error)))
        self.broken.append(Broken(source.plugin, source.distribution, reason, remedy, method, slot))

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
            self._tell_broken(slot, bare)
            raise CellfeatError(unknown(slot, name, choices, self.not_loaded()))
        if len(found) > 1:
            both = ", ".join(f"{offer.distribution}:{bare}" for offer in found)
            raise CellfeatError(f"{len(found)} plugins offer {slot} {bare!r}; say which one: {both}")
        return found[0]

    def create(self, slot: str, name: str, params: Mapping[str, Any], context: Context) -> Any:
        return self.find(slot, name).create(params, context)

    def named_weights(self) -> dict[str, Any]:
        """{name: `NamedWeights`} of every backbone."""
        offers = [offer for offer in self.offers if offer.slot == "backbone"]
        return {name: item for offer in offers for name, item in getattr(offer.factory, "named_weights", {}).items()}

    def called(self, name: str) -> tuple[list[Offer], list[Broken]]:
        """The offers of a name in every slot, and what of it did not load. Raises: CellfeatError where neither is."""
        distribution, _, bare = name.rpartition(":")
        there = {(one.slot, one.name) for one in self.offers if distribution in ("", one.distribution)}
        offers = [self.find(slot, name) for slot in SLOTS if (slot, bare) in there]
        broken = [item for item in self.broken if name in (item.plugin, item.method)]
        if not offers and not broken:
            raise CellfeatError(unknown("method", name, {one.name for one in self.offers}, self.not_loaded()))
        return offers, broken

    def _tell_broken(self, slot: str, name: str) -> None:
        """Say what is wrong with the very method, or the plugin of that name, that was asked for."""
        for item in self.broken:
            if item.method == name and item.slot == slot:
                raise CellfeatError(f"{item.reason}; {item.remedy}")
            if item.plugin == name:
                raise CellfeatError(
                    f"no {slot} named {name!r}: the plugin {name} of {item.distribution} did not load: {item.reason}; "
                    f"{item.remedy}"
                )

    def not_loaded(self) -> str:
        """Which plugins are not here, as a hint behind an unknown name; "" where all are."""
        broken = ", ".join(sorted({item.plugin for item in self.broken}))
        hints = [f"Not loaded: {broken} (`cellfeat plugins list` says why)"] if broken else []
        hints += [f"Left out by {ONLY} or -p: {', '.join(self.left_out)}"] if self.left_out else []
        return ". ".join(hints)


def _where(error: BaseException) -> str:
    """The last place in a plugin's own code, or in what it imported, that an error came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename[:1] != "<"]
    own = [frame for frame in frames if OWN_FOLDER not in Path(frame.filename).parents]
    own = [frame for frame in own if Path(frame.filename).parent.name != "importlib"]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


def _loaded(source: Source) -> Any:
    """The module of a plugin."""
    try:
        return source.load()
    except (Exception, SystemExit):
        source.check_code()  # what was imported in vain may be what this cellfeat does not have
        raise


def _offers(module: Any, source: Source) -> list[Offer]:
    """What one module offers through its hooks, each hook's signature and answer checked."""
    api = source.check_api(module)
    manager = pluggy.PluginManager("cellfeat")
    manager.add_hookspecs(hookspecs)
    manager.register(module, name=source.plugin)
    manager.check_pending()
    offers = []
    about = (source.plugin, source.distribution, source.version, api, source.requires_cellfeat, source.licence)
    for slot in SLOTS:
        for answer in getattr(manager.hook, f"cellfeat_{slot}")():
            if not isinstance(answer, dict) or not all(callable(factory) for factory in answer.values()):
                raise CellfeatError(f"cellfeat_{slot} must return {{name: factory}}, got {answer!r}")
            for name, factory in answer.items():
                _check_offer(slot, name, factory)
                offers.append(Offer(slot, name, factory, *about))
    if not offers:
        raise CellfeatError("it offers nothing: no function in it is marked @hookimpl, or none returns a factory")
    return offers


def _check_offer(slot: str, name: Any, factory: Factory) -> None:
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise CellfeatError(f"{slot} {name!r} cannot be asked for; a name has letters, digits, - and _")
    if "name" in inspect.signature(factory).parameters:
        raise CellfeatError(f"{slot} {name!r} has a parameter `name`, which in a recipe names the method itself")


def load(points: Iterable[EntryPoint] | None = None, choice: Choice | None = None) -> Registry:
    """A registry of the plugins that the choice takes: of the installed distributions, or of the given entry points.

    Raises: CellfeatError for a choice of what is not there.
    """
    choice = Choice() if choice is None else choice
    taken, left_out = plugin_sources.found(choice, points)
    registry = Registry(left_out=left_out)
    for source in taken:
        registry.take(source)
    return registry


def installed() -> Registry:
    """The registry of this process, loaded once; the environment says which plugins are in it."""
    return _installed(Choice.of_environment())


@functools.cache
def _installed(choice: Choice) -> Registry:
    return load(choice=choice)
