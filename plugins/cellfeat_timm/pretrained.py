"""Where a timm model's weights come from: published ones, a file, or random ones when asked for by that very name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cellfeat import CellfeatError, NamedWeights, find_weights
from cellfeat_timm.known import HUB, hub_file, published_config, reason_of

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

    def stated(self, saw: tuple[str, ...] | None) -> Source:
        """With what the user says that the weights were trained on, where nothing else tells."""
        if saw is None:
            return self
        if self.saw is not None:
            raise CellfeatError(
                f"saw={list(saw)} is not possible: it is known what these weights have seen "
                f"({', '.join(self.saw) or 'nothing'}). saw is for files, and for weights of which it is not known"
            )
        return self._replace(saw=saw)


def find_source(model: str, weights: str, slot: str, context: Context | None = None) -> Source:
    """The file behind `weights`: "imagenet" (what timm publishes for the model), "random", or a path.

    `slot` ("backbone" or "align") is for the message that says what to do when the published file cannot be had.
    """
    config = published_config(model)
    if weights == "random":
        return Source(None, ())
    if weights != "imagenet":
        return file_source(weights, "imagenet")
    try:
        name = NAME_OF_MODEL.get(model)
        if name is None:
            return Source(_from_hub(model, config), None if model.startswith(HUB) else data_seen(config.tag))
        return Source(find_weights(name, NAMED, progress=context and context.progress), NAMED[name].saw)
    except CellfeatError as error:
        raise no_weights(model, error, f"`cellfeat weights fetch {name}`" if name else "run this once", slot) from error


def file_source(weights: str, published: str) -> Source:
    """A file of the user's; `published` is the word for weights that are fetched."""
    path = Path(weights).expanduser()
    if not path.is_file():
        raise CellfeatError(f"weights={weights!r} is no file. Give {published}, random, or a .safetensors or .pth file")
    return Source(path, None)


def no_weights(model: str, error: CellfeatError, fetch: str, slot: str) -> CellfeatError:
    """Why published weights cannot be had, and the three ways out."""
    return CellfeatError(
        f"no pretrained weights for {model}: {reason_of(error)}. Either {fetch} on a machine with "
        f"network; or give a file: --set {slot}.weights=/path/to/file.safetensors; or, knowing that they know "
        f"nothing, take random weights: --set {slot}.weights=random"
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
    return hub_file(f"{config.hf_hub_id}/{HUB_FILE}")
