"""DoRL's autoencoder and its data as one would write them from the paper, with timm and SciPy: the plain way."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import ndimage
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, TOKENS, KEPT, LATENT = 768, 12, 196, 49, 50
CROP, PAD, GREY = 128, 10, 128


class PlainCae(nn.Module):
    """A masked autoencoder of 12 + 4 blocks that also draws the cell; (B, 768, 14, 14) maps -> image, tokens, code."""

    def __init__(self) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.position = nn.Parameter(0.02 * torch.randn(1, TOKENS, WIDTH))
        self.encoder, self.norm = nn.Sequential(*[Block(WIDTH, HEADS) for _ in range(12)]), nn.LayerNorm(WIDTH)
        self.unseen = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.places = nn.Parameter(0.02 * torch.randn(1, 1 + TOKENS, WIDTH))
        self.decoder = nn.Sequential(*[Block(WIDTH, HEADS) for _ in range(4)])
        sizes = ((768, 512, 4, 2), (512, 256, 4, 2), (256, 128, 4, 1), (128, 64, 8, 1), (64, 3, 8, 2))
        layers = [[nn.ConvTranspose2d(*size, padding=1), nn.ReLU()] for size in sizes]
        self.head = nn.Sequential(*[module for pair in layers for module in pair][:-1])
        self.projector = nn.Linear(WIDTH, LATENT)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tokens = maps.flatten(2).transpose(1, 2)
        # The published program shuffles every sample's tokens with NumPy, in the forward pass.
        order = torch.from_numpy(np.stack([np.random.default_rng().permutation(TOKENS) for _ in tokens]))
        seen = (tokens + self.position).gather(1, order[:, :KEPT, None].expand(-1, -1, WIDTH))
        encoded = self.norm(self.encoder(torch.cat([self.cls.expand(len(seen), -1, -1), seen], 1)))
        blank = self.unseen.expand(len(seen), TOKENS - KEPT, -1)
        back = order.argsort(1)[..., None].expand(-1, -1, WIDTH)
        whole = torch.cat([encoded[:, 1:], blank], 1).gather(1, back)
        restored = self.decoder(torch.cat([encoded[:, :1], whole], 1) + self.places)[:, 1:]
        image = self.head(restored.transpose(1, 2).unflatten(2, (14, 14)))
        return image, restored, self.projector(restored.mean(1))


class PlainTraining:
    """A step: 1 - SSIM, twice the distance of the domains' mean codes, mean squared error; AdamW; losses read out."""

    def __init__(self) -> None:
        self.network = PlainCae()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, weight_decay=0.05)
        distance = torch.arange(11) - 5.0
        line = torch.exp(-(distance**2) / (2 * 1.5**2))
        line = line / line.sum()
        self.window = (line[:, None] * line).expand(3, 1, 11, 11).contiguous()

    def step(self, maps: Tensor, crops: Tensor, domain: Tensor) -> float:
        image, tokens, code = self.network(maps)
        terms = (1 - self._ssim(image, crops), 2 * self._distance(code, domain))
        loss = terms[0] + terms[1] + functional.mse_loss(tokens, maps.flatten(2).transpose(1, 2))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss) + sum(float(term) for term in terms)

    def _distance(self, code: Tensor, domain: Tensor) -> Tensor:
        means = [code[domain == number].mean(0) for number in domain.unique()]
        return sum((torch.linalg.vector_norm(mean - means[0]) for mean in means[1:]), torch.zeros(()))

    def _ssim(self, image: Tensor, target: Tensor) -> Tensor:
        def blur(values: Tensor) -> Tensor:
            return functional.conv2d(values, self.window, padding=5, groups=3)

        x, y = blur(image), blur(target)
        xx, yy, xy = blur(image * image) - x * x, blur(target * target) - y * y, blur(image * target) - x * y
        return ((2 * x * y + 1e-4) * (2 * xy + 9e-4) / ((x * x + y * y + 1e-4) * (xx + yy + 9e-4))).mean()


def plain_crop(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(S, S, 3) uint8 and (S, S) bool -> (128, 128, 3) uint8: the largest part, 128 around it, SciPy's cubic zoom."""
    parts: Any = ndimage.label(mask)[0]
    cell = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
    alone = np.where(cell[..., None], image, np.uint8(GREY))
    rows, columns = np.flatnonzero(cell.any(1)), np.flatnonzero(cell.any(0))
    box = alone[rows[0] : rows[-1], columns[0] : columns[-1]]
    box = np.pad(box, ((PAD, PAD), (PAD, PAD), (0, 0)), constant_values=GREY)
    return ndimage.zoom(box, (CROP / box.shape[0], CROP / box.shape[1], 1), order=3)
