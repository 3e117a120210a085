"""Every mask that Segment Anything sees in a photograph: a grid of points, each mask judged by SAM itself.

Kirillov et al., 2023, arXiv 2304.02643, section 5 and appendix B, by `SamAutomaticMaskGenerator` of the
`segment-anything` package. What is added: how many crops a field needs, how many points fit into memory, and that no
point is asked where no white cell can be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam
from segment_anything.utils.amg import MaskData, generate_crop_boxes, rle_to_mask

from cellfeat import CellfeatError
from cellfeat_lora_sam.checkpoints import SamWeights, read_weights
from cellfeat_lora_sam.loading import load_network
from cellfeat_lora_sam.network import SAM_MASKS
from cellfeat_lora_sam.sizes import PATCH_SIZE

LEAST_SIDE = 32.0  # px of a typical cell in the network's frame; masks have a quarter of its resolution
MOST_LAYERS = 3  # of crops: 1, 4, 16 and 64 encodings
LOGITS = 256 * 2**20  # bytes of the logits that are held at once, as large as the photograph
CHOICES = 3  # masks for every point
ENCODING, QUESTION = 15.0, 0.18  # seconds of a core for a frame of ViT-B at 1024 px, and for a point
TOKENS, WORK = 64**2, 768**2 * 12  # of ViT-B at 1024 px: tokens, and what a token costs


class Mask(NamedTuple):
    """One mask of a photograph. box: x1, y1, x2, y2 px. inside: (y2 - y1, x2 - x1) bool, its pixels in the box."""

    box: tuple[int, int, int, int]
    inside: np.ndarray

    @classmethod
    def of(cls, pixels: np.ndarray) -> Mask:
        """From (H, W) bool with at least one pixel."""
        rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        return cls((left, top, right, bottom), pixels[top:bottom, left:right].copy())


@dataclass(frozen=True)
class Grid:
    """What SAM is asked and what it must say of a mask.

    points: on each side of the photograph, and of each crop. quality: least predicted intersection over union.
    stability: least overlap of the mask at a higher and a lower threshold. layers: of crops, 2 x 2, 4 x 4 and so on.
    """

    points: int
    quality: float
    stability: float
    layers: int | None = None

    def layers_for(self, longest: int, diameter: float, image_size: int) -> int:
        """So many that every cell of `diameter` px holds a point and is `LEAST_SIDE` px wide in the network's frame.

        longest: side of the photograph in px. Points that are a cell's diameter / sqrt(2) apart miss none.
        """
        if self.layers is not None:
            return self.layers
        short = max(math.sqrt(2) * longest / (diameter * self.points), LEAST_SIDE * longest / (diameter * image_size))
        return min(MOST_LAYERS, max(0, math.ceil(math.log2(short))))


def check_prompted(found: SamWeights, weights: str) -> None:
    """Refuse weights that no point can be put to."""
    if found.masks != SAM_MASKS or found.own_colours:
        raise CellfeatError(
            f"the weights {weights!r} cannot be asked by points: their decoder, of {found.masks} masks, was trained to "
            "find the one cell of an image without any. Possible are weights with SAM's own decoder, such as vit_b, "
            "vit_l, vit_h, vit_b_lm"
        )


def load_sam(path: Path, image_size: int, weights: str) -> Sam:
    """SAM as its package builds it, in eval mode, for frames of `image_size` px; positions are resampled to them.

    weights: what the user called them. Raises: CellfeatError for weights that no point can be put to.
    """
    check_prompted(read_weights(path), weights)
    network = load_network(path, None, image_size)
    colours = [value.flatten().tolist() for value in (network.pixel_mean, network.pixel_std)]
    return Sam(network.image_encoder, network.prompt_encoder, network.mask_decoder, *colours).eval()


class NearNuclei(SamAutomaticMaskGenerator):
    """SAM's generator, asked only at those points of its grids that are in a region of the photograph.

    region: (H, W) bool. Crops without a point are not encoded. Masks that are kept hold a nucleus and the point that
    was asked, so that points far from any nucleus would cost time and give nothing.
    """

    def __init__(self, sam: Sam, region: np.ndarray, **settings: Any) -> None:
        super().__init__(sam, **settings)
        self.region = region

    def questions(self) -> list[tuple[list[int], np.ndarray]]:
        """(crop x1, y1, x2, y2 px; its points (n, 2) in 0..1, x and y) of every crop that is asked something."""
        crops = generate_crop_boxes(self.region.shape, self.crop_n_layers, self.crop_overlap_ratio)
        found = [(crop, self._near(crop, self.point_grids[layer])) for crop, layer in zip(*crops, strict=True)]
        return [(crop, points) for crop, points in found if len(points)]

    def _near(self, crop: Sequence[int], points: np.ndarray) -> np.ndarray:
        left, top, right, bottom = crop
        columns, rows = (points * (right - left, bottom - top)).astype(int).T
        return points[self.region[top + rows, left + columns]]

    def _process_crop(
        self, image: np.ndarray, crop_box: list[int], crop_layer_idx: int, orig_size: tuple[int, ...]
    ) -> MaskData:
        every = self.point_grids
        near = self._near(crop_box, every[crop_layer_idx])
        if not len(near):
            return self._nothing()
        try:
            self.point_grids = [near if layer == crop_layer_idx else one for layer, one in enumerate(every)]
            found = super()._process_crop(image, crop_box, crop_layer_idx, orig_size)
        finally:
            self.point_grids = every
        # the package cannot join the boxes of crops of which one gave nothing
        return found if len(found["rles"]) else self._nothing()

    def _nothing(self) -> MaskData:
        """What no points give."""
        there = self.predictor.device
        return MaskData(
            iou_preds=torch.zeros(0, device=there),
            points=torch.zeros(0, 2),
            stability_score=torch.zeros(0, device=there),
            boxes=torch.zeros(0, 4, dtype=torch.int64, device=there),
            rles=[],
            crop_boxes=torch.zeros(0, 4, dtype=torch.int64),
        )

    def cpu_minutes(self) -> float:
        """About how long all questions take on one core, measured for ViT-B at 1024 px on a core of a server."""
        encoder, asked = self.predictor.model.image_encoder, self.questions()
        tokens = (encoder.img_size // PATCH_SIZE) ** 2 / TOKENS
        work = tokens * encoder.pos_embed.shape[-1] ** 2 * len(encoder.blocks) / WORK
        return (len(asked) * work * ENCODING + sum(len(points) for _, points in asked) * tokens * QUESTION) / 60


def generator(sam: Sam, region: np.ndarray, grid: Grid, diameter: float) -> NearNuclei:
    """What asks SAM in a region (H, W) bool of a photograph, a typical cell of which is `diameter` px wide."""
    height, width = region.shape
    return NearNuclei(
        sam,
        region,
        points_per_side=grid.points,
        points_per_batch=max(1, min(64, LOGITS // (4 * CHOICES * height * width))),
        pred_iou_thresh=grid.quality,
        stability_score_thresh=grid.stability,
        crop_n_layers=grid.layers_for(max(height, width), diameter, sam.image_encoder.img_size),
        output_mode="uncompressed_rle",  # all masks at once, as large as the photograph, may be gigabytes
    )


def every_mask(asking: NearNuclei, image: np.ndarray) -> list[Mask]:
    """(H, W, 3) uint8 RGB -> SAM's masks, none of them empty."""
    with torch.inference_mode():
        found: list[dict[str, Any]] = asking.generate(image)
    return [Mask.of(rle_to_mask(one["segmentation"])) for one in found if one["area"] > 0]
