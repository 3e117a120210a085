"""Methods of the four slots: the commands `plugins list`, `info`, `check` and `new`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellfeat.api.working import Sets, assignments

if TYPE_CHECKING:
    from cellfeat.registry import Offer


def plugins_list() -> dict[str, Any]:
    """Every method with its facts, and every plugin that did not load, as `plugins list --json`."""
    from cellfeat import plugin_pages
    from cellfeat.registry import installed

    return plugin_pages.listing(installed())


def plugins_requirements() -> str:
    """The distributions of others as lines for pip, as `plugins list --requirements`."""
    from cellfeat import plugin_pages
    from cellfeat.registry import installed

    return plugin_pages.requirements(installed())


def plugins_info(name: str) -> list[Offer]:
    """The methods of this name, one for each slot that has it: `summary`, `facts()`, `parameters()`, `factory`.

    Raises: CellfeatError for a name that none has; where its plugin did not load, with the reason.
    """
    from cellfeat.errors import CellfeatError
    from cellfeat.registry import installed

    offers, broken = installed().called(name)
    if not offers:
        raise CellfeatError(f"{name} of {broken[0].distribution} did not load: {broken[0].reason}; {broken[0].remedy}")
    return offers


def plugins_page(name: str) -> str:
    """The whole page of a method as Markdown, as `plugins info --markdown`.

    Raises: CellfeatError as `plugins_info`.
    """
    from cellfeat import plugin_pages

    return "\n".join(map(plugin_pages.page, plugins_info(name)))


def plugins_check(
    name: str,
    *,
    slot: str | None = None,
    sets: Sets = (),
    only: Sequence[str] = (),
    budget: float | None = None,
) -> Mapping[str, Any]:
    """Look at a method, or at all of a plugin, with every check of its slot; as `plugins check --json`.

    sets: parameters to check it with, {"epochs": 1}. only: these checks alone. budget: seconds that one fit may take.
    The answer's `passed` is whether everything holds.

    Raises: CellfeatError for what is not there.
    """
    from cellfeat.commands.check_plugin import document

    return document(name, slot, assignments(sets), list(only), budget)


def plugins_new(
    slot: str, name: str, out: str | Path | None = None, *, author: str | None = None
) -> tuple[Path, list[str]]:
    """Write a complete repository for a method of your own; gives its folder and the paths in it.

    slot: "align", "backbone", "segmenter" or "clf". out: None is cellfeat-NAME. author: "Name <mail>"; None: as Git
    knows you.

    Raises: CellfeatError for a name that cannot be one, and where the folder exists.
    """
    from cellfeat import plugin_names, scaffold
    from cellfeat.registry import installed

    kind = plugin_names.kind_of(slot)
    names = plugin_names.names_for(kind, name, installed())
    folder = Path(names.distribution) if out is None else Path(out)
    return folder, scaffold.write_plugin(kind, names, folder, scaffold.author_of(author, names))
