"""Backbones `resnext50`, `timm` (any model that timm knows), DINOv2 and DinoBloom; networks trained end to end."""

from __future__ import annotations

from cellfeat import hookimpl
from cellfeat_timm.backbone import resnext50, timm
from cellfeat_timm.dann import Dann
from cellfeat_timm.dino import FACTORIES as DINO
from cellfeat_timm.lead import Lead
from cellfeat_timm.mcc import Mcc
from cellfeat_timm.source_only import SourceOnly


@hookimpl
def cellfeat_backbone() -> dict:
    return {"resnext50": resnext50, "timm": timm, **DINO}


@hookimpl
def cellfeat_align() -> dict:
    return {"source-only": SourceOnly, "dann": Dann, "mcc": Mcc, "lead": Lead}
