"""Finding the cells of a photograph with a frozen encoder and a head: tile by tile, then as one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cellfeat import CellfeatError, load_tensors
from cellfeat_lora_sam.described import HEADER, read_header
from cellfeat_lora_sam.detector_head import TILE, DetectorHead, peaks
from cellfeat_lora_sam.detector_tiles import believed, padded, starts, suppressed

TILES_AT_ONCE = 8
Encode = Callable[[Tensor], Tensor]  # tiles (B, 3, T, T) uint8 -> tokens (B, C, T/16, T/16) float32


class HeadFile(NamedTuple):
    """A head from disk: its tensors in float32, and what the file says of itself."""

    state: dict[str, Tensor]
    about: dict[str, Any]


def find_cells(
    image: np.ndarray, encode: Encode, head: DetectorHead, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """A photograph (3, H, W) uint8 RGB -> boxes (K, 4) float32 px, inside it, and scores (K,), best first."""
    height, width = image.shape[1:]
    whole, before = padded(image)
    size = (whole.shape[1], whole.shape[2])
    corners = [(y, x) for y in starts(size[0]) for x in starts(size[1])]
    boxes, scores = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.float32)]
    for first in range(0, len(corners), TILES_AT_ONCE):
        some = corners[first : first + TILES_AT_ONCE]
        tiles = np.stack([whole[:, y : y + TILE, x : x + TILE] for y, x in some])
        for corner, found in zip(some, tile_peaks(torch.from_numpy(tiles), encode, head, threshold), strict=True):
            kept = believed(found[0], corner, size)
            boxes.append(found[0][kept] + np.tile(corner[::-1], 2) - np.tile(before[::-1], 2))
            scores.append(found[1][kept])
    every, score = np.concatenate(boxes).astype(np.float32), np.concatenate(scores)
    middles = (every[:, :2] + every[:, 2:]) / 2
    inside = ((middles >= 0) & (middles < (width, height))).all(axis=1)  # others are mirror images
    every, score = every[inside], score[inside]
    kept = suppressed(every, score)
    return every[kept].clip(0, np.array([width, height] * 2, np.float32)), score[kept]


@torch.inference_mode()
def tile_peaks(
    tiles: Tensor, encode: Encode, head: DetectorHead, threshold: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Boxes and scores of each of B tiles (B, 3, T, T) uint8."""
    device = next(head.parameters()).device
    images = tiles.to(device)
    told = head(encode(images), images)
    return [(one.boxes.cpu().numpy(), one.scores.cpu().numpy()) for one in peaks(told, threshold)]


def read_head(path: Path) -> HeadFile:
    """A head as `cellfeat lora-sam train-detector` wrote it.

    Raises:
        CellfeatError: for a file of anything else.
    """
    about = read_header(path)
    if about.get("kind") != "detector":
        raise CellfeatError(
            f"{path} is no detector's head; a file made by `cellfeat lora-sam train-detector` is expected"
        )
    return HeadFile({name: value.float() for name, value in load_tensors(path).items()}, about)


def build_head(file: HeadFile) -> DetectorHead:
    """The head of a file, in eval mode."""
    with torch.device("meta"):  # no random start, which would move torch's own random numbers
        head = DetectorHead(*file.about["widths"])
    head.load_state_dict(file.state, assign=True)
    return head.eval().requires_grad_(False)


def head_bytes(head: DetectorHead, about: dict[str, Any]) -> bytes:
    """A safetensors file: float16, `about` as JSON in its header."""
    import json

    from safetensors.torch import save

    kept = {name: value.detach().cpu().half().contiguous() for name, value in head.state_dict().items()}
    return save(kept, metadata={HEADER: json.dumps({"kind": "detector"} | about, sort_keys=True)})
