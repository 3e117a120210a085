"""The autoencoder of BC-SAM: a feature map to a short code by convolutions, and the code back to the cell's image.

Layer sizes and parameter names are those of the authors' program, so that a published state_dict fits as it is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

ENCODER_WIDTH = 256
# The decoder's layers but the last: channels out, kernel, stride; 1 -> 5, 12, 14, 31, 63, 127, 128 pixels
DECODER = ((150, 5, 1), (200, 4, 2), (256, 3, 1), (200, 5, 2), (180, 3, 2), (150, 3, 2), (128, 2, 1))


class BcSamOutput(NamedTuple):
    """image: (B, 3, 128, 128) float on [0, 1], RGB. z: (B, latent) float, not below 0, the features of the cells."""

    image: Tensor
    z: Tensor


class BcSamAutoencoder(nn.Module):
    """(B, channels, 14, 14) float maps to a code of `latent` numbers, and the code to the cell's 128 x 128 image.

    Published sizes: channels 768, latent 50. The code is the mean over the encoder's 6 x 6 positions, after the last
    ReLU; the same code is classified, compared between domains and decoded. Batch norm runs over whatever rows
    are given: in training mode a row that is no cell changes what the others become.
    """

    def __init__(self, channels: int = 768, latent: int = 50) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *_convolution(channels, ENCODER_WIDTH, kernel=1, stride=1),
            *_convolution(ENCODER_WIDTH, ENCODER_WIDTH, kernel=3, stride=2),
            *_convolution(ENCODER_WIDTH, latent, kernel=1, stride=1),
        )
        layers: list[nn.Module] = []
        for width, kernel, stride in DECODER:
            layers += [nn.ConvTranspose2d(latent, width, kernel, stride), nn.BatchNorm2d(width), nn.ReLU()]
            latent = width
        self.decoder = nn.Sequential(*layers, nn.ConvTranspose2d(latent, 3, 1))

    def forward(self, maps: Tensor) -> BcSamOutput:
        z = self.encoder(maps).mean(dim=(2, 3))
        return BcSamOutput(torch.sigmoid(self.decoder(z[:, :, None, None])), z)


def _convolution(before: int, after: int, kernel: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, kernel, stride), nn.BatchNorm2d(after), nn.ReLU()]
