"""Plugins that are no distribution yet: the *.py files and packages of a folder, or one file, while prototyping."""

from __future__ import annotations

import ast
import hashlib
import importlib
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from cellfeat import prototypes
from cellfeat.errors import CellfeatError

DIGITS = 12  # of the digest that stands for a version
NAME = re.compile(r"[\w-]+")
VERSION = re.compile(rf"[0-9a-f]{{{DIGITS}}}")


@dataclass(frozen=True)
class SingleFile:
    """A .py file, or the folder of a package, that is a plugin under its own name."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem if self.path.is_file() else self.path.name

    @property
    def distribution(self) -> str:
        return f"{self.name}.py"

    @property
    def version(self) -> str:
        """Digest of the source; of a package, of all its .py files and their names."""
        if self.path.is_file():
            return hashlib.sha256(self.path.read_bytes()).hexdigest()[:DIGITS]
        digest = hashlib.sha256()
        for file in sorted(self.path.rglob("*.py")):
            name = file.relative_to(self.path)
            if not any(part.startswith(".") for part in name.parts):
                content = file.read_bytes()
                digest.update(f"{name.as_posix()}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()[:DIGITS]

    @property
    def source(self) -> Path:
        """The file that the module's own code is in."""
        return self.path if self.path.is_file() else self.path / "__init__.py"

    def load(self) -> ModuleType:
        """Import it, as a module of `cellfeat.prototypes`.

        Raises: CellfeatError for a name that is none for a module, and whatever the file itself raises.
        """
        if not NAME.fullmatch(self.name):
            raise CellfeatError(f"{self.path.name} is no name for a plugin: letters, digits, - and _; rename it")
        home, folder = prototypes.__path__, str(self.path.parent)
        home[:] = [folder, *(place for place in home if place != folder)]
        module = f"{prototypes.__name__}.{self.name}"
        if getattr(sys.modules.get(module), "__file__", str(self.source)) != str(self.source):
            for known in [name for name in sys.modules if f"{name}.".startswith(f"{module}.")]:
                del sys.modules[known]  # of a file of the same name, from a place given before
        importlib.invalidate_caches()
        return importlib.import_module(module)


def found(places: Sequence[Path]) -> list[SingleFile]:
    """The plugins of these folders and files, by name; names that begin with `_` or `.` are no plugins.

    Raises: CellfeatError for a place without any, and for two of one name.
    """
    files: dict[str, SingleFile] = {}
    for place in places:
        inside = [SingleFile(path) for path in _plugins_of(place)]
        if not inside:
            raise CellfeatError(f"{place} has no plugin: no *.py file and no folder with __init__.py, but for _names")
        for file in inside:
            other = files.setdefault(file.name, file)
            if other.path != file.path:
                raise CellfeatError(f"two plugins are called {file.name}: {other.path} and {file.path}; rename one")
    return sorted(files.values(), key=lambda file: file.name)


def _plugins_of(place: Path) -> list[Path]:
    if place.is_file() or (place / "__init__.py").is_file():
        return [place]
    inside = [path for path in place.iterdir() if not path.name.startswith((".", "_"))]
    return [path for path in inside if path.suffix == ".py" or (path / "__init__.py").is_file()]


def constants(source: Path, names: Sequence[str]) -> dict[str, Any]:
    """Constants that a module's source sets at its top, read without running it; {} where it cannot be read."""
    values: dict[str, Any] = {}
    with suppress(OSError, SyntaxError, ValueError):
        for node in ast.parse(source.read_bytes()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            value = getattr(node, "value", None)
            for target in targets:
                if isinstance(target, ast.Name) and target.id in names and isinstance(value, ast.Constant):
                    values[target.id] = value.value
    return values


def is_single_file(distribution: str, version: str) -> bool:
    """Whether a record's plugin was a single file; distributions may be called x.py too, but have other versions."""
    return distribution.endswith(".py") and VERSION.fullmatch(version) is not None
