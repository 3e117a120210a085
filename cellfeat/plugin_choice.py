"""Which plugins load: all that are installed, unless the environment or the command line says otherwise.

CELLFEAT_PLUGINS      only these, by the names of plugins or distributions, comma-separated; empty: none
CELLFEAT_NO_PLUGINS   not these; what `-p no:NAME` adds to
CELLFEAT_PLUGINS_DIR  folders of single files, or files; what `--plugins-dir PATH` adds to
The command line's choice goes into the environment, so that child processes see the same plugins.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from cellfeat.errors import CellfeatError, unknown

ONLY, LEFT_OUT, PLACES = "CELLFEAT_PLUGINS", "CELLFEAT_NO_PLUGINS", "CELLFEAT_PLUGINS_DIR"
VARIABLES = (ONLY, LEFT_OUT, PLACES)
PLACE_OPTION, LEAVE_OPTION, NO = "--plugins-dir", "-p", "no:"


@dataclass(frozen=True)
class Choice:
    """only: names that load; None: all. left_out: names that do not. places: of single files."""

    only: tuple[str, ...] | None = None
    left_out: tuple[str, ...] = ()
    places: tuple[Path, ...] = ()

    @classmethod
    def of_environment(cls) -> Choice:
        """Raises: CellfeatError for a place that is not there."""
        only = os.environ.get(ONLY)
        return cls(
            None if only is None else _parted(only, ","),
            _parted(os.environ.get(LEFT_OUT, ""), ","),
            tuple(_place(text, PLACES) for text in _parted(os.environ.get(PLACES, ""), os.pathsep)),
        )

    def options(self) -> str:
        """The places as options of a command line that is to see the same single files."""
        return "".join(f" {PLACE_OPTION} {shlex.quote(str(place))}" for place in self.places)

    @property
    def is_all(self) -> bool:
        return self == Choice()

    def takes(self, *names: str) -> bool:
        """Whether something of these names (its own, its distribution's) is to be loaded."""
        wanted = self.only is None or not set(names).isdisjoint(self.only)
        return wanted and set(names).isdisjoint(self.left_out)

    def check(self, known: Collection[str]) -> None:
        """Raises: CellfeatError for a name that no plugin and no distribution has."""
        for source, names in ((ONLY, self.only or ()), (f"{LEAVE_OPTION} {NO}NAME or {LEFT_OUT}", self.left_out)):
            for name in names:
                if name not in known:
                    raise CellfeatError(f"{source}: {unknown('plugin or distribution', name, set(known))}")


def taken_from(arguments: Sequence[str]) -> list[str]:
    """The arguments without `--plugins-dir PATH` and `-p no:NAME`, which go into the environment, wherever they stand.

    Raises: CellfeatError for a place that is missing or is not there.
    """
    rest: list[str] = []
    places, left_out = [], []
    given = iter(arguments)
    for argument in given:
        if argument == "--":
            rest += [argument, *given]
        elif argument == PLACE_OPTION or argument.startswith(f"{PLACE_OPTION}="):
            place = argument.partition("=")[2] or next(given, "")
            places.append(str(_place(place, PLACE_OPTION)))
        elif argument.startswith(f"{LEAVE_OPTION}{NO}"):
            left_out.append(argument.removeprefix(f"{LEAVE_OPTION}{NO}"))
        elif argument == LEAVE_OPTION:
            value = next(given, None)
            if value is not None and value.startswith(NO):
                left_out.append(value.removeprefix(NO))
            else:  # an option of a plugin's command, or a mistake that the command line's parser tells
                rest += [argument] if value is None else [argument, value]
        else:
            rest.append(argument)
    if os.environ.get(PLACES):  # child processes may have another working folder
        os.environ[PLACES] = os.pathsep.join(map(str, Choice.of_environment().places))
    _add(PLACES, places, os.pathsep)
    _add(LEFT_OUT, left_out, ",")
    return rest


def _add(variable: str, values: Sequence[str], separator: str) -> None:
    if variable == LEFT_OUT and not all(value.strip() for value in values):
        raise CellfeatError(f"{LEAVE_OPTION} {NO} leaves nothing out: name a plugin, as in {LEAVE_OPTION} {NO}cae")
    if values:
        before = [os.environ[variable]] if os.environ.get(variable) else []
        os.environ[variable] = separator.join(dict.fromkeys([*before, *values]))


def _parted(text: str, separator: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(separator) if part.strip()))


def _place(text: str, source: str) -> Path:
    if not text or text.startswith("-"):
        raise CellfeatError(f"{source} needs a folder of *.py files and packages, or one .py file")
    path = Path(text).expanduser().absolute()
    if os.pathsep in str(path):
        raise CellfeatError(f"{source} {text}: a path with {os.pathsep!r} in it cannot be given; rename the folder")
    if path.is_dir() or (path.is_file() and path.suffix == ".py"):
        return path
    what = "it is no .py file" if path.exists() else "there is no such file or folder"
    raise CellfeatError(f"{source} {text}: {what}; give a folder of *.py files and packages, or one .py file")
