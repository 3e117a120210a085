"""What the detector's head is trained on, made once and kept: cells cut out, tiles and their tokens."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cellfeat import CellfeatError, Context
from cellfeat_lora_sam.detector_assembled import CutCells, cut_cells
from cellfeat_lora_sam.detector_data import Tile, Tiles, stacked
from cellfeat_lora_sam.detector_find import Encode
from cellfeat_lora_sam.detector_head import TILE
from cellfeat_lora_sam.pretrain_config import PretrainConfig
from cellfeat_lora_sam.pretrain_masks import segment_with
from cellfeat_lora_sam.pretrain_pool import collected

CHUNK = 256  # tiles that are kept in one file
ENCODED_AT_ONCE = 16
TRUSTED = 0.8  # least predicted quality of a mask by which a cell is cut out


@dataclass(frozen=True)
class DetectorSettings:
    """The numbers of one training.

    Attributes:
        tiles: that are drawn and assembled. photographs: at most, that cells are cut from, chosen by chance.
        steps, batch_size, lr: of AdamW. width: of the head's layers.
        checked: drawn photographs for the threshold, and as many others for the figures. seed: of everything.
    """

    tiles: int = 5120
    photographs: int = 3000
    steps: int = 1200
    batch_size: int = 16
    lr: float = 2e-3
    width: int = 32
    checked: int = 40
    seed: int = 1234

    def __post_init__(self) -> None:
        least = {name: value for name, value in asdict(self).items() if name not in ("lr", "seed") and value < 1}
        if least or not (0 < self.lr < math.inf) or self.seed < 0:
            got = ", ".join(f"{name} {value}" for name, value in asdict(self).items())
            raise CellfeatError(f"{got}: all but seed must be above 0, and seed not below")


def kept_cells(settings: DetectorSettings, paths: list[Path], encoder: Path, context: Context) -> CutCells:
    """Cells of some of the photographs, kept in the scratch folder."""
    kept = context.scratch / "cells.safetensors"
    if not kept.exists():
        chosen = np.random.default_rng(settings.seed).permutation(len(paths))[: settings.photographs]
        segment = segment_with(encoder, PretrainConfig(trusted=TRUSTED, precision="fp32"), context)
        save_tensors(kept, cut_cells([paths[row] for row in sorted(chosen)], TILE, segment, context))
    cells = _load(kept)
    return CutCells(*(cells[name].numpy() for name in CutCells._fields[:3]), float(cells["diameter"]))


def encoded_tiles(
    settings: DetectorSettings, cells: CutCells | None, encode: Encode, context: Context
) -> dict[str, Tensor]:
    """All tiles with their tokens (N, C, 14, 14) float16, made once, a file for every `CHUNK` of them."""
    chunks = []
    for first in range(0, settings.tiles, CHUNK):
        kept = context.scratch / f"tiles-{first}.safetensors"
        if not kept.exists():
            count = min(CHUNK, settings.tiles - first)
            chunk = stacked(collected(Tiles(settings.seed, first, count, cells), context, f"drawing tiles {first}"))
            tokens = []
            with context.progress(count, f"encoding tiles {first}") as bar:
                for images in chunk["image"].split(ENCODED_AT_ONCE):
                    tokens.append(encode(images).half().cpu())
                    bar.advance(len(images))
            save_tensors(kept, chunk | {"tokens": torch.cat(tokens)})
        chunks.append(_load(kept))
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in ("tokens", *Tile._fields)}


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save

    write_whole(path, save({name: value.contiguous() for name, value in tensors.items()}))


def _load(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
