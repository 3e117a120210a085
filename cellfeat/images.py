"""Single-cell images: reading, resizing, the cell's own crop and pooling over its tokens. No torch on import."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from cellfeat.decode import (
    IMAGE_SUFFIXES,
    MAX_PIXELS,
    ImageError,
    image_digest,
    read_bytes,
    read_mask,
    read_rgb,
)
from cellfeat.errors import CellfeatError, unknown
from cellfeat.illumination import illumination

if TYPE_CHECKING:
    import torch

__all__ = [
    "CROP_SIZE",
    "GREY",
    "IMAGE_SUFFIXES",
    "INTERPOLATIONS",
    "MAX_PIXELS",
    "ImageError",
    "illumination",
    "image_digest",
    "largest_component",
    "masked_crop",
    "masked_crops",
    "masked_mean",
    "read_bytes",
    "read_mask",
    "read_rgb",
    "resize",
    "resize_mask",
]

CROP_SIZE = 128
GREY = 128  # of whatever is outside the cell in a crop
_PAD = 10

# "nearest" takes the pixel under the centre of the new one; OpenCV's INTER_NEAREST is half a pixel off.
INTERPOLATIONS = {
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "nearest": cv2.INTER_NEAREST_EXACT,
}


def resize(image: np.ndarray, size: int | tuple[int, int], interpolation: str = "bilinear") -> np.ndarray:
    """(H, W, 3) or (H, W) uint8 to (size, size, …) or, for size = (height, width), to that; aspect is not kept.

    "bilinear" is OpenCV's, without anti-aliasing, as in DoRL's extraction.

    Raises: CellfeatError for an unknown interpolation.
    """
    if interpolation not in INTERPOLATIONS:
        raise CellfeatError(unknown("interpolation", interpolation, INTERPOLATIONS))
    height, width = (size, size) if isinstance(size, int) else size
    if image.shape[:2] == (height, width):
        return image.copy()
    return cv2.resize(image, (width, height), interpolation=INTERPOLATIONS[interpolation])


def resize_mask(mask: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """(H, W) bool to (size, size) or (height, width) bool, nearest neighbour."""
    return resize(mask.astype(np.uint8), size, "nearest").astype(bool)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest 4-connected part of a mask, (H, W) bool; of equals the one met first, row by row."""
    from scipy import ndimage

    parts, count = ndimage.label(mask)  # its default structure is 4-connectivity
    if count < 2:
        return np.asarray(mask, dtype=bool).copy()
    return parts == 1 + np.bincount(parts.ravel())[1:].argmax()


def masked_crop(image: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """The cell alone: (S, S, 3) uint8 RGB and mask (S, S) bool to (128, 128, 3) uint8, 128 outside the cell.

    DoRL's and BC-SAM's decoder target: the largest 4-connected component, everything else set to 128, its bounding
    box without the last row and column (as published), 10 px of 128 around it, and a cubic zoom of each axis to
    128 px that does not keep the aspect. The zoom equals `scipy.ndimage.zoom(order=3)` on uint8.

    Where there is no mask, an empty one, or one whose box has a single row or column, the whole image is the cell;
    the published program stops at an empty mask and trains on a grey square at a single row.
    """
    cell = _whole(image) if mask is None else largest_component(mask)
    rows, columns = np.flatnonzero(cell.any(axis=1)), np.flatnonzero(cell.any(axis=0))
    if len(rows) < 2 or len(columns) < 2:
        cell = _whole(image)
        rows, columns = np.arange(cell.shape[0]), np.arange(cell.shape[1])
    box = (slice(rows[0], rows[-1]), slice(columns[0], columns[-1]))
    alone = np.where(cell[box][..., None], image[box], np.uint8(GREY))
    padded = np.pad(alone, ((_PAD, _PAD), (_PAD, _PAD), (0, 0)), constant_values=GREY)
    return _zoomed(padded)


def masked_crops(images: np.ndarray, masks: np.ndarray | None = None) -> np.ndarray:
    """`masked_crop` for a batch: (B, 3, S, S) uint8 RGB and (B, S, S) bool or None to (B, 3, 128, 128) uint8."""
    crops = np.empty((len(images), 3, CROP_SIZE, CROP_SIZE), dtype=np.uint8)
    for index, image in enumerate(images):
        mask = None if masks is None else masks[index]
        crops[index] = masked_crop(image.transpose(1, 2, 0), mask).transpose(2, 0, 1)
    return crops


def masked_mean(embedding: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Mean over the cell's tokens: map (B, C, h, w) and mask (B, S, S) bool to (B, C) float32.

    A token weighs as much as the mask covers of its patch. Without a mask, or with an empty one, it is the plain
    mean. A (B, D) embedding has no tokens left to weigh and is returned as float32.
    """
    import torch.nn.functional as functional

    embedding = embedding.float()
    if embedding.ndim == 2:
        return embedding
    if mask is None:
        return embedding.mean(dim=(2, 3))
    cover = mask.to(embedding.device).float().unsqueeze(1)
    weight = functional.adaptive_avg_pool2d(cover, (embedding.shape[2], embedding.shape[3]))
    total = weight.sum(dim=(2, 3), keepdim=True)
    weight = weight.where(total > 0, weight.new_ones(()))
    return (embedding * weight).sum(dim=(2, 3)) / weight.sum(dim=(2, 3))


def _whole(image: np.ndarray) -> np.ndarray:
    return np.ones(image.shape[:2], dtype=bool)


def _zoomed(image: np.ndarray) -> np.ndarray:
    # A cubic zoom is linear and acts on each axis by itself, so it is a matrix for the rows and one for the columns.
    planes = image.transpose(2, 0, 1).astype(np.float64)
    both = (_zoom_matrix(image.shape[0]) @ planes @ _zoom_matrix(image.shape[1]).T).transpose(1, 2, 0)
    return np.clip(np.floor(both + 0.5), 0, 255).astype(np.uint8)


@lru_cache(maxsize=512)
def _zoom_matrix(length: int) -> np.ndarray:
    """(128, length) float64: what SciPy's cubic zoom does to one axis, found by zooming the identity."""
    from scipy import ndimage

    return ndimage.zoom(np.eye(length), (CROP_SIZE / length, 1), order=3)
