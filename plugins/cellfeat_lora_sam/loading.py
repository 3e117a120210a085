"""From weights on disk, and an adapter, to a network that is ready to infer."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from cellfeat import file_sha256
from cellfeat_lora_sam import adapter as adapters
from cellfeat_lora_sam.checkpoints import build_network, read_weights
from cellfeat_lora_sam.named import NAMED_WEIGHTS
from cellfeat_lora_sam.network import SamNetwork


class LoadedNetwork(NamedTuple):
    """network: in eval mode, LoRA merged. sha256: of weights and adapter. saw: what both were trained on, or None."""

    network: SamNetwork
    sha256: str
    saw: tuple[str, ...] | None


def load_network(
    weights: str, path: Path, adapter: str | None, image_size: int, own_colours: bool | None = None
) -> LoadedNetwork:
    """The network of the weights at `path`, called `weights`, with an adapter's folder put onto it.

    own_colours: see `build_network`; None: as the adapter was trained, else as the weights were.
    """
    base = read_weights(path)
    sha256, saw = file_sha256(path), saw_of(weights, base.meta)
    if adapter is None:
        network = build_network(base, image_size, own_colours)
    else:
        about = adapters.read_about(Path(adapter))
        adapters.check_base(Path(adapter), about, weights, sha256)
        own = about.get("own_colours") if own_colours is None else own_colours
        network = build_network(adapters.with_tuned_decoder(base, Path(adapter)), image_size, own)
        adapters.merge_lora(network, Path(adapter))
        sha256 = adapters.adapter_sha256(Path(adapter), sha256)
        saw = None if saw is None else (*saw, *about["saw"])
    adapters.fuse_qkv(network)
    return LoadedNetwork(network.eval().requires_grad_(False), sha256, saw)


def saw_of(weights: str, meta: dict) -> tuple[str, ...] | None:
    """What weights were trained on: from the registry, else from the file itself, else unknown."""
    if weights in NAMED_WEIGHTS:
        return NAMED_WEIGHTS[weights].saw
    return tuple(meta["saw"]) if "saw" in meta else None
