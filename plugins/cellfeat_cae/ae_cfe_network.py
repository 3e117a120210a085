"""The autoencoder of AE-CFE: a feature map to a short code, the code back to the map, that map to the cell's image.

Layer sizes and parameter names are those of the authors' program, so that a published state_dict fits as it is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

# channels out, kernel, stride, groups of the norm; 14 -> 12, 5, 3, 2, 1 pixels
ENCODER = ((200, 3, 1, 32), (150, 3, 2, 30), (100, 3, 1, 10), (70, 2, 1, 10), (60, 2, 1, 20))
# channels out, kernel, stride, but the last layer of each; 1 -> 5, 12, then 14 and 14 -> 31, 63, 127, 128
MAP_DECODER = ((150, 5, 1), (200, 4, 2))
IMAGE_DECODER = ((200, 5, 2), (180, 3, 2), (150, 3, 2), (128, 2, 1))


class AeCfeOutput(NamedTuple):
    """image: (B, 3, 128, 128) float on [0, 1], RGB. maps: (B, C, 14, 14) and z: (B, latent), float on [-1, 1]."""

    image: Tensor
    maps: Tensor
    z: Tensor


class ElementGroupNorm(nn.Module):
    """Normalise each of `groups` equal runs of a sample's elements, then scale and shift each channel.

    Unlike torch.nn.GroupNorm, a group is a run of channel-major elements and may end inside a channel (the first norm
    cuts 200 channels of 12 x 12 into 32 groups of 6.25 channels), and the variance is the unbiased one, which
    matters in the last norm's groups of 3 elements. Epsilon 1e-5 inside the root.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.gamma = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, maps: Tensor) -> Tensor:
        # Groups of dead units have variance 0; in half precision epsilon would be all that is left, and be rounded.
        values = maps.to(torch.promote_types(maps.dtype, torch.float32)).reshape(len(maps), self.groups, -1)
        variance, mean = torch.var_mean(values, dim=2, correction=1, keepdim=True)
        return ((values - mean) * torch.rsqrt(variance + 1e-5)).reshape(maps.shape) * self.gamma + self.beta


class AeCfeAutoencoder(nn.Module):
    """(B, channels, 14, 14) float maps, on [-1, 1] (see `scale_maps`), to a code, back to maps, and to an image.

    Published sizes: channels 256, latent 50. The image is made from the restored map, not from the code, so that
    what is lost on the image also teaches the map decoder. No batch statistics: rows do not influence one another.
    """

    def __init__(self, channels: int = 256, latent: int = 50) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = channels
        for width, kernel, stride, groups in ENCODER:
            layers += [nn.Conv2d(before, width, kernel, stride), nn.ReLU(), ElementGroupNorm(width, groups)]
            before = width
        self.encoder = nn.Sequential(*layers, nn.Conv2d(before, latent, 1), nn.Tanh())
        self.decoder = _decoder(latent, MAP_DECODER, channels, 3, nn.Tanh())
        self.img_decoder = _decoder(channels, IMAGE_DECODER, 3, 1, nn.Sigmoid())

    def forward(self, maps: Tensor) -> AeCfeOutput:
        code = self.encoder(maps)
        restored = self.decoder(code)
        return AeCfeOutput(self.img_decoder(restored), restored, code.flatten(1))


def scale_maps(maps: Tensor) -> Tensor:
    """Each sample's (C, h, w) float map of a (B, C, h, w) batch from its own minimum and maximum to -1 and 1.

    A map of one single value, which the published program turns into NaN, becomes 0 everywhere.
    """
    low, high = maps.amin(dim=(1, 2, 3), keepdim=True), maps.amax(dim=(1, 2, 3), keepdim=True)
    span = high - low
    scaled = 2 * ((maps - low) / torch.where(span > 0, span, 1)) - 1
    return torch.where(span == 0, 0, scaled)  # so written that NaN stays NaN


def _decoder(
    before: int, sizes: tuple[tuple[int, int, int], ...], out: int, kernel: int, end: nn.Module
) -> nn.Sequential:
    """Transposed convolutions with ReLU between them, a last one with `out` channels, and `end`."""
    layers: list[nn.Module] = []
    for width, size, stride in sizes:
        layers += [nn.ConvTranspose2d(before, width, size, stride), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.ConvTranspose2d(before, out, kernel), end)
