"""What could keep cellfeat from working on this machine, check by check, each finding with what to do about it.

A check never raises: one that fails is a finding itself.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path

from cellfeat import machine, plugin_choice
from cellfeat.errors import CellfeatError
from cellfeat.extras import OPTIONAL
from cellfeat.findings import NOTE, OK, PROBLEM, Finding
from cellfeat.torch_probe import torch_and_device

KNOWN_VARIABLES = ("CELLFEAT_CACHE", "CELLFEAT_OFFLINE", "CELLFEAT_TEST_DATA", *plugin_choice.VARIABLES)
OTHER_VARIABLES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NO_COLOR", "TERM", "PYTHONIOENCODING")
LITTLE_MEMORY, LITTLE_DISK = 2e9, 2e9  # bytes: less than a backbone of ViT-B and a store of some 1,000 cells need
NARROW = 60  # columns: tables are folded below


def examine() -> list[Finding]:
    """Every check's findings, in an order to read."""
    found: list[Finding] = []
    for check in CHECKS:
        name = (check.__doc__ or check.__name__).partition(".")[0]
        try:
            found += check()
        except (Exception, SystemExit) as error:  # whatever is broken here must not hide the rest
            found.append(
                Finding(name, PROBLEM, f"could not be looked at: {_line(error)}", "tell the authors of cellfeat")
            )
    return found


def python() -> Iterator[Finding]:
    """Python."""
    wanted, here = _requires_python(), platform.python_version()
    from packaging.specifiers import SpecifierSet

    if wanted and not SpecifierSet(wanted).contains(here, prereleases=True):
        yield Finding(
            "Python", PROBLEM, f"{here}, but cellfeat needs {wanted}", "make an environment with such a Python"
        )
    else:
        yield Finding("Python", OK, f"{here} ({sys.executable})")


def packages() -> Iterator[Finding]:
    """packages."""
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in metadata.requires("cellfeat") or []]
    base = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    faults = 0
    for one in base:
        install = f'pip install "{one.name}{one.specifier}"'
        try:
            here = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            here = ""
        if not here:
            yield Finding(one.name, PROBLEM, "is not installed", install)
        elif not one.specifier.contains(here, prereleases=True):
            yield Finding(one.name, PROBLEM, f"{here}, but cellfeat needs {one.specifier}", install)
        faults += not here or not one.specifier.contains(here, prereleases=True)
    names = ("torch", "torchvision", "timm", "peft", "scikit-learn", "numpy")
    shown = ", ".join(f"{name} {_version(name)}" for name in names)
    yield Finding(
        "packages", OK, f"{len(base) - faults} of {len(base)} as cellfeat {_version('cellfeat')} needs them: {shown}"
    )


def memory() -> Iterator[Finding]:
    """memory."""
    free = machine.free_memory()
    if free is None:
        yield Finding("memory", NOTE, "this system does not tell how much is free", "pip install psutil")
        return
    group = machine.free_of_groups()
    limit = ", by the limit of this container or job" if group is not None and group <= free else ""
    if free < LITTLE_MEMORY:
        remedy = "close other programs, ask for more, or use small weights (cell-tiny) and --batch 1"
        yield Finding("memory", PROBLEM, f"{machine.told(free)} are free{limit}", remedy)
    else:
        yield Finding("memory", OK, f"{machine.told(free)} are free{limit}")


def folders() -> Iterator[Finding]:
    """folders."""
    from cellfeat.store import cache_folder

    remedies = {
        "cache": (cache_folder(), "point CELLFEAT_CACHE to a folder with room that you may write to"),
        "working folder": (Path.cwd(), "go to a folder with room that you may write to (cd), or name --out there"),
        "temporary files": (Path(tempfile.gettempdir()), "point TMPDIR to a folder with room that you may write to"),
    }
    for name, (folder, remedy) in remedies.items():
        why, free = machine.cannot_write(folder), machine.free_disk(folder)
        if why:
            yield Finding(name, PROBLEM, f"{folder} cannot be written to: {why}", remedy)
        elif free < LITTLE_DISK:
            yield Finding(name, PROBLEM, f"{folder} has only {machine.told(free)} left", remedy)
        else:
            yield Finding(name, OK, f"{folder}, {machine.told(free)} free")


def weights() -> Iterator[Finding]:
    """weights."""
    from cellfeat.hub_weights import is_offline
    from cellfeat.registry import installed
    from cellfeat.weights import verify_weights, weights_status

    named = installed().named_weights()
    absent = []
    for row in weights_status(named):
        if row.path is None and named[row.name].path is None:
            absent.append(row.name)
            continue
        if not row.digest:  # of a hub that has digests of its own
            yield Finding(f"weights {row.name}", OK, str(row.path))
            continue
        try:
            path = verify_weights(row.name, named)
            yield Finding(f"weights {row.name}", OK, f"{path}, digest as published")
        except CellfeatError as error:
            ships = named[row.name].path is not None
            remedy = "pip install --force-reinstall cellfeat" if ships else f"cellfeat weights fetch {row.name}"
            yield Finding(f"weights {row.name}", PROBLEM, str(error), remedy)
    if absent:
        yield Finding(
            "weights to download", OK, f"{', '.join(absent)}: when first used, or by cellfeat weights fetch NAME"
        )
    if is_offline():
        yield Finding("downloads", NOTE, "are switched off by CELLFEAT_OFFLINE", "unset CELLFEAT_OFFLINE")
    else:
        yield Finding("downloads", OK, "are allowed (--offline or CELLFEAT_OFFLINE=1 switch them off)")


def plugins() -> Iterator[Finding]:
    """plugins."""
    from cellfeat.registry import installed

    registry = installed()
    for item in registry.broken:
        what = f"{item.plugin} of {item.distribution}" + (f", method {item.method}" if item.method else "")
        yield Finding("plugin", PROBLEM, f"{what} did not load: {item.reason}", item.remedy)
    if registry.left_out:
        yield Finding("plugins left out", NOTE, f"{', '.join(registry.left_out)}, by CELLFEAT_PLUGINS or -p", "")
    count = len({(offer.distribution, offer.plugin) for offer in registry.offers})
    yield Finding("plugins", OK if count else PROBLEM, f"{count} loaded, with {len(registry.offers)} methods")


def extras() -> Iterator[Finding]:
    """optional packages."""
    by_extra: dict[str, list[str]] = {}
    for name, extra in OPTIONAL.values():
        by_extra.setdefault(extra, []).append(name)
    for extra, names in sorted(by_extra.items()):
        absent = [name for name in names if not _version(name)]
        text = ", ".join(f"{name} {_version(name) or 'absent'}" for name in names)
        remedy = f'for what needs it: pip install "cellfeat[{extra}]"' if absent else ""
        yield Finding(f"extra {extra}", NOTE if absent else OK, text, remedy)


def terminal() -> Iterator[Finding]:
    """terminal."""
    encoding = (getattr(sys.stdout, "encoding", None) or "unknown").lower()
    if encoding.replace("-", "") != "utf8":
        yield Finding(
            "encoding",
            NOTE,
            f"the output is {encoding}: what it lacks is written as ->, x, ...",
            "PYTHONIOENCODING=utf-8",
        )
    else:
        yield Finding("encoding", OK, "UTF-8")
    if not sys.stdout.isatty():
        yield Finding("terminal", OK, "none: the output goes into a pipe or a file, without colours and bars")
        return
    width = os.get_terminal_size(sys.stdout.fileno()).columns
    narrow = Finding("terminal", NOTE, f"{width} columns: wide tables are folded", f"make it {NARROW} or wider")
    yield narrow if width < NARROW else Finding("terminal", OK, f"{width} columns")


def environment() -> Iterator[Finding]:
    """environment variables."""
    for name in sorted(os.environ):
        if name.startswith("CELLFEAT_") and name not in KNOWN_VARIABLES:
            near = get_close_matches(name, KNOWN_VARIABLES, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"known are {', '.join(KNOWN_VARIABLES)}"
            yield Finding(name, NOTE, "is set, but means nothing to cellfeat", remedy)
    known = [name for name in (*KNOWN_VARIABLES, *OTHER_VARIABLES) if name in os.environ]
    yield Finding("environment", OK, ", ".join(f"{name}={os.environ[name]}" for name in known) or "nothing is set")


def _requires_python() -> str:
    try:
        return metadata.metadata("cellfeat")["Requires-Python"] or ""
    except metadata.PackageNotFoundError:
        return ""


def _version(name: str) -> str:
    """ "" for what is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    python,
    packages,
    torch_and_device,
    memory,
    folders,
    weights,
    plugins,
    extras,
    terminal,
    environment,
)
