"""What is measured, and set right, when a pre-training ends: masks on held-out drawn cells, and the tokens' scale."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cellfeat_lora_sam.losses import overlap
from cellfeat_lora_sam.network import SamNetwork, small_masks
from cellfeat_lora_sam.pretrain_config import PretrainConfig
from cellfeat_lora_sam.pretrain_pool import drawn_pool
from cellfeat_lora_sam.pretrain_views import Ranges, Views, reduced, sources, views

if TYPE_CHECKING:
    from cellfeat import Context

HELD_OUT_SEED = 1_000_003  # added to the seed for cells that are never trained on
PLAIN_FRAMES = Ranges(offset=0.03, pasted=0.0)


@torch.no_grad()
def scale_tokens(network: SamNetwork, factor: float) -> None:
    """Multiply the tokens before the neck by `factor`, in place, and change nothing else.

    Every layer that adds to the tokens is scaled. Those that read them, in the blocks and after the neck's first
    convolution, normalise first and do not notice. Methods that reconstruct tokens (a squared error beside other
    losses) depend on the scale; training from scratch leaves it to chance.
    """
    encoder = network.image_encoder
    encoder.pos_embed.mul_(factor)
    for layer in (encoder.patch_embed.proj, *(part for b in encoder.blocks for part in (b.attn.proj, b.mlp.lin2))):
        layer.weight.mul_(factor)
        layer.bias.mul_(factor)


@torch.inference_mode()
def token_deviation(network: SamNetwork, config: PretrainConfig, context: Context) -> float:
    """Standard deviation of all token values on held-out drawn cells."""
    network.eval()
    return torch.cat([network.encode(batch.images) for batch in _held_out(config, context)]).std().item()


@torch.inference_mode()
def held_out_iou(network: SamNetwork, config: PretrainConfig, context: Context) -> dict[str, float]:
    """Mean intersection over union of cell and nucleus on drawn cells of another seed, at the decoder's resolution."""
    network.eval()
    found: dict[str, list[Tensor]] = {"cell": [], "nucleus": []}
    for batch in _held_out(config, context):
        cell, nucleus = small_masks(network(batch.images).logits)
        found["cell"].append(overlap(cell, batch.cell))
        found["nucleus"].append(overlap(nucleus, batch.nucleus))
    return {name: torch.cat(values).mean().item() for name, values in found.items()}


def _held_out(config: PretrainConfig, context: Context) -> Iterator[Views]:
    sizes = (config.drawn_size, config.pool_size, 1)
    pool = drawn_pool(config.seed + HELD_OUT_SEED, config.held_out, *sizes, context).to(context.device)
    generator = torch.Generator().manual_seed(config.seed)
    for rows in torch.arange(config.held_out, device=context.device).split(16):
        source = reduced(sources(pool, rows, PLAIN_FRAMES, generator), config.image_size)
        yield views(source, config.image_size, PLAIN_FRAMES, generator)
