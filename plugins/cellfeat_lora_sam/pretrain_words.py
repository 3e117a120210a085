"""Visual words: small patches of the cells as they were photographed, sorted into kinds.

The network must tell, from a view in any stain, which kinds of patches the original holds: at every token, and as bags
of nucleus and cytoplasm. A mean over tokens that tell their words is the cell's histogram of colours and textures.
After Gidaris et al., 2020, arXiv 2002.12247, with words of pixels rather than of another network's features.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cellfeat_lora_sam.sizes import PATCH_SIZE

WORDS = 512
SIDE, STRIDE = 5, 4  # px of a patch, and from one to the next, in a near view
AXES = 24  # principal components of patches; the rest is noise of the camera
SAMPLES = 60_000
PLACES_AT_ONCE = 4096  # whose scores fit into a cache
PLACES = PATCH_SIZE // STRIDE  # words along one side of a token


class Words(NamedTuple):
    """Nearest centre: filters (A, 3, 5, 5) give components, centres (K, A) and bias (K,) scores; the highest wins."""

    filters: Tensor
    centres: Tensor
    bias: Tensor

    @classmethod
    def fitted(cls, density: Tensor, inside: Tensor, seed: int) -> Words:
        """Of densities (B, 3, v, v) and where the cells are (B, v, v) bool: k-means on components, partly whitened."""
        from sklearn.cluster import MiniBatchKMeans

        patches = functional.unfold(density, SIDE, padding=SIDE // 2, stride=STRIDE).transpose(1, 2)
        rows = patches[inside[:, ::STRIDE, ::STRIDE].flatten(1)].double().numpy()
        rng = np.random.default_rng(seed)
        rows = rows[rng.permutation(len(rows))[:SAMPLES]]
        mean = rows.mean(axis=0)
        values, axes = np.linalg.eigh(np.cov((rows - mean).T))
        # the root of the root: brightness and hue would else drown edges and grains
        axes = axes[:, ::-1][:, :AXES] / values[::-1][:AXES] ** 0.25
        count = min(WORDS, len(rows))
        found = MiniBatchKMeans(count, random_state=seed, n_init=1, batch_size=4096).fit((rows - mean) @ axes)
        centres = found.cluster_centers_
        bias = -(centres @ axes.T) @ mean - (centres**2).sum(axis=1) / 2
        filters = torch.tensor(axes.T.copy()).view(-1, 3, SIDE, SIDE)
        return cls(filters.float(), torch.tensor(centres).float(), torch.tensor(bias).float())

    def shares(self, density: Tensor) -> Tensor:
        """Densities (B, 3, v, v) -> (B, h * w, K) float: at each token, the share of places that hold each word."""
        components = functional.conv2d(density, self.filters, stride=STRIDE, padding=SIDE // 2)
        batch, _, side, _ = components.shape
        rows = components.permute(0, 2, 3, 1).flatten(0, 2).split(PLACES_AT_ONCE)
        word = torch.cat([torch.addmm(self.bias, some, self.centres.T).argmax(dim=1) for some in rows])
        count = len(self.bias)
        grid = side // PLACES
        token = torch.arange(side, device=density.device) // PLACES
        token = token[:, None] * grid + token + torch.arange(batch, device=density.device)[:, None, None] * grid**2
        place = token.flatten() * count + word
        counts = torch.bincount(place, minlength=batch * grid**2 * count)
        return counts.view(batch, grid**2, count) / PLACES**2


def bags(shares: Tensor, cell: Tensor, nucleus: Tensor) -> Tensor:
    """Words at tokens (B, hw, K) and masks (B, s, s) of 0 and 1 -> roots of the words' shares in nucleus and cytoplasm.

    (B, 2K) float; distances between such vectors are Hellinger's. A part without a pixel has zeros.
    """
    grid = round(shares.shape[1] ** 0.5)
    parts = torch.stack((nucleus & cell, cell & ~nucleus), dim=1).float()
    cover = functional.adaptive_avg_pool2d(parts, (grid, grid)).flatten(2)
    return ((cover @ shares) / cover.sum(dim=2, keepdim=True).clamp(min=1e-6)).sqrt().flatten(1)


def words_loss(told: Tensor, shares: Tensor, cell: Tensor, counted: Tensor) -> Tensor:
    """Cross-entropy of the told words (B, K, h, w) against shares (B, hw, K), on tokens by how much cell they hold.

    counted: (B,) bool, the views of photographs.
    """
    chance = told.float().flatten(2).transpose(1, 2).log_softmax(dim=2)
    cover = functional.adaptive_avg_pool2d(cell[:, None].float(), told.shape[-2:]).flatten(1) * counted[:, None]
    return -((shares * chance).sum(dim=2) * cover).sum() / cover.sum().clamp(min=1)


def bags_loss(told: Tensor, wanted: Tensor, counted: Tensor) -> Tensor:
    """Mean squared distance of (B, 2K) bags on the rows that are counted (B,)."""
    return ((told.float() - wanted).square().sum(dim=1) * counted).sum() / counted.sum().clamp(min=1)
