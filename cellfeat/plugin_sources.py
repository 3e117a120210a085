"""Where plugins are from, what is known of them before their code runs, and what a user can do where one fails."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

from cellfeat import prototypes, single_files
from cellfeat.errors import CellfeatError
from cellfeat.plugin_choice import Choice
from cellfeat.requirements import OWN, plain
from cellfeat.single_files import SingleFile
from cellfeat.slots import API_VERSION, SUPPORTED_API_VERSIONS

GROUP = "cellfeat"
API, REQUIRES = "CELLFEAT_API_VERSION", "REQUIRES_CELLFEAT"
FIRST_API = 1  # of a module that names none


class NotLoadable(CellfeatError):
    """Why a plugin is not loaded, and what the user can do."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason, self.remedy = reason, remedy


@dataclass(frozen=True)
class Source:
    """A plugin that may be loaded. requires_cellfeat: a version specifier or "". licence: SPDX or ""."""

    plugin: str
    distribution: str
    version: str
    load: Callable[[], Any]
    requires_cellfeat: str = ""
    licence: str = ""
    code: Callable[[], Path | None] = lambda: None  # the file of its module, found without running it

    def check_requirement(self) -> None:
        """Raises: NotLoadable where it requires another cellfeat than this one."""
        from packaging.specifiers import InvalidSpecifier, SpecifierSet

        here = own_version()
        if not self.requires_cellfeat or here is None:
            return
        try:
            fits = SpecifierSet(self.requires_cellfeat).contains(here, prereleases=True)
        except InvalidSpecifier:
            raise NotLoadable(
                f"{REQUIRES} is {self.requires_cellfeat!r}, which is no version specifier", 'write it as in ">=0.1"'
            ) from None
        if not fits:
            raise NotLoadable(
                f"it requires cellfeat{self.requires_cellfeat}, and this is cellfeat {here}",
                f'pip install "cellfeat{self.requires_cellfeat}", or another release of {self.distribution}',
            )

    def check_api(self, module: Any) -> int:
        """The version of the contracts that a loaded module is written for.

        Raises: NotLoadable where this cellfeat does not have it.
        """
        return self._supported(getattr(module, API, FIRST_API))

    def check_code(self) -> None:
        """As `check_api`, by the source alone: for a module that did not import, perhaps for that very reason."""
        path = None
        with suppress(Exception):  # a finder of somebody else's, asked about a module that failed
            path = self.code()
        if path is not None:
            self._supported(single_files.constants(path, (API,)).get(API, FIRST_API))

    def _supported(self, wanted: Any) -> int:
        if type(wanted) is not int:
            raise NotLoadable(
                f"{API} is {wanted!r}, but must be a whole number",
                f"tell the author of {self.distribution}: {API} = {API_VERSION}",
            )
        if wanted in SUPPORTED_API_VERSIONS:
            return wanted
        reason = f"it is written for plugin API {wanted}, this cellfeat has {_listed(SUPPORTED_API_VERSIONS)}"
        if wanted > API_VERSION:
            remedy = (
                f"update cellfeat (pip install --upgrade cellfeat), or install a release of {self.distribution} for "
                f"plugin API {API_VERSION}"
            )
        else:
            remedy = f"install a newer release of {self.distribution}, or an older cellfeat"
        raise NotLoadable(reason, remedy)

    def remedy(self, error: BaseException) -> str:
        """What the user can do about an error of its code."""
        if isinstance(error, NotLoadable):
            return error.remedy
        name = (getattr(error, "name", None) or "") if isinstance(error, ImportError) else ""
        own = name.startswith(f"{prototypes.__name__}.") or name.partition(".")[0] == self.plugin
        single = single_files.is_single_file(self.distribution, self.version)
        home = self._repository() if single and name.partition(".")[0] == self.plugin else None
        if home is not None:
            return (
                f"it imports itself by its name, under which it is found once it is installed: pip install -e {home}, "
                "and leave --plugins-dir out; or let it write `from .x import y`"
            )
        if single and (own or self._lies_beside(name.partition(".")[0])):
            return (
                "a file or package given by --plugins-dir imports what is beside it by `from . import …`; in a folder, "
                "what is no plugin has a name that begins with _"
            )
        if name.partition(".")[0] == OWN:
            return f"it wants another cellfeat than this one ({own_version()}): update it, or cellfeat"
        if isinstance(error, ModuleNotFoundError) and name:
            package = name.partition(".")[0]
            return f"install what it imports (the package that has {package}), or {self.distribution} with all it needs"
        whose = "mend it" if single else f"tell the author of {self.distribution}"
        return f"{whose}; -p no:{self.plugin} leaves it out"

    def _repository(self) -> Path | None:
        """The folder with the pyproject.toml that a package belongs to: beside it, or above its src/."""
        path = self.code()
        places = () if path is None or path.name != "__init__.py" else path.resolve().parents[1:3]
        return next((place for place in places if (place / "pyproject.toml").is_file()), None)

    def _lies_beside(self, name: str) -> bool:
        """Whether a module of this name is in the folder of the plugin's own file."""
        path = self.code()
        return bool(name) and path is not None and any((path.parent / one).exists() for one in (f"{name}.py", name))


def _listed(versions: Iterable[int]) -> str:
    return ", ".join(map(str, versions))


def own_version() -> str | None:
    """Of the installed cellfeat; None where it is used without being installed."""
    try:
        return version(OWN)
    except PackageNotFoundError:
        return None


def found(choice: Choice, points: Iterable[EntryPoint] | None = None) -> tuple[list[Source], list[str]]:
    """Every plugin that the choice takes, and the names of those that it leaves out.

    points: in place of the installed distributions' entry points.

    Raises: CellfeatError for a choice of what is not there.
    """
    every = [*map(_installed, entry_points(group=GROUP) if points is None else points)]
    every += map(_single, single_files.found(choice.places))
    known = {name for source in every for name in (source.plugin, source.distribution)}
    choice.check(
        known | ({point.name for point in entry_points(group=f"{GROUP}.commands")} if points is None else set())
    )
    every.sort(key=lambda source: source.plugin)
    taken = [source for source in every if choice.takes(source.plugin, source.distribution)]
    return taken, [source.plugin for source in every if source not in taken]


def commands(choice: Choice, points: Iterable[EntryPoint]) -> list[EntryPoint]:
    """The commands that the choice takes: by their own name, their distribution's, or that of a plugin in the same
    package. No code of theirs runs.

    Raises: CellfeatError for a choice of what is not there.
    """
    points, plugins = list(points), list(entry_points(group=GROUP))
    singles = single_files.found(choice.places)
    known = {name for point in [*plugins, *points] for name in (point.name, _owner(point))}
    choice.check(known | {name for file in singles for name in (file.name, file.distribution)})

    def names(point: EntryPoint) -> set[str]:
        beside = {one.name for one in plugins if one.module.partition(".")[0] == point.module.partition(".")[0]}
        return {point.name, _owner(point), *beside}

    return [point for point in points if choice.takes(*names(point))]


def load_command(point: EntryPoint) -> Any:
    """The Typer app of a plugin's command.

    Raises: CellfeatError, with what the user can do.
    """
    owner = point.dist.name if point.dist else "an unknown distribution"
    source, what = _installed(point), f"command {point.name!r} of {owner} did not load"
    try:
        source.check_requirement()
        return point.load()
    except (Exception, SystemExit) as error:
        reason = error.reason if isinstance(error, NotLoadable) else f"{type(error).__name__}: {error}"
        raise CellfeatError(f"{what}: {reason}; {source.remedy(error)}") from error


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "unknown"


def _installed(point: EntryPoint) -> Source:
    if point.dist is None:
        return Source(point.name, "unknown", "?", point.load, code=lambda: _code(point.module))
    return Source(
        point.name,
        point.dist.name,
        point.dist.version,
        point.load,
        _requirement(point.dist),
        next(iter(point.dist.metadata.get_all("License-Expression") or ()), ""),
        lambda: _code(point.module),
    )


def _single(file: SingleFile) -> Source:
    requires = single_files.constants(file.source, (REQUIRES,)).get(REQUIRES, "")
    return Source(file.name, file.distribution, file.version, file.load, str(requires), code=lambda: Path(file.source))


def _requirement(distribution: Distribution) -> str:
    """The versions of cellfeat that a distribution requires, "" where it does not say."""
    return ",".join(filter(None, _specifiers(distribution)))


def _specifiers(distribution: Distribution) -> Iterator[str]:
    from packaging.requirements import InvalidRequirement, Requirement

    for text in distribution.requires or ():
        if not plain(text).startswith(OWN):
            continue
        with suppress(InvalidRequirement):
            wanted = Requirement(text)
            if plain(wanted.name) == OWN and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
                yield str(wanted.specifier)


def _code(module: str) -> Path | None:
    """The file of a module, found without importing it or what it is in."""
    top, *inside = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin)
    for part in inside:
        path = path.parent / part / "__init__.py" if (path.parent / part).is_dir() else path.parent / f"{part}.py"
    return path
