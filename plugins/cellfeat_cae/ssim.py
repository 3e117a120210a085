"""Structural similarity of images, in float32 and outside of autocast: its variances are differences of nearly equal
numbers."""

from __future__ import annotations

import torch
from torch import Tensor

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


def ssim(image: Tensor, target: Tensor, window: int = WINDOW) -> Tensor:
    """Mean structural similarity of two (B, K, H, W) float32 images on [0, 1], a scalar.

    Wang et al., IEEE TIP 13(4), 2004, with a Gaussian window of `window` x `window` pixels (sigma 1.5; DoRL and BC-SAM
    11, AE-CFE 10) and zero padding of `window // 2` pixels on all sides, as the published programs have it. An even
    window's peak is its pixel `window // 2`, so it looks one pixel less far ahead than back, and its map of
    similarities has one row and one column more than the image. The window is separable, so it is applied as a
    banded matrix from either side: a quarter of the time of a depthwise convolution on the CPU, and never in TF32
    unless the user asks for that.
    """
    rows, columns = (_blur_matrix(size, window, image.device) for size in image.shape[-2:])

    def blur(values: Tensor) -> Tensor:
        return rows @ values @ columns.T

    mean_x, mean_y = blur(image), blur(target)
    variance_x = blur(image * image) - mean_x * mean_x
    variance_y = blur(target * target) - mean_y * mean_y
    covariance = blur(image * target) - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    return (similarity / ((mean_x**2 + mean_y**2 + C1) * (variance_x + variance_y + C2))).mean()


def _blur_matrix(size: int, window: int, device: torch.device) -> Tensor:
    """(size, or size + 1 if the window is even; size): row i holds the weights around pixel i; outside counts as 0."""
    back, ahead = window // 2, (window - 1) // 2
    row = torch.arange(size + back - ahead, device=device)
    offset = torch.arange(size, device=device) - row[:, None]
    weight = _gaussian(offset) * ((offset >= -back) & (offset <= ahead))
    return weight / _gaussian(torch.arange(-back, ahead + 1)).sum().item()


def _gaussian(offset: Tensor) -> Tensor:
    return torch.exp(-(offset.float() ** 2) / (2 * SIGMA**2))
