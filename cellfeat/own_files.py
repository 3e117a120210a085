"""Files that a shared pipeline brings along, found in its folder wherever that lies now."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from cellfeat.recipe import Part, Recipe

OWN_FILES = "files"  # in a pipeline's folder; parameters name what is in it as files/NAME
WITHHELD = "withheld"  # the manifest of a shared pipeline: whoever pulls it does not have the data


def with_own_files(pipeline: Path, recipe: Recipe) -> Recipe:
    """The recipe with the files in the pipeline's own folder by their paths; one that names none is as it was."""
    changed: dict[str, Any] = {}
    for slot, part in (("backbone", recipe.backbone), ("segmenter", recipe.segmenter)):
        own = (
            {key: str(pipeline.resolve() / value) for key, value in part.params.items() if _is_own(value)}
            if part
            else {}
        )
        if part is not None and own:
            changed[slot] = Part.of(part.name, {**part.params, **own})
    return recipe.model_copy(update=changed) if changed else recipe


def _is_own(value: Any) -> bool:
    parts = PurePosixPath(value).parts if isinstance(value, str) else ()
    return parts[:1] == (OWN_FILES,) and len(parts) > 1 and ".." not in parts
