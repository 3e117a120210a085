"""Where a timm model's weights come from: published ones, a file, or random ones when asked for by that very name."""

from __future__ import annotations

import os
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cellfeat import CellfeatError, NamedWeights, file_sha256, find_weights

if TYPE_CHECKING:
    from cellfeat import Context

RESNEXT50 = "resnext50_32x4d.tv_in1k"  # timm's name of torchvision's ResNeXt-50 32x4d (Xie et al., CVPR 2017)
HUB_FILE = "model.safetensors"

# Digest: the one that MLCommons publishes for its detection benchmark, which starts from this file. timm's newer
# weights for the same network carry only eight digits of a digest in their names.
NAMED = {
    "resnext50": NamedWeights(
        name="resnext50",
        digest="sha512:15c9f0bc1c8d64750712f86ffaded3b0bc6a87e77a395dcda3013d8af65b7ebf"
        "3ca1c24dd3aae60c0d83e510b4d27731f0526b6f9392c0a85ffc18e5fecd8a13",
        urls=("https://download.pytorch.org/models/resnext50_32x4d-7cdf4587.pth",),
        size_mb=100.4,
        licence="BSD-3-Clause",
        card="https://github.com/pytorch/vision",
        saw=("ImageNet-1k",),
    )
}
NAME_OF_MODEL = {RESNEXT50: "resnext50"}

# Parts of timm's tags that name data.
DATA = {
    "in1k": "ImageNet-1k",
    "in12k": "ImageNet-12k",
    "in21k": "ImageNet-21k",
    "in22k": "ImageNet-22k",
    "lvd142m": "LVD-142M",
    "lvd1689m": "LVD-1689M",
    "laion2b": "LAION-2B",
    "laion400m": "LAION-400M",
    "datacomp1b": "DataComp-1B",
    "webli": "WebLI",
    "ig1b": "Instagram-1B",
    "jft": "JFT-300M",
}


class Source(NamedTuple):
    """file: None for random weights. saw: data they were trained on, () for none, None when unknown."""

    file: Path | None
    saw: tuple[str, ...] | None


def find_source(model: str, weights: str, slot: str, context: Context | None = None) -> Source:
    """The file behind `weights`: "imagenet" (what timm publishes for the model), "random", or a path.

    `slot` ("backbone" or "align") is for the message that says what to do when the published file cannot be had.
    """
    config = published_config(model)
    if weights == "random":
        return Source(None, ())
    if weights != "imagenet":
        path = Path(weights).expanduser()
        if not path.is_file():
            raise CellfeatError(
                f"weights={weights!r} is no file. Give imagenet, random, or a .safetensors or .pth file"
            )
        return Source(path, None)
    try:
        name = NAME_OF_MODEL.get(model)
        if name is None:
            return Source(_from_hub(model, config), data_seen(config.tag))
        return Source(find_weights(name, NAMED, progress=context and context.progress), NAMED[name].saw)
    except CellfeatError as error:
        fetch = f"`cellfeat weights fetch {name}`" if name else "run this once"
        reason = " ".join(str(error).split()).partition(". ")[0]  # the rest are the loader's own proposals
        raise CellfeatError(
            f"no pretrained weights for {model}: {reason}. Either {fetch} on a machine with "
            f"network; or give a file: --set {slot}.weights=/path/to/file.safetensors; or, knowing that they know "
            f"nothing, take random weights: --set {slot}.weights=random"
        ) from error


@cache
def published_config(model: str) -> Any:
    """timm's configuration of a model; an unknown name is refused with the nearest ones."""
    import timm

    bare, _, _ = model.partition(".")
    tagged = timm.list_pretrained(f"{bare}.*") if timm.is_model(bare) else []
    if timm.is_model(bare) and (model == bare or model in tagged):
        return timm.get_pretrained_cfg(model)
    known = [*timm.list_models(), *tagged]
    near = get_close_matches(model, known, n=2, cutoff=0.6)
    guess = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise CellfeatError(
        f"timm has no model named {model!r}.{guess} timm.list_models() names all {len(timm.list_models())}"
    )


def data_seen(tag: str | None) -> tuple[str, ...] | None:
    """Data that a timm tag names: "fb_in22k_ft_in1k" -> ("ImageNet-22k", "ImageNet-1k"); None when it does not say."""
    parts = (tag or "").split("_")
    seen = tuple(dict.fromkeys(DATA[part] for part in parts if part in DATA))
    # "openai_ft_in1k" was fine-tuned on ImageNet but first saw something that it does not name.
    return None if not seen or ("ft" in parts and len(seen) < 2) else seen


def _from_hub(model: str, config: Any) -> Path:
    """timm's file on the Hugging Face hub, from its cache or downloaded into it."""
    if not config.hf_hub_id:
        reason = f"timm only names {config.url}, a file without a digest" if config.url else "timm publishes none"
        raise CellfeatError(f"{reason} for {model}")
    import huggingface_hub
    from huggingface_hub.utils import logging

    try:
        return Path(huggingface_hub.hf_hub_download(config.hf_hub_id, HUB_FILE, local_files_only=True))
    except FileNotFoundError:
        if os.environ.get("CELLFEAT_OFFLINE", "").lower() not in ("", "0", "false", "no"):
            raise CellfeatError(
                f"{config.hf_hub_id} is not in the hub's cache and downloads are switched off"
            ) from None
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its retries would print a line each
    try:
        huggingface_hub.HfApi().model_info(config.hf_hub_id, timeout=10)  # fails at once where there is no network
        path = Path(huggingface_hub.hf_hub_download(config.hf_hub_id, HUB_FILE))
    except Exception as error:  # whatever the client raises means the same here
        raise CellfeatError(f"{config.hf_hub_id} could not be downloaded ({type(error).__name__}: {error})") from error
    finally:
        logging.set_verbosity(verbosity)
    return _checked_blob(path)


def _checked_blob(path: Path) -> Path:
    """The hub keeps a large file under its SHA-256: compare."""
    blob = path.resolve()
    if len(blob.name) == 64 and blob.name != file_sha256(blob):
        raise CellfeatError(f"{blob} is damaged: its SHA-256 is not its name. Delete it to have it fetched again")
    return path
