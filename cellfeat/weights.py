"""Pretrained weights by name: shipped in a package, or downloaded once, checked against a digest and kept.

Downloads go through pooch into a cache: the folder in the environment variable `CELLFEAT_CACHE`, else the user's cache
folder. With `CELLFEAT_OFFLINE=1` nothing is downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cellfeat.digests import check_digest
from cellfeat.errors import CellfeatError, unknown
from cellfeat.store import cache_folder

if TYPE_CHECKING:
    from torch import Tensor

WEIGHT_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
ProgressBar = Callable[[int | None, str], AbstractContextManager[Any]]


@dataclass(frozen=True)
class NamedWeights:
    """One file of weights that a user asks for by name.

    Attributes:
        name: what the user types.
        digest: "algorithm:hexadecimal", for example "sha256:ab…" or "xxh128:cd…"; the file is not used without it.
        urls: where to download it, mirrors in the order to try them; empty when the file ships inside a package.
        path: the shipped file; None when it is downloaded.
        size_mb: size in megabytes (10^6 bytes), for the list.
        licence: its licence, as short as possible. card: address of its description, or a note.
        saw: data the weights were trained on; None when unknown.
    """

    name: str
    digest: str
    urls: tuple[str, ...] = ()
    path: Path | None = None
    size_mb: float = 0.0
    licence: str = ""
    card: str = ""
    saw: tuple[str, ...] | None = None


class WeightsRow(NamedTuple):
    """One line of `cellfeat weights list`; `path` is None when the file is not on this machine yet."""

    name: str
    size_mb: float
    licence: str
    digest: str
    saw: tuple[str, ...] | None
    path: Path | None

    @property
    def where(self) -> str:
        """Where the file is, or how to get it."""
        return str(self.path) if self.path else f"no (cellfeat weights fetch {self.name})"


def find_weights(
    name_or_path: str | Path,
    named: Mapping[str, NamedWeights],
    *,
    offline: bool | None = None,
    cache: Path | None = None,
    progress: ProgressBar | None = None,
) -> Path:
    """The file of named weights, downloaded when it is not here, its digest verified; or the path that was given.

    Args:
        name_or_path: a name in `named`, which wins over a file of that name, or the path of a file.
        offline: never download; None reads `CELLFEAT_OFFLINE`.
        cache: folder for downloads; None for the default.
        progress: like `Context.progress`, shown while downloading (total in bytes).

    Raises:
        CellfeatError: for an unknown name, a missing file, a wrong digest, or a download that is refused or fails.
    """
    if str(name_or_path) in named:
        return _named_file(named[str(name_or_path)], is_offline(offline), weights_cache(cache), progress)
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise CellfeatError(f"{path} is a folder; weights are one file ({', '.join(WEIGHT_SUFFIXES)})")
    if path.suffix in WEIGHT_SUFFIXES or len(path.parts) > 1:
        raise CellfeatError(f"no weights file at {path}. Known by name: {', '.join(sorted(named)) or 'none'}")
    raise _unknown(str(name_or_path), named)


def weights_cache(cache: Path | None = None) -> Path:
    """The folder that downloaded weights are kept in; it need not exist yet."""
    return (cache_folder() if cache is None else Path(cache).expanduser()) / "weights"


def weights_status(named: Mapping[str, NamedWeights], *, cache: Path | None = None) -> list[WeightsRow]:
    """What is known by name and what of it is on this machine, without reading or downloading any file."""
    rows = []
    for weights in named.values():
        path: Path | None = weights.path or cached_file(weights, weights_cache(cache))
        if path is not None and not path.is_file():
            path = None
        rows.append(WeightsRow(weights.name, weights.size_mb, weights.licence, weights.digest, weights.saw, path))
    return rows


def verify_weights(name: str, named: Mapping[str, NamedWeights], *, cache: Path | None = None) -> Path:
    """The file of named weights after checking its digest; downloads nothing, and raises when it is not here."""
    if name not in named:
        raise _unknown(name, named)
    return find_weights(name, named, offline=True, cache=cache)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a PyTorch checkpoint, on the CPU, by name.

    A checkpoint that wraps its weights ("state_dict", "model_state" or "model") is unwrapped; one that would run code
    when read is refused.
    """
    path = Path(path)
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_checkpoint(path)
    for key in ("state_dict", "model_state", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = (
        {name: value for name, value in content.items() if isinstance(name, str) and _is_tensor(value)}
        if isinstance(content, dict)
        else {}
    )
    if not tensors:
        raise CellfeatError(f"{path} holds no weights: a dictionary of tensors by name is expected")
    return tensors


def check_tensors(path: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise, naming what is absent, unknown or misshapen, unless the file's tensors have just these names and shapes.

    For those who read files of a known program: strict as `load_state_dict`, but in the names that the file has.
    """
    faults = [f"{name} is absent" for name in shapes if name not in tensors]
    faults += [f"{name} is unknown" for name in tensors if name not in shapes]
    faults += [
        f"{name} has the shape {tuple(tensors[name].shape)} and not {tuple(shape)}"
        for name, shape in shapes.items()
        if name in tensors and tuple(tensors[name].shape) != tuple(shape)
    ]
    if faults:
        more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
        raise CellfeatError(f"{path} does not fit: {'; '.join(faults[:3])}{more}")


def cached_file(weights: NamedWeights, folder: Path) -> Path:
    """Where a download is kept; its name carries the start of the digest, so that a new version is another file."""
    suffix = Path(weights.urls[0]).suffix if weights.urls else ""
    return folder / f"{weights.name}-{weights.digest.rpartition(':')[2][:8]}{suffix}"


def _unknown(name: str, named: Mapping[str, NamedWeights]) -> CellfeatError:
    return CellfeatError(unknown("weights", name, named, "The path of a file works too"))


def is_offline(offline: bool | None = None) -> bool:
    """Whether downloads are switched off, by the argument or else by `CELLFEAT_OFFLINE`."""
    return (
        os.environ.get("CELLFEAT_OFFLINE", "").lower() not in ("", "0", "false", "no") if offline is None else offline
    )


def _named_file(weights: NamedWeights, offline: bool, folder: Path, progress: ProgressBar | None) -> Path:
    if weights.path is not None:
        if not weights.path.is_file():
            raise CellfeatError(f"the weights {weights.name!r} ship as {weights.path}, which is absent: reinstall")
        check_digest(weights.path, weights.digest, "; reinstall")
        return weights.path
    path = cached_file(weights, folder)
    if offline:
        if not path.is_file():
            raise CellfeatError(
                f"the weights {weights.name!r} are not at {path} and downloads are switched off (--offline or "
                f"CELLFEAT_OFFLINE). Fetch them where there is a network: cellfeat weights fetch {weights.name}"
            )
        check_digest(path, weights.digest, f"; delete it, then: cellfeat weights fetch {weights.name}")
        return path
    from cellfeat.downloads import download

    return download(weights.urls, weights.digest, path, weights.name, progress)


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CellfeatError(f"{path} cannot be read as safetensors: {error}") from error


def _read_checkpoint(path: Path) -> Any:
    import pickle

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CellfeatError(
            f"{path} was not loaded: it is no plain PyTorch checkpoint, or reading it would run code that it brings. "
            "Save its state_dict alone, best as safetensors"
        ) from error
    except Exception as error:  # a damaged file fails in any way, and unpickling code is not run
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CellfeatError(
            f"{path} cannot be read as a PyTorch checkpoint: it is none, or damaged ({type(error).__name__}: {reason})"
        ) from error


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)
