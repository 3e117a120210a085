"""`cellfeat plugins new`: the repository of a method of one's own, and what to do with it next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

SETUPTOOLS = "77"  # the first that knows licences by their SPDX names


def new(
    slot: Annotated[str, typer.Argument(metavar="SLOT", help="align, backbone, segmenter or clf")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the method: letters, digits and hyphens")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write, not there yet; else cellfeat-NAME")
    ] = None,
    author: Annotated[str | None, typer.Option(help="'Name <mail>'; else as Git knows you")] = None,
) -> None:
    """Write a complete repository for a method of your own, which can be installed, checked and run at once."""
    from cellfeat import plugin_names, scaffold
    from cellfeat.console import note, say
    from cellfeat.registry import installed

    kind = plugin_names.kind_of(slot)
    names = plugin_names.names_for(kind, name, installed())
    folder = out or Path(names.distribution)
    paths = scaffold.write_plugin(kind, names, folder, scaffold.author_of(author, names))
    for other in plugin_names.offered_by_others(kind, names, installed()):
        note(f"{other} too offers the {kind.noun} {name!r}: while both are installed, say {names.distribution}:{name}")
    _print_tree(folder, paths)
    say(f"What is yours to change is marked {scaffold.WORD} and listed in {folder / scaffold.README}\nNext:")
    for line in (
        *_needed_first(),
        f"cd {shlex.quote(str(folder))}",
        "python -m pip install --no-deps --no-build-isolation -e .",
        f"cellfeat plugins check {name}",
        "cellfeat run --recipe recipe.yaml",
    ):
        say(f"  {line}")


def _needed_first() -> list[str]:
    """What has to be installed before the new repository can be: fresh environments come with an old setuptools."""
    from importlib.metadata import PackageNotFoundError, version

    from packaging.version import Version

    try:
        enough = Version(version("setuptools")) >= Version(SETUPTOOLS)
    except PackageNotFoundError:
        enough = False
    return [] if enough else [f'python -m pip install "setuptools>={SETUPTOOLS}"']


def _print_tree(folder: Path, paths: Sequence[str]) -> None:
    from rich.markup import escape
    from rich.tree import Tree

    from cellfeat.console import console

    tree = Tree(escape(str(folder)))
    branches = {"": tree}
    for path in paths:
        above = ""
        for part in path.split("/"):
            here = f"{above}/{part}"
            if here not in branches:
                branches[here] = branches[above].add(escape(part))
            above = here
    console.print(tree)
