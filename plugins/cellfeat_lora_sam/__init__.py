"""LoRA-SAM: Segment Anything adapted to single cells, as backbone (tokens and mask) and as segmenter (mask)."""

from __future__ import annotations

from cellfeat import hookimpl
from cellfeat_lora_sam.automatic import SamAutomatic
from cellfeat_lora_sam.backbone import LoraSam

__all__ = ["LoraSam", "SamAutomatic"]


@hookimpl
def cellfeat_backbone():
    return {"lora-sam": LoraSam}


@hookimpl
def cellfeat_segmenter():
    return {"lora-sam": LoraSam, "sam-automatic": SamAutomatic}
