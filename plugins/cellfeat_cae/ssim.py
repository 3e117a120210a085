"""The three terms that DoRL's autoencoder is trained with: structure of the image, distance of domains, the tokens.

All in float32 and outside of autocast: the variances in SSIM are differences of nearly equal numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cellfeat_cae.network import Reconstruction

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


class Terms(NamedTuple):
    """The unweighted terms of the loss, scalars: 1 - SSIM, the distance of the domains' means, the tokens' MSE."""

    image: Tensor
    domain: Tensor
    feature: Tensor


def loss_terms(
    output: Reconstruction, tokens: Tensor, crop: Tensor, domain: Tensor, domains: int, anchor: int
) -> Terms:
    """Compare a reconstruction with what it was made from.

    tokens: (B, T, C) float32, all of them, masked or not, not normalised. crop: (B, 3, 128, 128) float32 on [0, 1].
    domain: (B,) int64 in 0..domains-1; anchor: the domain that all others are drawn to.
    """
    return Terms(
        1 - ssim(output.image.float(), crop),
        domain_mean_distance(output.z.float(), domain, domains, anchor),
        F.mse_loss(output.tokens.float(), tokens),
    )


def ssim(image: Tensor, target: Tensor) -> Tensor:
    """Mean structural similarity of two (B, K, H, W) float images on [0, 1], a scalar.

    Wang et al., IEEE TIP 13(4), 2004, with an 11 x 11 Gaussian window (sigma 1.5) and zero padding of 5 pixels, as the
    published program has it. The window is separable, so it is applied as a banded matrix from either side: a quarter
    of the time of a depthwise convolution on the CPU, and never in TF32 unless the user asks for that.
    """
    rows, columns = (_blur_matrix(size, image.device) for size in image.shape[-2:])

    def blur(values: Tensor) -> Tensor:
        return rows @ values @ columns.T

    mean_x, mean_y = blur(image), blur(target)
    variance_x = blur(image * image) - mean_x * mean_x
    variance_y = blur(target * target) - mean_y * mean_y
    covariance = blur(image * target) - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    return (similarity / ((mean_x**2 + mean_y**2 + C1) * (variance_x + variance_y + C2))).mean()


def _blur_matrix(size: int, device: torch.device) -> Tensor:
    """(size, size): row i holds the window's weights around pixel i; what lies outside counts as 0."""
    position = torch.arange(size, device=device)
    squared = (position[:, None] - position[None, :]).float() ** 2
    weight = torch.exp(-squared / (2 * SIGMA**2)) * (squared <= (WINDOW // 2) ** 2)
    window = torch.exp(-((torch.arange(WINDOW) - WINDOW // 2).float() ** 2) / (2 * SIGMA**2))
    return weight / window.sum().item()


def domain_mean_distance(z: Tensor, domain: Tensor, domains: int, anchor: int = 0) -> Tensor:
    """Sum over the other domains of the mean squared difference between their mean code and the anchor's, a scalar.

    z: (B, latent) float. domain: (B,) int64 in 0..domains-1. The published program calls this an MMD loss; it
    compares first moments only. A domain without cells in the batch has no term; without cells of the anchor the sum
    is 0, where the program returns NaN.
    """
    members = F.one_hot(domain, domains).to(z.dtype)
    count = members.sum(dim=0)
    means = members.T @ z / count.clamp(min=1)[:, None]
    distance = (means - means[anchor]).square().mean(dim=1)
    return (distance * ((count > 0) & (count[anchor] > 0))).sum()
