"""What weights and adapters say of themselves, found without loading a network: no torch here."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from cellfeat import CellfeatError, file_sha256
from cellfeat_lora_sam.named import NAMED_WEIGHTS

HEADER = "cellfeat"  # key of our JSON in the header of a safetensors file
LORA, DECODER, ABOUT = "lora", "decoder.safetensors", "adapter.json"  # in an adapter's folder


class Described(NamedTuple):
    """sha256: of weights and adapter together. saw: what both were trained on; None: not known."""

    sha256: str
    saw: tuple[str, ...] | None


def describe(weights: str, path: Path, adapter: str | None) -> Described:
    """The weights at `path`, called `weights`, with an adapter's folder, if there is one."""
    sha256, saw = file_sha256(path), _saw(weights, path)
    if adapter is None:
        return Described(sha256, saw)
    about = read_about(Path(adapter))
    check_base(Path(adapter), about, weights, sha256)
    return Described(_with_adapter(Path(adapter), sha256), None if saw is None else (*saw, *about["saw"]))


def read_header(path: Path) -> dict[str, Any]:
    """What a file of ours says about itself; nothing for any other."""
    if Path(path).suffix != ".safetensors":
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            return json.loads((file.metadata() or {}).get(HEADER, "{}"))
    except (SafetensorError, OSError) as error:
        raise CellfeatError(f"{path} cannot be read as safetensors: {error}") from error


def read_about(folder: Path) -> dict[str, Any]:
    """What an adapter says about itself.

    Raises:
        CellfeatError: for a folder that is no adapter, or only a part of one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CellfeatError(f"no adapter at {folder}: a folder made by `cellfeat lora-sam finetune` is expected")
    absent = [name for name in (ABOUT, DECODER, LORA) if not (folder / name).exists()]
    if absent:
        raise CellfeatError(f"{folder} is no adapter, or not a whole one: it has no {', '.join(absent)}")
    try:
        return json.loads((folder / ABOUT).read_text())
    except ValueError as error:
        raise CellfeatError(f"{folder / ABOUT} is damaged: {error}") from error


def check_base(folder: Path, about: dict[str, Any], weights: str, sha256: str) -> None:
    """Refuse an adapter made for other weights."""
    if about.get("base_sha256") != sha256:
        raise CellfeatError(
            f"the adapter {folder} was made for the weights {about.get('base')!r} (sha256 {about.get('base_sha256')}), "
            f"not for {weights!r} (sha256 {sha256}); ask for the former, or fine-tune again"
        )


def _saw(weights: str, path: Path) -> tuple[str, ...] | None:
    """What weights were trained on: from the registry, else from the file itself, else unknown."""
    if weights in NAMED_WEIGHTS:
        return NAMED_WEIGHTS[weights].saw
    header = read_header(path)
    return tuple(header["saw"]) if "saw" in header else None


def _with_adapter(folder: Path, base_sha256: str) -> str:
    """One digest for base weights and adapter together."""
    files = (folder / LORA / "adapter_model.safetensors", folder / DECODER)
    return hashlib.sha256("".join([base_sha256, *map(file_sha256, files)]).encode()).hexdigest()
