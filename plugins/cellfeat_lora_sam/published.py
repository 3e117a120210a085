"""The checkpoints of DoRL's and BC-SAM's authors, stage 1 (`epoch_85.pth`), to adapters of `lora-sam` and back.

Such a file is a dictionary: `w_a_000`, `w_b_000` and so on, LoRA's A (rank, width) and B (width, rank) of every block
in order, even numbers for queries and odd ones for values, their product added at scale 1; and every tensor of
`prompt_encoder.` and `mask_decoder.` under SAM's names, with two mask tokens.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellfeat import CellfeatError, check_tensors, file_sha256, find_weights, load_tensors
from cellfeat_lora_sam import described
from cellfeat_lora_sam.named import NAMED_WEIGHTS
from cellfeat_lora_sam.sizes import BUILDS, SamSizes

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor

    from cellfeat_lora_sam.network import SamNetwork

Triple = tuple[float, float, float]
# RGB on 0..255, of the training images; they belong to the weights, but stand in the authors' program and in no file.
MEAN: Triple = (215.0322, 187.7592, 200.4668)
STD: Triple = (41.3047, 56.9191, 21.9522)
SAW = "masks of DoRL's fine-tuning set (not published)"
DECODER = ("prompt_encoder.", "mask_decoder.")
PUBLISHED_MASKS = 2  # background and cell
PUBLISHED_RANK = 4  # what the authors' program loads, whatever its --rank says


def import_dorl(path: Path, folder: Path, base: str = "vit_b", mean: Triple = MEAN, std: Triple = STD) -> str:
    """Fill `folder` with an adapter that has the very numbers of a checkpoint.

    Args:
        base: the weights that it was trained on, a name (nothing is downloaded) or a file.
        mean, std: of the input, RGB on 0..255, as in the program that the checkpoint was trained by.
    """
    from cellfeat_lora_sam.adapter import save_adapter

    if not all(0 < value < math.inf for value in std) or not all(map(math.isfinite, mean)):
        raise CellfeatError(
            f"mean is {mean}, std is {std}; three numbers above 0 are needed for std, finite ones for mean"
        )
    tensors = {name.removeprefix("module."): value.detach() for name, value in load_tensors(path).items()}
    sizes, rank = _sizes(path, tensors)
    base_sha256 = _check_base(path, base, sizes)
    network, lora = _empty_network(sizes, rank)
    ours = {_published_name(name): name for name in network.state_dict() if _is_adapted(name)}
    check_tensors(path, tensors, {name: network.state_dict()[key].shape for name, key in ours.items()})
    state = {key: tensors[name].float() for name, key in ours.items()}
    network.load_state_dict(state | _colours(mean, std), strict=False, assign=True)
    about = {
        "base": base,
        "base_sha256": base_sha256,
        "own_colours": False,  # their program standardises by constants, whatever the base was trained with
        "saw": [SAW],
        "imported": {"format": "dorl", "file": path.name, "sha256": file_sha256(path), "rank": rank},
    }
    save_adapter(folder, network, lora, about)
    options = f"--set {shlex.quote(f'backbone.weights={base}')} --set {shlex.quote(f'backbone.adapter={folder}')}"
    return f"Use it: cellfeat run {options}"


def export_dorl(source: Path, path: Path) -> str:
    """Write an adapter, imported or fine-tuned here, as the dictionary that the authors' program loads.

    Their files have no place for the input's mean and deviation, which their program keeps as constants; the line that
    is returned says which to put there.
    """
    import torch

    about = described.read_about(source)
    config = json.loads((source / described.LORA / "adapter_config.json").read_text())
    if config["lora_alpha"] != config["r"]:
        raise CellfeatError(
            f"{source} adds its LoRA products at the scale {config['lora_alpha'] / config['r']:g}; DoRL's program "
            "knows only 1 (lora_alpha = r)"
        )
    lora = load_tensors(source / described.LORA / "adapter_model.safetensors")
    decoder = load_tensors(source / described.DECODER)
    masks = len(decoder["mask_decoder.mask_tokens.weight"])
    if masks != PUBLISHED_MASKS or about.get("own_colours"):
        colours = "its images' own colours" if about.get("own_colours") else "constant colours"
        raise CellfeatError(
            f"{source} was made for a decoder with {masks} masks and {colours}; DoRL's program knows only "
            f"{PUBLISHED_MASKS} masks (background, cell) and constant colours"
        )
    published = {_published_name(name): value for name, value in lora.items()}
    content = {name: published[name] for name in sorted(published)}
    content |= {name: value for name, value in decoder.items() if name.startswith(DECODER)}
    torch.save(content, path)
    mean, std = ([round(value, 4) for value in decoder[f"pixel_{name}"].flatten().tolist()] for name in ("mean", "std"))
    rank = "" if config["r"] == PUBLISHED_RANK else f" (its rank is {PUBLISHED_RANK}, but this adapter's {config['r']})"
    return f"For the weights {about['base']}. In DoRL's program put pixel mean {mean} and std {std}{rank}"


def _sizes(path: Path, tensors: dict[str, Tensor]) -> tuple[SamSizes, int]:
    """The build whose width and depth the LoRA matrices have, and their rank."""
    matrices = [value for name, value in tensors.items() if re.fullmatch(r"w_a_\d{3}", name) and value.ndim == 2]
    if not matrices:
        found = ", ".join(list(tensors)[:3])
        raise CellfeatError(f"{path} is no checkpoint of DoRL's stage 1: it has no matrix w_a_000 (but {found})")
    rank, width = matrices[0].shape
    for sizes in BUILDS.values():
        if (sizes.embed_dim, 2 * sizes.depth) == (width, len(matrices)):
            return sizes, rank
    builds = ", ".join(f"{name} {sizes.embed_dim} and {2 * sizes.depth}" for name, sizes in BUILDS.items())
    raise CellfeatError(
        f"{path} has {len(matrices)} matrices w_a_### for an encoder {width} wide; possible widths and numbers of "
        f"matrices are {builds}"
    )


def _check_base(path: Path, base: str, sizes: SamSizes) -> str:
    """The sha256 of the weights that the adapter is for; refuses those of another build."""
    from cellfeat_lora_sam.checkpoints import read_weights

    named = NAMED_WEIGHTS.get(base)
    if named is None:
        file = find_weights(base, NAMED_WEIGHTS)
        found, sha256 = read_weights(file).sizes, file_sha256(file)
    else:
        found = next(build for name, build in BUILDS.items() if name in base)  # tiny of cell-tiny, vit_b of vit_b_lm
        algorithm, _, digest = named.digest.rpartition(":")
        sha256 = digest if algorithm == "sha256" else file_sha256(find_weights(base, NAMED_WEIGHTS, offline=True))
    if found != sizes:
        raise CellfeatError(
            f"{path} was trained on an encoder {sizes.embed_dim} wide and {sizes.depth} deep, and {base} has one "
            f"{found.embed_dim} wide and {found.depth} deep; name the right weights: --set base=NAME or FILE"
        )
    return sha256


def _empty_network(sizes: SamSizes, rank: int) -> tuple[SamNetwork, PeftModel]:
    """A network with LoRA that has shapes and names, and no numbers."""
    import torch

    from cellfeat_lora_sam.adapter import add_lora
    from cellfeat_lora_sam.network import SamNetwork

    with torch.device("meta"):
        network = SamNetwork(sizes)
        return network, add_lora(network, rank)


def _is_adapted(name: str) -> bool:
    return name.startswith(DECODER) or ".lora_" in name


def _published_name(name: str) -> str:
    """`…blocks.3.attn.qkv.v.lora_A.default.weight` is `w_a_007`; the decoder's names are SAM's."""
    found = re.search(r"blocks\.(\d+)\.attn\.qkv\.([qv])\.lora_([AB])\.", name)
    return f"w_{found[3].lower()}_{2 * int(found[1]) + (found[2] == 'v'):03d}" if found else name


def _colours(mean: Triple, std: Triple) -> dict[str, Any]:
    import torch

    return {f"pixel_{name}": torch.tensor(value).view(3, 1, 1) for name, value in (("mean", mean), ("std", std))}
