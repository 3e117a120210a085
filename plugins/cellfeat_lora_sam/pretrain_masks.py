"""Masks of photographs for pre-training: by a segmenter that also finds nuclei, or by the network of an earlier run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from cellfeat import CellfeatError
from cellfeat.training import autocast, choose_dtype
from cellfeat_lora_sam.checkpoints import build_network, read_weights
from cellfeat_lora_sam.network import WITH_NUCLEUS, SamNetwork, nucleus_mask, two_class_mask
from cellfeat_lora_sam.pretrain_config import PretrainConfig
from cellfeat_lora_sam.pretrain_pool import Segment

if TYPE_CHECKING:
    from cellfeat import Context


def segment_by(segmenter: Any, name: str) -> Segment:
    """Cells and nuclei of a segmenter with `cells_and_nuclei` and `plausible`; trusted is what it calls plausible.

    Raises:
        CellfeatError: for a segmenter that cannot tell nuclei or has no opinion on its masks.
    """
    missing = [member for member in ("cells_and_nuclei", "plausible") if not hasattr(segmenter, member)]
    if missing:
        raise CellfeatError(
            f"masks: {name} cannot be used for pre-training, the segmenter has no {' and no '.join(missing)}; "
            "possible are classical, or a file of weights from an earlier run"
        )
    return Segment(_BySegmenter(segmenter), on_cpu=True)


class _BySegmenter:
    """What `segment_by` gives; a class, because processes that are no copies of their parent have it pickled."""

    def __init__(self, segmenter: Any) -> None:
        self.segmenter = segmenter

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        cell, nucleus = self.segmenter.cells_and_nuclei(images)
        return cell, nucleus, self.segmenter.plausible(images, cell, nucleus)


def segment_with(path: Path, config: PretrainConfig, context: Context) -> Segment:
    """Cells and nuclei of the network in a file; trusted are those whose predicted quality reaches `trusted`.

    Raises:
        CellfeatError: for weights that do not know the nucleus.
    """
    weights = read_weights(path)
    if weights.masks != WITH_NUCLEUS:
        raise CellfeatError(f"masks: {path} has no mask token for the nucleus; name weights made by `pretrain`")
    return segment_network(build_network(weights, config.image_size).to(context.device).eval(), config, context)


def segment_network(network: SamNetwork, config: PretrainConfig, context: Context) -> Segment:
    """Cells and nuclei of a network that tells both; trusted are those whose predicted quality reaches `trusted`."""

    @torch.inference_mode()
    def masks(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        side, size = images.shape[-1], (config.image_size, config.image_size)
        frames = functional.interpolate(images.to(context.device).float(), size, mode="bilinear", antialias=True)
        with autocast(context.device, choose_dtype(config.precision)):
            output = network(frames)
        cell = two_class_mask(output.logits.float(), side)
        nucleus = nucleus_mask(output.logits.float(), cell)
        return cell, nucleus, output.quality.float()[:, 1:].amin(dim=1) >= config.trusted

    return Segment(masks, on_cpu=False)
