"""The masked autoencoder of DoRL: a token map to a cls token, and back to the tokens, the cell's image and a code z.

Source: Li et al., arXiv 2408.07467; sizes as in the authors' program. Everything is batch-first here.
B cells, C channels, T = GRID * GRID tokens in row-major order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from cellfeat_cae.inputs import GRID
from cellfeat_cae.maps import to_grid

TOKENS = GRID * GRID


class Reconstruction(NamedTuple):
    """image: (B, 3, 128, 128) float, about [0, 1] but not clipped. tokens: (B, T, C) float. z: (B, latent) float, the
    projector's code. cls: (B, C) float, the encoder's class token."""

    image: Tensor
    tokens: Tensor
    z: Tensor
    cls: Tensor


class Encoder(nn.Module):
    """(B, T, C) tokens, those kept by `order` or all, to (B, 1 + kept, C), the cls token first; normalised."""

    def __init__(self, channels: int, depth: int, heads: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, channels))
        self.position = nn.Parameter(torch.empty(1, TOKENS, channels))
        self.blocks = transformer(channels, depth, heads)
        self.norm = nn.LayerNorm(channels)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, tokens: Tensor, order: Tensor | None = None, keep: int = TOKENS) -> Tensor:
        """order: (B, T) int64, a permutation of the tokens per cell, of which the first `keep` are seen."""
        tokens = tokens + self.position
        if order is not None:
            tokens = take(tokens, order[:, :keep])
        cls = self.cls_token.expand(len(tokens), -1, -1)  # the class token has no position
        return self.norm(self.blocks(torch.cat([cls, tokens], dim=1)))


class Decoder(nn.Module):
    """Encoded tokens, (B, 1 + kept, C), to all the T tokens, (B, T, C); not normalised, as published."""

    def __init__(self, channels: int, depth: int, heads: int) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(1, 1, channels))
        self.position = nn.Parameter(torch.empty(1, 1 + TOKENS, channels))
        self.blocks = transformer(channels, depth, heads)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, encoded: Tensor, order: Tensor | None = None) -> Tensor:
        if order is not None:
            cls, seen = encoded[:, :1], encoded[:, 1:]
            unseen = self.mask_token.expand(len(seen), TOKENS - seen.shape[1], -1).to(seen.dtype)
            encoded = torch.cat([cls, take(torch.cat([seen, unseen], dim=1), order.argsort(dim=1))], dim=1)
        return self.blocks(encoded + self.position)[:, 1:]


class ImageHead(nn.Sequential):
    """(B, C, 14, 14) to (B, 3, 128, 128) by transposed convolutions (14, 28, 56, 57, 62, 128 pixels); no sigmoid."""

    def __init__(self, channels: int, width: int) -> None:
        # channels in, channels out, kernel, stride; each with padding 1
        layers = (
            (channels, width, 4, 2),
            (width, width // 2, 4, 2),
            (width // 2, width // 4, 4, 1),
            (width // 4, width // 8, 8, 1),
            (width // 8, 3, 8, 2),
        )
        modules: list[nn.Module] = []
        for before, after, kernel, stride in layers:
            modules += [nn.ConvTranspose2d(before, after, kernel, stride, padding=1), nn.ReLU()]
        super().__init__(*modules[:-1])


class CrossDomainAutoencoder(nn.Module):
    """Encoder, decoder, image head and the projector whose code z the domains are compared by.

    Published sizes: channels 768, heads 12, encoder_depth 12, decoder_depth 4, head_width 512, latent 50.
    """

    def __init__(
        self, channels: int, heads: int, encoder_depth: int, decoder_depth: int, head_width: int, latent: int
    ) -> None:
        super().__init__()
        self.encoder = Encoder(channels, encoder_depth, heads)
        self.decoder = Decoder(channels, decoder_depth, heads)
        self.image_head = ImageHead(channels, head_width)
        self.projector = nn.Linear(channels, latent)

    def forward(self, tokens: Tensor, order: Tensor | None = None, keep: int = TOKENS) -> Reconstruction:
        """tokens: (B, T, C) float; order and keep as in `Encoder.forward` (without them nothing is masked)."""
        encoded = self.encoder(tokens, order, keep)
        restored = self.decoder(encoded, order)
        image = self.image_head(restored.transpose(1, 2).unflatten(2, (GRID, GRID)))
        return Reconstruction(image, restored, self.projector(restored.mean(dim=1)), encoded[:, 0])


def transformer(channels: int, depth: int, heads: int) -> nn.Sequential:
    """Pre-norm blocks, MLP ratio 4, no qkv bias; timm's LayerNorm (epsilon 1e-6), unlike the encoder's last (1e-5)."""
    return nn.Sequential(*[Block(channels, heads) for _ in range(depth)])


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """(B, T, C) tokens at (B, K) positions -> (B, K, C)."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def as_tokens(maps: Tensor) -> Tensor:
    """(B, C, h, w) float maps -> (B, T, C); a grid other than GRID x GRID is resampled to it, bilinearly."""
    return to_grid(maps).flatten(2).transpose(1, 2)
