"""The cell alone, at one size: a window around each mask, cut from the frame and resampled for a second pass.

How large a cell is in the frame depends on the laboratory's microscope and on how its images were cut. Seen at one
size, cells of different laboratories give tokens that are more alike.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LOOK_SIZE = 144  # px: 81 tokens beside the 196 of a frame of 224 px
BOX_SHARE = 0.8  # of the window's side for the longer side of the cell's box: a rim remains that shows the outline
SMALLEST_WINDOW = 1 / 8  # of the frame's side: what is smaller than a cell would only show pixels enlarged


class Look(NamedTuple):
    """Windows of B frames: images (B, 3, s, s) float RGB, 0..255; cell and nucleus (B, s, s) bool."""

    images: Tensor
    cell: Tensor
    nucleus: Tensor


def look_again(images: Tensor, cell: Tensor, nucleus: Tensor, side: int = LOOK_SIZE) -> Look:
    """Frames (B, 3, S, S) RGB, 0..255, and masks (B, S, S) bool -> windows of `side` px, at most `LOOK_SIZE`.

    Anti-aliased: each new pixel is a mean under a triangle as wide as two new pixels, or two old ones if these are
    larger. Beyond the frame its border goes on.
    """
    frame = images.shape[-1]
    size = min(LOOK_SIZE, side)
    tops, lefts, sides = windows(cell)
    planes = torch.cat((images.float(), cell[:, None].float(), nucleus[:, None].float()), dim=1)
    with torch.autocast(images.device.type, enabled=False):  # half precision would blur colours and masks
        rows, columns = (_resampling(start, sides, frame, size)[:, None] for start in (tops, lefts))
        seen = rows @ planes @ columns.transpose(-2, -1)
    inside = seen[:, 3] > 0.5
    return Look(seen[:, :3].clamp(0, 255), inside, (seen[:, 4] > 0.5) & inside)


def windows(cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Masks (B, S, S) bool -> top, left and side of a square window for each, (B,) float, px from the frame's corner.

    The window has the mask's box in its middle, but is moved into the frame as far as it fits; larger than the frame,
    it is centred on it. An empty mask gives the frame itself.
    """
    frame = cell.shape[-1]
    top, height = extent(cell.any(dim=2))
    left, width = extent(cell.any(dim=1))
    side = (torch.maximum(height, width) / BOX_SHARE).clamp(min=frame * SMALLEST_WINDOW)
    side = torch.where(cell.flatten(1).any(dim=1), side, float(frame))
    room = frame - side
    low, high = room.clamp(max=0) / 2, torch.maximum(room, room / 2)
    starts = [(start + (extent - side) / 2).clamp(low, high) for start, extent in ((top, height), (left, width))]
    return starts[0], starts[1], side


def extent(line: Tensor) -> tuple[Tensor, Tensor]:
    """(B, S) bool -> (B,) float first place that is True, and the length from there to the last; (0, S) if none is."""
    first = line.int().argmax(dim=1)
    last = line.shape[1] - 1 - line.flip(1).int().argmax(dim=1)
    return first.float(), (last - first + 1).float()


def _resampling(start: Tensor, side: Tensor, frame: int, size: int) -> Tensor:
    """Starts and sides (B,) of windows along one axis -> (B, size, frame), rows that sum to 1: new pixels from old."""
    scale = (side / size)[:, None]
    places = torch.arange(size, device=start.device) + 0.5
    centre = (start[:, None] + places * scale).clamp(0.5, frame - 0.5)[..., None]
    old = torch.arange(frame, device=start.device) + 0.5
    weights = (1 - (old - centre).abs() / scale[..., None].clamp(min=1.0)).clamp(min=0)
    return weights / weights.sum(dim=2, keepdim=True)
