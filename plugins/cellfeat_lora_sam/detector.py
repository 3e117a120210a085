"""The factory `cell-detector`: the boxes of the white cells of a whole smear, and the mask of one."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, ClassVar

from cellfeat import CellfeatError, Context, DetectorRecord, EncoderFacts, NamedWeights, file_sha256, find_weights
from cellfeat_lora_sam.backbone import LoraSam
from cellfeat_lora_sam.described import read_header
from cellfeat_lora_sam.named import DETECTOR_WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

# Of the shipped head at its own threshold, by the two commands of docs/detection.md.
MEASURED_ON = "smears assembled from single cells of three laboratories (docs/detection.md), which real fields are not"
MEASURED = DetectorRecord(cells=1584, found=1536, wrong=36, on=MEASURED_ON)


class CellDetector:
    """White cells of whole smears, by a head on the tokens of `cell-tiny`, after "Objects as Points".

    Args:
        weights: a name of `cellfeat weights list`, or a file made by `cellfeat lora-sam train-detector`.
        threshold: least score of a box, 0..1; None: what was best on drawn smears when the head was trained.

    Photographs are seen in overlapping tiles of 224 px, in which a typical white cell is 40 px wide. `segment` and
    `nuclei` are those of `lora-sam` with the encoder's own weights.
    """

    named_weights: ClassVar[Mapping[str, NamedWeights]] = DETECTOR_WEIGHTS
    paper: ClassVar[str] = "Zhou et al., Objects as Points, 2019, arXiv 1904.07850"
    cell_diameter = 40.0

    def __init__(
        self, weights: str = "cell-detector", threshold: float | None = None, context: Context | None = None
    ) -> None:
        from cellfeat_lora_sam.detector_find import build_head, read_head

        path = find_weights(weights, DETECTOR_WEIGHTS, progress=context.progress if context else None)
        file = read_head(path)
        if threshold is not None and not 0 <= threshold <= 1:
            raise CellfeatError(f"threshold is {threshold}; possible are numbers from 0 to 1")
        self.threshold = float(file.about["threshold"]) if threshold is None else threshold
        self._sam = LoraSam(file.about["encoder"], context=context)
        if self._sam.weights_sha256 != file.about["encoder_sha256"]:
            raise CellfeatError(
                f"{path} was trained with other weights of {file.about['encoder']} (sha256 "
                f"{file.about['encoder_sha256']}) than are here ({self._sam.weights_sha256}); train it again"
            )
        self._head = build_head(file).to(self._sam.device)
        self.weights_sha256, self.weights_saw = _identity(path, file.about)
        if threshold is None and f"sha256:{file_sha256(path)}" == DETECTOR_WEIGHTS["cell-detector-v1"].digest:
            self.detections = MEASURED

    def detect(self, image: torch.Tensor) -> torch.Tensor:
        """A photograph (3, H, W) uint8 RGB of any size -> (K, 4) float32, boxes x1, y1, x2, y2 in px, the surest first.

        Raises:
            CellfeatError: for anything else than such an image.
        """
        import torch

        from cellfeat_lora_sam.detector_find import find_cells

        if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or 0 in image.shape:
            raise CellfeatError(
                f"an image of shape {tuple(image.shape)} and {image.dtype} was given; detect takes (3, H, W) uint8 RGB"
            )
        boxes, _ = find_cells(image.cpu().numpy(), self._sam.tokens, self._head, self.threshold)
        return torch.from_numpy(boxes)

    def segment(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, s, s) uint8 RGB of any side s -> (B, s, s) bool, True on the cell nearest the middle."""
        return self._sam.segment(images)

    def nuclei(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, s, s) uint8 RGB of any side s -> (B, s, s) bool, True on the nucleus of that cell."""
        return self._sam.nuclei(images)

    @classmethod
    def facts(cls, weights: str, context: Context, **_: Any) -> EncoderFacts:
        """What an object of these parameters would say of itself; nothing is loaded."""
        path = find_weights(weights, DETECTOR_WEIGHTS, progress=context.progress)
        return EncoderFacts(None, None, *_identity(path, read_header(path)))


def _identity(path: Path, about: Mapping[str, Any]) -> tuple[str, tuple[str, ...] | None]:
    """One digest for encoder and head together, and what both saw."""
    sha256 = hashlib.sha256((str(about.get("encoder_sha256")) + file_sha256(path)).encode()).hexdigest()
    return sha256, tuple(about["saw"]) if "saw" in about else None
