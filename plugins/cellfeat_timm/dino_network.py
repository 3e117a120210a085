"""DINOv2's vision transformers from files in Meta's layout, in timm's, or of a training: the same numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor
from torch.nn import functional

from cellfeat import CellfeatError, check_tensors, load_tensors
from cellfeat.training import seeded
from cellfeat_timm.dino_named import DINOS, Dino

PATCH = 14
BACKBONE = "backbone."  # in a training's checkpoint, beside dino_head and ibot_head
OFFSET = 0.1  # of Meta's size ratio
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet: Meta's, and DinoBloom's


def build(dino: Dino, path: Path | None, size: int, seed: int) -> Any:
    """The network for (B, 3, size, size), float32, in eval mode; path None draws its weights from `seed`.

    Raises:
        CellfeatError: for a file that does not hold just this network.
    """
    if path is None:
        with seeded(seed):
            network: Any = timm.create_model(dino.model, num_classes=0, img_size=size)
    else:
        with torch.device("meta"):  # the tensors of the file become the network's, so that memory holds them once
            network = timm.create_model(dino.model, num_classes=0, img_size=size)
        state = fitted(dino, path, read_state(path), size // PATCH)
        check_tensors(path, state, {name: tuple(value.shape) for name, value in network.state_dict().items()})
        network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


def map_and_vector(network: Any, images: Tensor, pooling: str) -> tuple[Tensor, Tensor]:
    """(B, 3, S, S) uint8 RGB -> map (B, D, S/14, S/14) and vector (B, D), or (B, 2D) for "both"; float32."""
    pixels = images.float() / 255
    mean, std = (torch.tensor(value, device=pixels.device)[:, None, None] for value in (MEAN, STD))
    tokens = network.forward_features((pixels - mean) / std).float()
    patches, grid = tokens[:, network.num_prefix_tokens :], images.shape[-1] // PATCH
    summaries = {"cls": tokens[:, 0], "mean": patches.mean(dim=1)}
    chosen = ("cls", "mean") if pooling == "both" else (pooling,)
    pooled = torch.cat([summaries[name] for name in chosen], dim=1)
    return patches.transpose(1, 2).unflatten(2, (grid, grid)), pooled


def read_state(path: Path) -> dict[str, Tensor]:
    """The backbone's tensors, float32, in the file's own names."""
    tensors = load_tensors(path)
    if any(name.startswith(BACKBONE) for name in tensors):
        tensors = {name.removeprefix(BACKBONE): value for name, value in tensors.items() if name.startswith(BACKBONE)}
    return {name: value.float() for name, value in tensors.items()}


def fitted(dino: Dino, path: Path, state: dict[str, Tensor], grid: int) -> dict[str, Tensor]:
    """In timm's names, positions resampled to (grid, grid).

    Meta adds the position of the class token when it runs; timm's networks with registers have it added already.
    """
    _check_kind(dino, path, state)
    state.pop("mask_token", None)  # of training alone
    if "register_tokens" in state:
        state["reg_token"] = state.pop("register_tokens")
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:]
    state["pos_embed"] = resampled(state["pos_embed"], grid, dino.registers)
    return {name.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2."): v for name, v in state.items()}


def resampled(positions: Tensor, grid: int, registers: bool) -> Tensor:
    """(1, n, D) to the grid as Meta's program does, which is not timm's way.

    Bicubic. Without registers: not smoothed, by the ratio (grid + 0.1) / side. With: smoothed, by the ratio itself.
    """
    prefix = 0 if registers else 1
    side = math.isqrt(positions.shape[1] - prefix)
    if side == grid:
        return positions
    plane = positions[:, prefix:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    if registers:
        plane = functional.interpolate(plane, size=(grid, grid), mode="bicubic", antialias=True)
    else:
        plane = functional.interpolate(plane, scale_factor=(grid + OFFSET) / side, mode="bicubic")
    return torch.cat([positions[:, :prefix], plane.flatten(2).transpose(1, 2)], dim=1)


def _check_kind(dino: Dino, path: Path, state: dict[str, Tensor]) -> None:
    """Refuse a file of another network, in one line that says which it is, if it is one of these."""
    places = state.get("pos_embed")
    absent = [name for name in ("cls_token", "pos_embed", "patch_embed.proj.weight") if name not in state]
    if absent or places is None:
        raise CellfeatError(
            f"{path} is no vision transformer of DINOv2's layout: it has no {', '.join(absent)} (but "
            f"{', '.join(list(state)[:3]) or 'nothing'})"
        )
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    found = (places.shape[-1], depth, any(name in state for name in ("register_tokens", "reg_token")))
    if found == (dino.width, dino.depth, dino.registers):
        return
    fitting = [one.name for one in DINOS.values() if (one.width, one.depth, one.registers) == found]
    raise CellfeatError(
        f"{path} does not fit {dino.name} ({dino.width} wide, {dino.depth} deep, {_said(dino.registers)}): it is "
        f"{found[0]} wide, {found[1]} deep, {_said(found[2])}" + (f", as {' and '.join(fitting)}" if fitting else "")
    )


def _said(registers: bool) -> str:
    return "with registers" if registers else "without registers"
