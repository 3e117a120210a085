"""The backbone `colour`: histograms of the cell's pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cellfeat import CellfeatError, Features
from cellfeat_classical.otsu import segment_cells

if TYPE_CHECKING:
    import torch

FINE = 4  # a single channel is cut this many times finer than the axes of a joint histogram


class Colour:
    """Colour histograms: each of R, G, B in 4·bins steps, and HSV and Lab jointly in bins³ steps.

    An entry is the square root of the share of the frame that has this colour (the Hellinger map, so that distances
    between vectors are distances between histograms), hence the sum of squares of each histogram is the cell's share
    of the frame. With `cell_only`, pixels outside the Otsu mask do not count; where that mask is empty the whole image
    does. Values per image: 12·bins + 2·bins³, 1,120 at 8 bins.
    """

    image_size = 224
    interpolation = "bilinear"
    weights_saw: tuple[str, ...] = ()

    def __init__(self, bins: int = 8, cell_only: bool = True) -> None:
        if not 2 <= bins <= 32:
            raise CellfeatError(f"bins={bins} is not possible: give 2 to 32 steps per axis of the joint histograms")
        self.bins, self.cell_only = bins, cell_only

    def encode(self, images: torch.Tensor) -> Features:
        """(B, 3, S, S) uint8 RGB -> embedding (B, 12·bins + 2·bins³) float32 in 0..1, mask (B, S, S) bool or None."""
        import torch

        pixels = images.cpu().numpy()
        masks = segment_cells(pixels) if self.cell_only else np.ones((len(pixels), *pixels.shape[2:]), dtype=bool)
        vectors = np.empty((len(pixels), 3 * FINE * self.bins + 2 * self.bins**3), dtype=np.float32)
        for index, (image, mask) in enumerate(zip(pixels, masks, strict=True)):
            vectors[index] = histograms(image.transpose(1, 2, 0), mask, self.bins)
        mask = torch.from_numpy(masks).to(images.device) if self.cell_only else None
        return Features(torch.from_numpy(vectors).to(images.device), mask)


def histograms(image: np.ndarray, mask: np.ndarray, bins: int) -> np.ndarray:
    """(S, S, 3) uint8 RGB and (S, S) bool -> the vector of one image; an empty mask counts every pixel."""
    import cv2

    image = np.ascontiguousarray(image)
    chosen = mask if mask.any() else np.ones_like(mask)
    rgb = _binned(image[chosen], FINE * bins)
    hsv = _binned(cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)[chosen], bins)  # _FULL: the hue also covers 0..255
    lab = _binned(cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[chosen], bins)
    counts = [np.bincount(channel, minlength=FINE * bins) for channel in rgb.T]
    counts += [np.bincount(space @ (bins**2, bins, 1), minlength=bins**3) for space in (hsv, lab)]
    return np.sqrt(np.concatenate(counts) / mask.size)


def _binned(values: np.ndarray, bins: int) -> np.ndarray:
    """(P, 3) uint8 -> (P, 3) int64 in 0..bins-1."""
    return values.astype(np.int64) * bins // 256
