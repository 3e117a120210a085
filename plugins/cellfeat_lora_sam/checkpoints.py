"""Weights of SAM networks on disk: Meta's layout and ours, fitted to the build and to the size of the images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from cellfeat import CellfeatError, load_tensors
from cellfeat.training import seeded
from cellfeat_lora_sam.described import HEADER, read_header
from cellfeat_lora_sam.named import refuse_tiny
from cellfeat_lora_sam.network import SAM_MASKS, SAM_MEAN, SAM_STD, TWO_CLASSES, WITH_NUCLEUS, SamNetwork
from cellfeat_lora_sam.sizes import BUILDS, PATCH_SIZE, SamSizes

PARTS = ("image_encoder.", "prompt_encoder.", "mask_decoder.")
PER_MASK = tuple(
    f"mask_decoder.{part}" for part in ("mask_tokens.", "output_hypernetworks_mlps.", "iou_prediction_head.")
)


class SamWeights(NamedTuple):
    """A network's tensors, float32 and in our names, with its sizes and what the file says about itself."""

    state: dict[str, Tensor]
    sizes: SamSizes
    meta: dict[str, Any]

    @property
    def masks(self) -> int:
        """Mask tokens of the decoder: 2 (background, cell), 3 (and nucleus) or 4 (as Meta published it)."""
        return len(self.state["mask_decoder.mask_tokens.weight"])

    @property
    def own_colours(self) -> bool:
        """Whether the network was trained on images standardised by their own colours."""
        return bool(self.meta.get("own_colours", False))


def save_weights(path: Path, state: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write a network's state as safetensors: float16, colours in float32, `meta` as JSON in the header."""
    from safetensors.torch import save

    kept = {
        name: value.detach().cpu().to(torch.float32 if name.startswith("pixel_") else torch.float16).contiguous()
        for name, value in state.items()
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(save(kept, metadata={HEADER: json.dumps(dict(meta), sort_keys=True)}))
    partial.replace(path)


def read_weights(path: Path) -> SamWeights:
    """Weights in Meta's layout (also as fine-tuned by micro-sam) or in ours.

    Raises:
        CellfeatError: for a file that holds no SAM, or one of sizes that no build has.
    """
    path = Path(path)
    tensors = {name.removeprefix("sam."): value for name, value in load_tensors(path).items()}
    refuse_tiny(str(path), tensors)
    state = {name: value.float() for name, value in tensors.items() if name.startswith((*PARTS, "pixel_"))}
    absent = [part for part in PARTS if not any(name.startswith(part) for name in state)]
    if absent:
        found = ", ".join(list(tensors)[:3])
        raise CellfeatError(f"{path} is no SAM checkpoint: nothing in it begins with {', '.join(absent)} (but {found})")
    state.setdefault("pixel_mean", torch.tensor(SAM_MEAN).view(3, 1, 1))
    state.setdefault("pixel_std", torch.tensor(SAM_STD).view(3, 1, 1))
    header = read_header(path)
    return SamWeights(split_qkv(state), _sizes(path, state, header.get("build")), header)


def build_network(weights: SamWeights, image_size: int, own_colours: bool | None = None) -> SamNetwork:
    """The network for images of side `image_size` px, positions resampled to its grid.

    own_colours: whether it standardises each image by its own colours; None: as the weights were trained.

    Raises:
        CellfeatError: for weights whose names or shapes do not fit the build.
    """
    with torch.device("meta"):  # no time is lost on random numbers that are replaced at once
        own = weights.own_colours if own_colours is None else own_colours
        network = SamNetwork(weights.sizes, image_size, weights.masks, own)
    try:
        network.load_state_dict(fit_positions(weights.state, weights.sizes, image_size), assign=True)
    except RuntimeError as error:
        raise CellfeatError(f"the weights do not fit the network: {' '.join(str(error).split())[:400]}") from error
    return network


def with_cell_decoder(weights: SamWeights, seed: int) -> SamWeights:
    """The weights with a fresh decoder head for background and cell where they have Meta's four masks."""
    if weights.masks != SAM_MASKS:
        return weights
    from cellfeat_lora_sam.network import build_mask_decoder

    with seeded(seed):
        decoder = build_mask_decoder(weights.sizes, TWO_CLASSES)
    fresh = {f"mask_decoder.{name}": value for name, value in decoder.state_dict().items()}
    state = {name: value for name, value in weights.state.items() if not name.startswith(PER_MASK)}
    return weights._replace(state=state | {name: value for name, value in fresh.items() if name.startswith(PER_MASK)})


def split_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """SAM's fused `qkv.weight` and `qkv.bias` as `qkv.q`, `qkv.k` and `qkv.v`; everything else as it is."""
    split: dict[str, Tensor] = {}
    for name, value in state.items():
        head, _, kind = name.rpartition(".qkv.")
        if kind in ("weight", "bias"):
            split |= {f"{head}.qkv.{part}.{kind}": third for part, third in zip("qkv", value.chunk(3), strict=True)}
        else:
            split[name] = value
    return split


def fit_positions(state: Mapping[str, Tensor], sizes: SamSizes, image_size: int) -> dict[str, Tensor]:
    """Resample absolute positions, and the relative ones of the global blocks, to the grid of `image_size`.

    Bilinear without aligned corners, as in SAMed and DoRL; but the global blocks are the build's own, where DoRL's
    loader takes those of ViT-B for every build. Windowed blocks keep their tables: their window does not change.
    """
    grid = image_size // PATCH_SIZE
    fitted = dict(state)
    name = "image_encoder.pos_embed"
    fitted[name] = _resample(state[name].permute(0, 3, 1, 2), (grid, grid)).permute(0, 2, 3, 1).contiguous()
    for block in sizes.global_blocks:
        for axis in "hw":
            name = f"image_encoder.blocks.{block}.attn.rel_pos_{axis}"
            table = state[name]
            fitted[name] = _resample(table[None, None], (2 * grid - 1, table.shape[1]))[0, 0]
    return fitted


def _resample(planes: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(planes.shape[-2:]) == size:
        return planes
    return functional.interpolate(planes, size, mode="bilinear", align_corners=False)


def _sizes(path: Path, state: Mapping[str, Tensor], said: str | None) -> SamSizes:
    """The build that has this width and depth; of several, the one that the file says it is."""
    width = state["image_encoder.pos_embed"].shape[-1] if "image_encoder.pos_embed" in state else 0
    depth = len({name.split(".")[2] for name in state if name.startswith("image_encoder.blocks.")})
    masks = len(state.get("mask_decoder.mask_tokens.weight", ()))
    fitting = {name: sizes for name, sizes in BUILDS.items() if (sizes.embed_dim, sizes.depth) == (width, depth)}
    if fitting and masks in (TWO_CLASSES, WITH_NUCLEUS, SAM_MASKS):
        return fitting.get(said or "", next(iter(fitting.values())))
    builds = ", ".join(f"{name} {sizes.embed_dim} x {sizes.depth}" for name, sizes in BUILDS.items())
    raise CellfeatError(
        f"{path} has an encoder {width} wide and {depth} deep and {masks} mask tokens; possible are {builds} with "
        f"{TWO_CLASSES}, {WITH_NUCLEUS} or {SAM_MASKS} mask tokens"
    )
