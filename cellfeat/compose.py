"""A recipe from a recipe file and the command line's options, which change it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cellfeat import recipe as recipes
from cellfeat.errors import CellfeatError

ENCODING = ("dataset", "backbone", "segmenter")  # sections that say what is encoded, and how


def recipe(
    *,
    recipe: str | None = None,
    data: str | None = None,
    labels: str | None = None,
    backbone: str | None = None,
    segmenter: str | None = None,
    align: str | None = None,
    classifier: str | None = None,
    protocol: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    sections: Sequence[str] | None = None,
) -> recipes.Recipe:
    """Start from the named recipe, or from the demo's when no data is named; then apply what was asked for.

    A name given again keeps the recipe's parameters of that name; another name starts from its own defaults. sections:
    those that `sets` may change; None: all.
    """
    if recipe is not None:
        content = recipes.parse(recipes.read(recipe), f"recipe {recipe}").as_dict()
    elif data is None:
        content = recipes.parse(recipes.read("demo")).as_dict()
    else:
        content = recipes.Recipe().as_dict()
    if data is not None:
        content["dataset"]["manifest"] = data
    if labels is not None:
        content["dataset"]["labels"] = labels
    if backbone is not None:
        content["backbone"] = _kept([content["backbone"]], backbone)
    if segmenter is not None:
        content["segmenter"] = _kept([content["segmenter"]], segmenter)
    if align is not None:
        names = [name.strip() for name in align.split(",")]
        if not all(names):
            raise CellfeatError(f"--align {align!r} has an empty name; a chain is written per-domain-z,coral")
        changed = names[-1] != content["align"][-1]["name"]
        content["align"] = [_kept(content["align"], name) for name in names]
        if changed and classifier is None:  # another method may have a head of its own; if not, the run adds one
            content["classifier"] = None
    if classifier is not None:
        content["classifier"] = _kept([content["classifier"]], classifier)
    content["protocol"] |= {key: value for key, value in (protocol or {}).items() if value not in (None, [])}
    recipes.assign(content, sets, sections)
    return recipes.parse(content)


def _kept(parts: Sequence[Mapping[str, Any] | None], name: str) -> dict[str, Any]:
    return next((dict(part) for part in parts if part and part["name"] == name), {"name": name})
