"""Files of other programs: read by `cellfeat weights import`, written by `export`, through functions of the plugins.

A factory may carry, each as {format: function},
- `importers`: `importer(path, folder, **options)` fills an empty folder from a file;
- `exporters`: `exporter(source, path, **options)` writes a file from what is in cellfeat's form.
Options are keyword arguments with annotations and defaults, checked as the parameters of a factory are. What is
returned, if anything, is one line for the user: how to use the result. It may name the folder or the path as given,
which is not yet the final one and is replaced by that.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from cellfeat.artifacts import atomic_file, atomic_folder
from cellfeat.errors import CellfeatError, unknown
from cellfeat.registry import Offer, Registry


def import_file(registry: Registry, name: str, path: Path, folder: Path, assignments: Iterable[str] = ()) -> str:
    """Fill the new `folder` from a file of the format `name`; gives the importer's line.

    assignments: "key=value", values in YAML.

    Raises:
        CellfeatError: for an unknown format or option, an absent file, a folder that exists, or by the importer.
    """
    importer = _find(registry, "importers", name)
    options = _options(importer, assignments)
    if not path.exists():
        raise CellfeatError(f"no file at {path}")
    with atomic_folder(folder) as partial:
        said = importer.factory(path, partial, **options)
    return (said or "").replace(str(partial), str(folder))


def export_file(registry: Registry, name: str, source: Path, path: Path, assignments: Iterable[str] = ()) -> str:
    """Write the new file `path` in the format `name`; gives the exporter's line. Else as `import_file`."""
    exporter = _find(registry, "exporters", name)
    options = _options(exporter, assignments)
    if not source.exists():
        raise CellfeatError(f"nothing at {source}")
    if path.exists():
        raise CellfeatError(f"{path} exists and is never overwritten; choose another name or move it away")
    with atomic_file(path) as partial:
        said = exporter.factory(source, partial, **options)
    return (said or "").replace(str(partial), str(path))


def _find(registry: Registry, kind: str, name: str) -> Offer:
    """The offer of the function for this format, `distribution:name` as for methods; its factory is the function."""
    formats = _formats(registry, kind)
    slot = f"{kind[:-3]} format"  # as messages call it: "import format"
    if name.rpartition(":")[2] not in {offer.name for offer in formats}:
        origins = ", ".join(sorted({f"{offer.name} of {offer.plugin}" for offer in formats}))
        broken = ", ".join(sorted(item.plugin for item in registry.broken))
        remedy = f"By plugins: {origins or 'none'}{f' (not loaded: {broken})' if broken else ''}"
        raise CellfeatError(unknown(slot, name, {offer.name for offer in formats}, remedy))
    return Registry([replace(offer, slot=slot) for offer in formats], registry.broken).find(slot, name)


def _formats(registry: Registry, kind: str) -> list[Offer]:
    """Every function once: a factory may stand in several slots."""
    found: dict[Any, Offer] = {}
    for offer in registry.offers:
        for name, function in getattr(offer.factory, kind, {}).items():
            found[offer.distribution, name, function] = replace(offer, name=name, factory=function)
    return list(found.values())


def _options(offer: Offer, assignments: Iterable[str]) -> dict[str, Any]:
    """The function's options by their annotations, completed with its defaults."""
    given: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not (key.strip() and equals):
            raise CellfeatError(f"--set {text!r} is not of the form key=value, as in base=vit_b")
        try:
            given[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            given[key.strip()] = value
    # Its first two arguments, where to read and where to write, are no options.
    return replace(offer, factory=functools.partial(offer.factory, None, None)).arguments(given)
