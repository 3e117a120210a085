"""The factory `sam-automatic`: the white cells among all masks that Segment Anything sees in a photograph."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ClassVar

from cellfeat import CellfeatError, Context, EncoderFacts, find_weights
from cellfeat_lora_sam.backbone import LoraSam, check_image_size
from cellfeat_lora_sam.described import describe
from cellfeat_lora_sam.named import NAMED_WEIGHTS, refuse_tiny

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from segment_anything.modeling import Sam

MOST_POINTS = 256  # on a side; 65,536 questions
MOST_CROPS = 3  # layers; 84 crops and the whole


class SamAutomatic:
    """White cells of whole photographs by Segment Anything's automatic masks (Kirillov et al., arXiv 2304.02643).

    SAM is asked at a grid of points for three masks each; those stay that it thinks good, that hardly change with the
    threshold, and that are no doubles (its section 5 and appendix B, by the package `segment-anything`). Of these the
    white cells are kept: a nucleus inside, which is dark in red and in green light against the empty field; the size of
    a white cell; a round outline. Nuclei and lobes go with their cell, clusters where the cells in them were found.

    Args:
        weights: with SAM's own decoder: a name of `cellfeat weights list` but for those of cell-tiny, whose decoder
            takes no points, or a file in any layout that lora-sam reads.
        points_per_side: of the grid, on the photograph and on each crop; 1 to 256, 32 as published.
        pred_iou_threshold: masks of a lower quality, as SAM predicts it, are left out; 0 to 1, 0.88 as published.
        stability_threshold: the same of the overlap of a mask cut off higher and lower; 0 to 1, 0.95 as published.
        crops: layers of crops that are looked at too, 2 x 2, then 4 x 4, then 8 x 8; 0 to 3. None: as many as it takes
            for every cell to hold a point of the grid and to be 32 px wide in the frame.
        image_size: side of the frame that the network sees, px, a multiple of 16; 1024 as published. A smaller one is
            quicker and coarser.

    `segment` is that of lora-sam with the same weights.
    """

    paper: ClassVar[str] = "Kirillov et al., ICCV 2023, arXiv 2304.02643"
    cell_diameter: ClassVar[float] = 48.0  # px: of a field of 20 cells' width the network then sees every pixel

    def __init__(
        self,
        weights: str = "vit_b",
        points_per_side: int = 32,
        pred_iou_threshold: float = 0.88,
        stability_threshold: float = 0.95,
        crops: int | None = None,
        image_size: int = 1024,
        context: Context | None = None,
    ) -> None:
        _check_range("points_per_side", points_per_side, 1, MOST_POINTS, 32)
        _check_range("pred_iou_threshold", pred_iou_threshold, 0, 1, 0.88)
        _check_range("stability_threshold", stability_threshold, 0, 1, 0.95)
        _check_range("crops", 0 if crops is None else crops, 0, MOST_CROPS, 1)
        check_image_size(image_size)
        refuse_tiny(weights)
        self._weights, self._image_size, self._context = weights, image_size, context
        self._asked = (points_per_side, pred_iou_threshold, stability_threshold, crops)
        self._path = find_weights(weights, NAMED_WEIGHTS, progress=context.progress if context else None)
        if self._path.suffix == ".safetensors":  # of this plugin: small, and as a rule without SAM's decoder
            self._check_weights()
        self.weights_sha256, self.weights_saw = describe(weights, self._path, None)

    def detect(self, image: torch.Tensor) -> torch.Tensor:
        """(3, H, W) uint8 RGB -> (K, 4) float32 boxes x1, y1, x2, y2 px of the white cells, about 48 px wide.

        The network is loaded by the first call.
        """
        import numpy as np
        import torch

        from cellfeat_lora_sam.automatic_cells import near_nuclei, white_cells
        from cellfeat_lora_sam.automatic_masks import Grid, every_mask, generator
        from cellfeat_lora_sam.automatic_stain import stain_of

        pixels, size = np.ascontiguousarray(image.cpu().numpy().transpose(1, 2, 0)), self.cell_diameter
        stain = stain_of(pixels, size)
        asking = generator(self._sam, near_nuclei(stain, size), Grid(*self._asked), size)
        self._warn(asking.cpu_minutes())
        masks = every_mask(asking, pixels)
        boxes = [masks[place].box for place in white_cells(stain, masks, size)]
        return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)

    def segment(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, s, s) uint8 RGB of any side s -> (B, s, s) bool, True on the cell, as lora-sam finds it."""
        return self._lora_sam.segment(images)

    @functools.cached_property
    def _sam(self) -> Sam:
        from cellfeat_lora_sam.automatic_masks import load_sam

        sam = load_sam(self._path, self._image_size, self._weights)
        return sam if self._context is None else sam.to(self._context.device)

    @functools.cached_property
    def _lora_sam(self) -> LoraSam:
        return LoraSam(self._weights, context=self._context)

    def _check_weights(self) -> None:
        from cellfeat_lora_sam.automatic_masks import check_prompted
        from cellfeat_lora_sam.checkpoints import read_weights

        check_prompted(read_weights(self._path), self._weights)

    def _warn(self, minutes: float) -> None:
        """Say how long a photograph takes on a CPU, where that is long."""
        if self._context is not None and self._context.device.type == "cpu" and minutes >= 1:
            self._context.note(
                f"SAM's automatic masks with {self._weights} take about {minutes:.0f} min of a CPU core for a field "
                "like this one; quicker are a GPU, a smaller segmenter.image_size, fewer segmenter.points_per_side "
                "and the segmenter classical"
            )

    @staticmethod
    def facts(weights: str, context: Context, **_: Any) -> EncoderFacts:
        """What an object of these parameters would say of itself; nothing is loaded."""
        refuse_tiny(weights)
        path: Path = find_weights(weights, NAMED_WEIGHTS, progress=context.progress)
        return EncoderFacts(None, None, *describe(weights, path, None))


def _check_range(name: str, value: float, least: float, most: float, such: float) -> None:
    if not least <= value <= most:
        raise CellfeatError(f"{name} is {value}; possible are {least:g} to {most:g}, such as {such:g}")
