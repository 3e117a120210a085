"""What fine-tuning on masks of whole cells would forget: the nucleus, and how good a mask is.

The masks that a laboratory has show cells, not nuclei. The network as it was before is therefore shown the same images,
and what it says of the nucleus is the target (self-distillation, as in learning without forgetting: Li & Hoiem, 2016,
arXiv 1606.09282). The quality of the cell's mask is learned from the masks themselves.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from cellfeat.distributed import Part
from cellfeat_lora_sam.adapter import fuse_qkv
from cellfeat_lora_sam.checkpoints import SamWeights, build_network
from cellfeat_lora_sam.losses import WHOLE, overlap
from cellfeat_lora_sam.network import SamNetwork, SamOutput, small_masks

CELL, NUCLEUS = 1, 2  # mask tokens
NUCLEUS_SHARE = 0.2  # of the loss: as much as the cell's own cross-entropy, for the nucleus is only to stay as it was
QUALITY_SHARE = 0.05  # the head's own step size does not depend on it (Adam), the tokens should not follow it


class Kept(NamedTuple):
    """Scalars: the weighted loss and its two terms."""

    loss: Tensor
    nucleus: Tensor
    quality: Tensor


def teacher_of(weights: SamWeights, image_size: int, own_colours: bool | None) -> SamNetwork:
    """The network as it is before fine-tuning, frozen, sharing no tensor with the one that is trained."""
    network = copy.deepcopy(build_network(weights, image_size, own_colours))
    fuse_qkv(network)
    return network.eval().requires_grad_(False)


def keeping_loss(output: SamOutput, before: SamOutput, cell: Tensor, part: Part = WHOLE) -> Kept:
    """Loss of three masks against the network before fine-tuning, and of the quality against the true cell.

    cell: (B, S/4, S/4) bool. nucleus: binary cross-entropy against the probabilities of the network before. quality:
    squared errors of the cell's predicted intersection over union and of the nucleus's, against what it was before.
    """
    chance = before.logits[:, NUCLEUS].float().sigmoid()
    nucleus = functional.binary_cross_entropy_with_logits(output.logits[:, NUCLEUS].float(), chance)
    found = overlap(small_masks(output.logits)[0], cell), before.quality[:, NUCLEUS].float().clamp(0, 1)
    quality = functional.mse_loss(output.quality[:, CELL : NUCLEUS + 1].float(), torch.stack(found, dim=1))
    nucleus, quality = part.cells * nucleus, part.cells * quality
    return Kept(NUCLEUS_SHARE * nucleus + QUALITY_SHARE * quality, nucleus, quality)
