"""Augmentations of image batches, drawn per image: the eight orientations, and stain, scale and blur."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional

# Optical densities of methylene blue and eosin in R, G, B: the "Giemsa" vectors of ImageJ's Colour Deconvolution plugin
# (G. Landini; method of Ruifrok and Johnston, 2001). The residual is at right angles to both.
METHYLENE_BLUE = (0.834750233, 0.513556283, 0.196330403)
EOSIN = (0.092789, 0.954111, 0.283111)

CONTRAST = (-0.8, 0.3)  # log of a gain that all stains share: slides are stained for shorter and longer
GAIN = 0.3  # log of the gain of one stain, to both sides
OFFSET = (-0.05, 0.15)  # optical density added to one stain everywhere: a tinted or hazy field
SCALE = (-0.3, 0.3)  # log of the magnification
BLUR = 1.5 / 224  # of the image's side: the largest deviation; half of the images stay sharp


def augment(images: torch.Tensor, kind: str, generator: torch.Generator) -> torch.Tensor:
    """(B, 3, S, S) float RGB in 0..1 -> the same; `kind` is "none", "flip" or "stain" (flip, stain, scale and blur).

    Everything is drawn from the CPU `generator`, so that a GPU sees the same augmentations as a CPU.
    """
    if kind == "none":
        return images
    images = orient(images, generator)
    if kind == "stain":
        images = blur(rescale(jitter_stains(images, generator), generator), generator)
    return images


def orient(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image in one of its eight orientations: a cell on a slide has no up and no left."""
    across, down, transpose = (torch.rand((3, len(images)), generator=generator) < 0.5).to(images.device)
    images = torch.where(_each(across), images.flip(3), images)
    images = torch.where(_each(down), images.flip(2), images)
    return torch.where(_each(transpose), images.transpose(2, 3), images)


def jitter_stains(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Gain and offset of every stain's optical density (after Tellez et al. 2018, with Romanowsky's stains)."""
    count = len(images)
    gain = _uniform(*CONTRAST, (count, 1), generator) + _uniform(-GAIN, GAIN, (count, 3), generator)
    offset = _uniform(*OFFSET, (count, 3), generator)
    stains = _stain_matrix().to(images)
    density = -images.clamp(min=1 / 255).log()
    amounts = torch.einsum("bchw,cs->bshw", density, torch.linalg.inv(stains))
    amounts = amounts * _columns(gain.exp()).to(images) + _columns(offset).to(images)
    return torch.einsum("bshw,sc->bchw", amounts, stains).neg().exp().clamp(0, 1)


def rescale(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Magnify or shrink about the centre; what comes into view at the border is the image mirrored."""
    factor = _uniform(*SCALE, (len(images),), generator).exp().to(images)
    maps = torch.zeros(len(images), 2, 3, device=images.device, dtype=images.dtype)
    maps[:, 0, 0] = maps[:, 1, 1] = 1 / factor
    grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def blur(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Gaussian blur of half of the images: another objective, another focus."""
    batch, channels, _, side = images.shape
    largest = BLUR * side
    deviation = _uniform(0.05 * largest, largest, (batch,), generator)
    sharp = torch.rand(batch, generator=generator) < 0.5
    radius = max(1, min(math.ceil(3 * largest), side - 1))
    steps = torch.arange(-radius, radius + 1)
    kernels = torch.exp(-0.5 * (steps / deviation[:, None]) ** 2)
    kernels[sharp] = (steps == 0).float()
    kernels = (kernels / kernels.sum(1, keepdim=True)).to(images).repeat_interleave(channels, 0)
    stack = functional.pad(images, (radius,) * 4, mode="reflect").flatten(0, 1)[None]
    stack = functional.conv2d(stack, kernels[:, None, None, :], groups=batch * channels)
    stack = functional.conv2d(stack, kernels[:, None, :, None], groups=batch * channels)
    return stack[0].unflatten(0, (batch, channels))


def _stain_matrix() -> torch.Tensor:
    """(3, 3): one stain per row, each of length 1."""
    stains = torch.tensor([METHYLENE_BLUE, EOSIN])
    stains = torch.cat([stains, torch.linalg.cross(stains[0], stains[1])[None]])
    return functional.normalize(stains, dim=1)


def _uniform(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _each(flags: torch.Tensor) -> torch.Tensor:
    return flags[:, None, None, None]


def _columns(values: torch.Tensor) -> torch.Tensor:
    return values[:, :, None, None]
