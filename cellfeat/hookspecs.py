"""Everything that a plugin can extend.

A distribution names its module in the entry-point group `cellfeat`; the module defines one or more of these
functions, marked `@hookimpl`. A module written for another version of the contracts than `API_VERSION` of
`cellfeat.slots` says so by `CELLFEAT_API_VERSION = n`; it is then listed with that reason and not loaded.
Commands are Typer apps in the entry-point group `cellfeat.commands`.
"""

from __future__ import annotations

import pluggy

from cellfeat.slots import Factory

hookspec = pluggy.HookspecMarker("cellfeat")
hookimpl = pluggy.HookimplMarker("cellfeat")


@hookspec
def cellfeat_backbone() -> dict[str, Factory]:  # type: ignore[empty-body]
    """Return {name: factory}; factory(**params) gives a Backbone."""


@hookspec
def cellfeat_segmenter() -> dict[str, Factory]:  # type: ignore[empty-body]
    """Return {name: factory}; factory(**params) gives a Segmenter."""


@hookspec
def cellfeat_align() -> dict[str, Factory]:  # type: ignore[empty-body]
    """Return {name: factory}; factory(**params) gives an Aligner."""


@hookspec
def cellfeat_classifier() -> dict[str, Factory]:  # type: ignore[empty-body]
    """Return {name: factory}; factory(**params) gives a scikit-learn classifier."""
