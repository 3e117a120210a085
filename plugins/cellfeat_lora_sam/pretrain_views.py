"""Views of cells for pre-training: framed, turned, laid onto other fields and stained anew, in batches on the device.

A view is a function of the pool, the rows and a seed. Light follows Beer and Lambert: colours are changed as optical
densities against the empty slide, so that one cell is seen as several laboratories would have stained and
photographed it. The ranges are wider than any real laboratory's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from cellfeat_lora_sam.pretrain_pool import CYTOPLASM, NUCLEUS, Pool
from cellfeat_lora_sam.second_look import extent

MASK_STRIDE = 4  # the decoder's masks have a quarter of the image's side
WIDEST = 1.15  # of the frame's side: what a window may show, mirrored at the borders
DEGRADED_AT_ONCE = 8  # views that share one resolution
MOST_DENSITY = 4.0  # optical density: e^-4 of the light, darker than any stain
BRIGHTNESS, TINT = (0.7, 1.12), 0.4  # of the lamp: 1 is white, more is overexposed; how much a colour may lack


@dataclass(frozen=True)
class Ranges:
    """How far views may stray.

    Attributes:
        shares: longer side of the cell's box as a share of the view's side.
        offset: standard deviation of the cell's place, as a share of the view's side.
        pasted: chance that a photograph's surroundings are those of another.
        gain: of all optical densities, as logarithms. mixing: deviation of the 3 x 3 matrix on them from the identity.
        resolution: px across the view that the camera resolves, as a share of its side. noise: grey levels.
        plain: chance of a view with the original colours.
    """

    shares: tuple[float, float] = (0.45, 0.95)
    offset: float = 0.06
    pasted: float = 0.35
    gain: tuple[float, float] = (-1.1, 0.5)
    mixing: float = 0.18
    resolution: tuple[float, float] = (0.4, 1.0)
    noise: float = 7.0
    plain: float = 0.1


class Views(NamedTuple):
    """B views of side v.

    images: (B, 3, v, v) float RGB 0..255. cell and nucleus: (B, v/4, v/4) int64 of 0 and 1. canonical: (B, 3, v/4,
    v/4) float, optical densities before any change. density: the same in full, (B, 3, v, v).
    """

    images: Tensor
    cell: Tensor
    nucleus: Tensor
    canonical: Tensor
    density: Tensor


def sources(pool: Pool, rows: Tensor, ranges: Ranges, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Frames (B, 3, s, s) float, masks (B, s, s) uint8 and light (B, 3); some photographs laid onto another's field."""
    frames, masks = pool.images[rows], pool.masks[rows]
    others = rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
    chosen = torch.rand(len(rows), generator=generator).to(rows.device) < ranges.pasted
    chosen &= (pool.drawn[rows] < 0) & pool.known[rows]  # two drawn cells come from two laboratories
    side = frames.shape[1]
    shift = torch.randint(side // 3, 2 * side // 3, (2, len(rows), 1), generator=generator).to(rows.device)
    if bool(chosen.any()):
        field = _mirrored(pool.images, others[chosen], shift[:, chosen])
        frames[chosen] = _laid_onto(frames[chosen], masks[chosen], field)
    return frames.permute(0, 3, 1, 2).float(), masks, pool.light[rows]


def _mirrored(images: Tensor, rows: Tensor, shift: Tensor) -> Tensor:
    """Frames (B, s, s, 3) moved by shift (2, B, 1) px and mirrored at the border: the cell comes to lie at the edge."""
    side = images.shape[1]
    at = torch.arange(side, device=images.device) + shift
    at = torch.where(at < side, at, 2 * side - 1 - at)  # no seam shows
    return images[rows[:, None, None], at[0][:, :, None], at[1][:, None, :]]


def _laid_onto(frames: Tensor, masks: Tensor, fields: Tensor) -> Tensor:
    """The cells of frames (B, s, s, 3) on other fields, with a soft rim just outside their masks; uint8."""
    soft = functional.avg_pool2d((masks > 0).float()[:, None], 5, 1, 2).mul(2).clamp(max=1)[:, 0, ..., None]
    return torch.lerp(fields.float(), frames.float(), soft).round().to(torch.uint8)


def reduced(source: tuple[Tensor, Tensor, Tensor], size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Frames and masks brought to side `size` as a user's images are, without aliasing."""
    frames, masks, light = source
    masks = functional.interpolate(masks[:, None], (size, size), mode="nearest-exact")[:, 0]
    return functional.interpolate(frames, (size, size), mode="bilinear", antialias=True), masks, light


def views(
    source: tuple[Tensor, Tensor, Tensor], size: int, ranges: Ranges, generator: torch.Generator, strength: float = 1.0
) -> Views:
    """One view of side `size` for each source; `strength` scales how far colours and sharpness stray."""
    frames, masks, light = source
    turn = _turns(masks, size, ranges, generator).to(frames.device)
    small = size // MASK_STRIDE
    images = _sampled(frames, turn, size, "bilinear", "reflection")
    masks = _sampled(masks[:, None].float(), turn, small, "nearest", "zeros")[:, 0]  # a mirrored cell is not the cell
    density = _density(images, light)
    canonical = functional.avg_pool2d(density, MASK_STRIDE)
    stain = Stain.drawn(len(frames), light, ranges, strength, generator)
    images = photographed(stain.applied(images), ranges, strength, generator)
    return Views(images, (masks >= CYTOPLASM).long(), (masks == NUCLEUS).long(), canonical, density)


def boxes(masks: Tensor) -> Tensor:
    """Masks (B, s, s) -> (B, 3) float: middle x, middle y and longer side of the cell's box; half the frame if none."""
    side = masks.shape[-1]
    found = masks > 0
    (top, height), (left, width) = extent(found.any(dim=2)), extent(found.any(dim=1))
    whole = torch.stack([left + width / 2, top + height / 2, torch.maximum(height, width)], dim=1)
    fallback = torch.tensor([side / 2, side / 2, side / 2], device=masks.device)
    return torch.where(found.flatten(1).any(1)[:, None], whole, fallback)


def _turns(masks: Tensor, size: int, ranges: Ranges, generator: torch.Generator) -> Tensor:
    """(B, 2, 3) affine maps from the view to the frame: scale, turn, mirror, place."""
    box, side, count = boxes(masks).cpu(), masks.shape[-1], len(masks)
    share = _uniform(count, ranges.shares, generator)
    width = (box[:, 2] / share).clamp(max=WIDEST * side)
    angle = _uniform(count, (0, 2 * math.pi), generator)
    quarter = torch.rand(count, generator=generator) < 0.5
    angle = torch.where(quarter, (angle / (math.pi / 2)).round() * (math.pi / 2), angle)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cos * mirror, -sin], 1), torch.stack([sin * mirror, cos], 1)], 1)
    middle = box[:, :2] + torch.randn(count, 2, generator=generator) * ranges.offset * width[:, None]
    place = 2 * middle / side - 1
    return torch.cat([turn * (width / side)[:, None, None], place[..., None]], dim=2)


def _sampled(planes: Tensor, turn: Tensor, size: int, mode: str, outside: str) -> Tensor:
    grid = functional.affine_grid(turn, [len(planes), 1, size, size], align_corners=False)
    return functional.grid_sample(planes, grid, mode=mode, padding_mode=outside, align_corners=False)


def _density(images: Tensor, light: Tensor) -> Tensor:
    """Optical densities of (B, 3, h, w) images, 0..255, against light (B, 3)."""
    return (-((images + 1) / (light[..., None, None] + 1)).log()).clamp(-0.3, MOST_DENSITY)


class Stain(NamedTuple):
    """How B laboratories stain and light: matrices (B, 3, 3) on densities, and (B, 3, 1, 1) or (B, 1, 1, 1) numbers."""

    light: Tensor
    matrix: Tensor
    lamp: Tensor
    haze: Tensor
    gamma: Tensor
    plain: Tensor

    @classmethod
    def drawn(cls, count: int, light: Tensor, ranges: Ranges, strength: float, generator: torch.Generator) -> Stain:
        gain = _uniform(count, ranges.gain, generator).mul(strength).exp()[:, None, None]
        matrix = gain * (torch.eye(3) + strength * ranges.mixing * torch.randn(count, 3, 3, generator=generator))
        tint = _uniform((count, 1), (0.0, TINT), generator) * torch.rand(count, 3, generator=generator)
        lamp = _uniform((count, 1), BRIGHTNESS, generator) * (1 - tint)
        haze = _sometimes(count, 0.5, 0.3, generator) * strength
        gamma = _uniform(count, (math.log(0.7), math.log(1.5)), generator).mul(strength).exp()
        plain = torch.rand(count, generator=generator) < ranges.plain
        wide = (slice(None), slice(None), None, None)
        rest = (value[:, None][wide].to(light.device) for value in (haze, gamma, plain))
        old = light / 255
        lamp = old.cpu().lerp(lamp, strength)[wide]
        return cls(light, matrix.to(light), lamp.to(light), *rest)

    def applied(self, images: Tensor) -> Tensor:
        """(B, 3, h, w) float 0..255 -> the same under another stain and lamp."""
        density = torch.einsum("bij,bjhw->bihw", self.matrix, _density(images, self.light))
        seen = (-density).exp().clamp(max=1.3)
        seen = self.lamp * (seen * (1 - self.haze) + self.haze)
        seen = 255 * seen.clamp(1e-3, 1).pow(self.gamma)
        return torch.where(self.plain, images, seen)


def photographed(images: Tensor, ranges: Ranges, strength: float, generator: torch.Generator) -> Tensor:
    """Resolution, sharpening, noise and rounding of the camera."""
    taken = []
    for group in images.split(DEGRADED_AT_ONCE):
        share = float(_uniform(1, ranges.resolution, generator))
        side = max(8, round(images.shape[-1] * (1 - strength * (1 - share))))
        small = functional.interpolate(group, (side, side), mode="bilinear", antialias=True, align_corners=False)
        taken.append(functional.interpolate(small, group.shape[-2:], mode="bicubic", align_corners=False))
    seen = torch.cat(taken)
    sharper = _sometimes(len(seen), 0.3, 1.2, generator).to(seen.device)[:, None, None, None] * strength
    seen = seen + sharper * (seen - functional.avg_pool2d(seen, 3, 1, 1, count_include_pad=False))
    level = strength * _uniform((len(seen), 1, 1, 1), (0.0, ranges.noise), generator).to(seen.device)
    seed = int(torch.randint(2**62, (), generator=generator))
    on_device = torch.Generator(seen.device).manual_seed(seed)  # so many numbers are better drawn where they are used
    noise = torch.randn(seen.shape, generator=on_device, device=seen.device)
    return (seen + level * noise).clamp(0, 255).round()


def _uniform(shape: int | tuple[int, ...], limits: tuple[float, float], generator: torch.Generator) -> Tensor:
    low, high = limits
    return low + (high - low) * torch.rand(shape, generator=generator)


def _sometimes(count: int, chance: float, most: float, generator: torch.Generator) -> Tensor:
    """(count,) values in 0..`most` with the given chance, else 0."""
    values = most * torch.rand(count, generator=generator)
    return torch.where(torch.rand(count, generator=generator) < chance, values, torch.zeros(()))
