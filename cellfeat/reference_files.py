"""What a pipeline keeps of its training cells' looks, as two files in its folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cellfeat.artifacts import atomic_file
from cellfeat.errors import CellfeatError

ABOUT, ARRAYS = "reference.json", "reference.safetensors"
VERSION = 1


def write(folder: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Arrays first: where the JSON is, they are."""
    from safetensors.numpy import save_file

    with atomic_file(folder / ARRAYS) as path:
        save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, path)
    with atomic_file(folder / ABOUT) as path:
        text = json.dumps({"version": VERSION, **about}, indent=1, ensure_ascii=False)
        path.write_text(text, encoding="utf-8")


@contextmanager
def opened(folder: Path) -> Iterator[tuple[dict[str, np.ndarray], dict[str, Any]] | None]:
    """(arrays, what is said of them); None where there are none. Whatever does not fit inside of the block is told as a
    damaged file, too.

    Raises: CellfeatError for damaged files and those of another version.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not (folder / ABOUT).is_file() and not (folder / ARRAYS).is_file():
        yield None
        return
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if about["version"] != VERSION:
            raise CellfeatError(
                f"{folder / ABOUT} is of version {about['version']!r}, and this cellfeat reads {VERSION}: use the "
                "cellfeat that made the run, or take both reference files away to go without warnings"
            )
        yield load_file(folder / ARRAYS), about
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        said = " ".join(str(error).split())
        said = f"there is no {said}" if isinstance(error, KeyError) else said
        raise CellfeatError(
            f"{folder / ABOUT} or {ARRAYS} beside it is damaged: {said}. Copy both again from where the run was made, "
            "or take them away to go without warnings about unlike cells"
        ) from None
