"""Everything that a plugin can extend.

A distribution names its module in the entry-point group `cellfeat`; the module defines one or more of these
functions, marked `@hookimpl`. A module says by `CELLFEAT_API_VERSION = n` for which version of the contracts it is
written, and is listed with the reason and not loaded where that is none of `SUPPORTED_API_VERSIONS`; one that says
nothing is written for version 1. A distribution that requires another cellfeat than the installed one is not loaded
either; a single file (`--plugins-dir`) requires by `REQUIRES_CELLFEAT = ">=0.1"`.
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
