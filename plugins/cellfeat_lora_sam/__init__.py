"""LoRA-SAM: Segment Anything adapted to single cells, as backbone (tokens and mask), segmenter (mask) and detector."""

from __future__ import annotations

from cellfeat import hookimpl
from cellfeat_lora_sam.automatic import SamAutomatic
from cellfeat_lora_sam.backbone import LoraSam
from cellfeat_lora_sam.detector import CellDetector

__all__ = ["CellDetector", "LoraSam", "SamAutomatic"]


@hookimpl
def cellfeat_backbone():
    return {"lora-sam": LoraSam}


@hookimpl
def cellfeat_segmenter():
    return {"lora-sam": LoraSam, "cell-detector": CellDetector, "sam-automatic": SamAutomatic}
