"""From weights on disk, and an adapter, to a network that is ready to infer."""

from __future__ import annotations

from pathlib import Path

from cellfeat_lora_sam import adapter as adapters
from cellfeat_lora_sam.checkpoints import build_network, read_weights
from cellfeat_lora_sam.described import read_about
from cellfeat_lora_sam.network import SamNetwork


def load_network(path: Path, adapter: str | None, image_size: int, own_colours: bool | None = None) -> SamNetwork:
    """The network of the weights at `path`, in eval mode, with an adapter's folder merged into it.

    own_colours: see `build_network`; None: as the adapter was trained, else as the weights were.
    """
    base = read_weights(path)
    if adapter is None:
        network = build_network(base, image_size, own_colours)
    else:
        own = read_about(Path(adapter)).get("own_colours") if own_colours is None else own_colours
        network = build_network(adapters.with_tuned_decoder(base, Path(adapter)), image_size, own)
        adapters.merge_lora(network, Path(adapter))
    adapters.fuse_qkv(network)
    return network.eval().requires_grad_(False)
