"""The checkpoints of DoRL's and BC-SAM's authors, last stage, as fitted methods `cae` and `bc-sam-ae`.

Both are tensors under the names of the authors' networks, also with "module." before them, as programs that trained on
several GPUs leave them.
"""

from __future__ import annotations

import pickle
import shlex
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellfeat import CellfeatError, check_tensors, load_tensors

if TYPE_CHECKING:
    from torch import Tensor

DORL_SAW = tuple(f"{name} (images without labels)" for name in ("Matek-19", "Acevedo-20", "SYSU3H"))
BC_SAM_SAW = tuple(f"{name} (images without labels)" for name in ("Matek-19", "Acevedo-20"))
# What our tensors are called in DoRL's program.
DORL_NAMES = {
    "image_head.": "decoder.head.",
    "projector.": "decoder.Linear.",
    ".position": ".pos_embedding",
    ".blocks.": ".transformer.",
    "encoder.norm.": "encoder.layer_norm.",
}


def import_dorl_cae(path: Path, folder: Path, heads: int | None = None) -> str:
    """Fill `folder` with the fitted method `cae` of a checkpoint such as `AE-SAM300.mdl`.

    heads: attention heads, which no tensor shows; None for 64 channels each, as published, or as near as can be.
    """
    from cellfeat_cae.cae import Cae

    tensors = _read(path)
    known = ("encoder.cls_token", "decoder.head.0.weight", "decoder.Linear.weight")
    channels, head_width, latent = _sizes(path, tensors, "DoRL's autoencoder", known, (-1, 1, 0))
    depths = [
        len({name.split(".")[2] for name in tensors if name.startswith(f"{part}.transformer.")})
        for part in ("encoder", "decoder")
    ]
    method = Cae(encoder_depth=depths[0], decoder_depth=depths[1], heads=heads, head_width=head_width, latent=latent)
    return _save(method, channels, DORL_SAW, tensors, path, folder)


def import_bc_sam(path: Path, folder: Path) -> str:
    """Fill `folder` with the fitted method `bc-sam-ae` of a state dictionary of BC-SAM's network.

    Raises:
        CellfeatError: for the program's own files, which hold the whole network as a pickle, with the way to convert
            them.
    """
    from cellfeat_cae.bc_sam import BcSamAe

    try:
        tensors = _read(path)
    except CellfeatError as error:
        if not (isinstance(error.__cause__, pickle.UnpicklingError) and zipfile.is_zipfile(path)):
            raise
        raise CellfeatError(
            f"{path} was not loaded: it holds more than tensors. BC-SAM's program saves its whole network as a pickle, "
            "and reading one runs the code that it brings. Where you trust the file and have BC-SAM's model.py, "
            f'convert it, then import state.pt: python -c "import torch; model = torch.load({path.name!r}, '
            "map_location='cpu', weights_only=False); torch.save(model.state_dict(), 'state.pt')\""
        ) from error
    channels, latent = _sizes(path, tensors, "BC-SAM's autoencoder", ("encoder.0.weight", "encoder.6.weight"), (1, 0))
    return _save(BcSamAe(latent=latent), channels, BC_SAM_SAW, tensors, path, folder)


def _read(path: Path) -> dict[str, Tensor]:
    return {name.removeprefix("module."): value for name, value in load_tensors(path).items()}


def _sizes(
    path: Path, tensors: Mapping[str, Tensor], what: str, names: tuple[str, ...], axes: tuple[int, ...]
) -> list[int]:
    """The lengths of known tensors along these axes."""
    absent = [name for name in names if name not in tensors or tensors[name].ndim < 2]
    if absent:
        found = ", ".join(list(tensors)[:3])
        raise CellfeatError(f"{path} is no checkpoint of {what}: it has no {', '.join(absent)} (but {found})")
    return [tensors[name].shape[axis] for name, axis in zip(names, axes, strict=True)]


def _save(
    method: Any, channels: int, saw: tuple[str, ...], tensors: Mapping[str, Tensor], path: Path, folder: Path
) -> str:
    """Save `method` as if it had been fitted to these tensors; gives the line that says how to use it."""
    import torch

    method.channels_, method.history_, method.examples_, method.weights_saw = channels, {}, {}, saw
    with torch.device("meta"):  # no time is lost on random numbers that are replaced at once
        method.network_ = method._build()
    state = method.network_.state_dict()
    check_tensors(path, tensors, {_published_name(name): _flipped(name, value).shape for name, value in state.items()})
    ours = {name: _flipped(name, tensors[_published_name(name)]) for name in state}
    method.network_.load_state_dict({name: _like(state[name], value) for name, value in ours.items()}, assign=True)
    method.save(folder)
    return f"Use it: cellfeat run --align {method.name} --set {shlex.quote(f'align.weights={folder}')}"


def _published_name(name: str) -> str:
    """The authors' name of one of our tensors; BC-SAM's are the same."""
    for ours, theirs in DORL_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def _flipped(name: str, value: Tensor) -> Tensor:
    """Positions are (tokens, 1, channels) in DoRL's program and (1, tokens, channels) here, either way."""
    return value.transpose(0, 1) if name.endswith(".position") else value


def _like(wanted: Tensor, value: Tensor) -> Tensor:
    return value.detach().to(wanted.dtype).contiguous()
