"""Geometry and staining of one synthetic white blood cell, as dye concentrations on a canvas of its own.

Lengths are in cell radii (the unit circle has the cell's area), concentrations in units of one dye: 1 of azure plus 1
of eosin is dense chromatin, because the purple of a Romanowsky stain is both dyes bound together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np

Range = tuple[float, float]
_SUBPIXEL_BITS = 4
_CANVAS_RADII = 1.5  # the most irregular monocyte reaches about 1.4 radii


class CellLayers(NamedTuple):
    """One white cell on a square canvas, centred; every layer is (S, S) float32.

    Attributes:
        azure: concentration of the blue dye, 0 to about 2.
        eosin: concentration of the red dye, 0 to about 2.
        body: coverage by the cell, 0..1.
        nucleus: coverage by its nucleus, 0..1, never more than `body`.
    """

    azure: np.ndarray
    eosin: np.ndarray
    body: np.ndarray
    nucleus: np.ndarray


@dataclass(frozen=True)
class Granules:
    """Granules of one kind: radius and spacing in cell radii, dyes as concentration ranges at a granule's centre."""

    radius: float
    spacing: float
    azure: Range
    eosin: Range
    over_nucleus: float = 0.0
    missing: Range = (0.0, 0.3)


@dataclass(frozen=True)
class CellType:
    """What tells one class from the others; ranges are (low, high), drawn uniformly for each cell.

    Attributes:
        diameter: relative to a typical neutrophil.
        roughness: size of the irregularities of the outline, in radii.
        elongation: square root of the ratio of the axes.
        chromatin, cytoplasm: (azure, eosin) concentration ranges.
        clumping: contrast of the chromatin texture, as share of the concentration.
        lacy: share of the chromatin texture that is strands rather than clumps.
        nucleus: draws the closed outlines, each (P, 2) in radii, whose union is the nucleus.
        granules: None for a clear cytoplasm.
        vacuoles: most vacuoles in one cell.
    """

    diameter: Range
    roughness: Range
    elongation: Range
    chromatin: tuple[Range, Range]
    cytoplasm: tuple[Range, Range]
    clumping: Range
    lacy: float
    nucleus: Callable[[np.random.Generator], list[np.ndarray]]
    granules: Granules | None = None
    vacuoles: int = 0


def outline(rng: np.random.Generator, roughness: float, elongation: float = 1.0, points: int = 72) -> np.ndarray:
    """Closed organic curve (P, 2) float64 about the origin that encloses the area of the unit disc.

    The radius is a Fourier series of orders 2 to 9 whose amplitudes fall with the order.
    """
    orders = np.arange(2, 10)[:, None]
    angle = np.linspace(0.0, 2.0 * np.pi, points, endpoint=False)
    amplitude = roughness * rng.standard_normal(8) * 2.6 / orders[:, 0] ** 1.4
    phase = rng.uniform(0.0, 2.0 * np.pi, (8, 1))
    radius = np.clip(1.0 + amplitude @ np.cos(orders * angle + phase), 0.7, 1.35)
    radius /= np.sqrt(np.mean(radius**2))
    curve = np.stack([radius * np.cos(angle) * elongation, radius * np.sin(angle) / elongation], axis=1)
    return curve @ _rotation(rng.uniform(0.0, 2.0 * np.pi))


def smooth_noise(side: int, grain: float, rng: np.random.Generator) -> np.ndarray:
    """(side, side) float32 noise of zero mean and about unit variance, with blobs of about `grain` px."""
    coarse = max(2, round(side / max(grain, 1.0)) + 1)
    noise = rng.standard_normal((coarse, coarse), dtype=np.float32)
    return cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur with standard deviation `sigma` px; the same image when that is too little to matter."""
    return cv2.GaussianBlur(image, (0, 0), sigma) if sigma > 0.25 else image


def fill(canvas: np.ndarray, curves: list[np.ndarray], radius: float, value: float = 1.0) -> np.ndarray:
    """Fill closed curves, each (P, 2) in radii about the canvas centre, in place; `radius` in px."""
    for pixels in _to_pixels(curves, canvas.shape[0], radius):
        cv2.fillPoly(canvas, [pixels], value, cv2.LINE_8, _SUBPIXEL_BITS)
    return canvas


def draw_white_cell(label: str, radius: float, rng: np.random.Generator) -> CellLayers:
    """Draw one cell of class `label`, a key of `CELL_TYPES`, with equivalent radius `radius` px."""
    kind = CELL_TYPES[label]
    side = 2 * int(np.ceil(radius * _CANVAS_RADII)) + 2
    shape = outline(rng, rng.uniform(*kind.roughness), rng.uniform(*kind.elongation))
    body = blur(fill(np.zeros((side, side), np.float32), [shape], radius), 0.02 * radius)
    nucleus, edges = _nucleus_coverage(kind, shape, side, radius, rng)
    azure, eosin = _cytoplasm(kind, side, radius, nucleus, rng)
    chromatin = _chromatin(kind, side, radius, edges, rng)
    # one draw for both dyes: chromatin differs in depth from cell to cell, hardly in hue
    depth = rng.random()
    for dye, (low, high) in zip((azure, eosin), kind.chromatin, strict=True):
        dye += nucleus * ((low + depth * (high - low)) * chromatin - 0.8 * dye)
    if kind.granules is not None:
        _add_granules(kind.granules, radius, nucleus, azure, eosin, rng)
    if kind.vacuoles:
        _punch_vacuoles(kind.vacuoles, radius, nucleus, azure, eosin, rng)
    return CellLayers(azure * body, eosin * body, body, np.minimum(nucleus, body))


def _nucleus_coverage(
    kind: CellType, shape: np.ndarray, side: int, radius: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Coverage by the nucleus and its darker contours, both (S, S) float32 in 0..1."""
    parts = kind.nucleus(rng)
    inside = fill(np.zeros((side, side), np.float32), [0.95 * shape], radius)
    nucleus = fill(np.zeros((side, side), np.float32), parts, radius) * inside
    edges = np.zeros((side, side), np.float32)
    for pixels in _to_pixels(parts, side, radius):
        cv2.polylines(edges, [pixels], True, 1.0, max(1, round(0.05 * radius)), cv2.LINE_8, _SUBPIXEL_BITS)
    return blur(nucleus, 0.03 * radius), blur(edges, 0.03 * radius)


def _chromatin(kind: CellType, side: int, radius: float, edges: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Relative density of the chromatin, (S, S) float32 about 1: clumps, strands and a dense contour."""
    fine = smooth_noise(side, 0.09 * radius, rng)
    clumps = smooth_noise(side, 0.25 * radius, rng) * 0.6 + fine * 0.8
    strands = 0.8 - 1.6 * np.abs(fine)
    texture = np.clip((1.0 - kind.lacy) * clumps + kind.lacy * strands, -1.5, 1.5)
    return 1.0 + rng.uniform(*kind.clumping) * texture + 0.22 * edges


def _cytoplasm(
    kind: CellType, side: int, radius: float, nucleus: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Azure and eosin of the cytoplasm without granules, each (S, S) float32; paler next to the nucleus."""
    texture = 1.0 + 0.10 * smooth_noise(side, 0.5 * radius, rng) + 0.06 * smooth_noise(side, 0.08 * radius, rng)
    texture -= 0.35 * blur(nucleus, 0.10 * radius)
    azure, eosin = (rng.uniform(*dye) for dye in kind.cytoplasm)
    return np.float32(azure) * texture, np.float32(eosin) * texture


def _add_granules(
    kind: Granules,
    radius: float,
    nucleus: np.ndarray,
    azure: np.ndarray,
    eosin: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Add granules to the dyes, in place: two sizes on a jittered grid, fewer over the nucleus."""
    side = nucleus.shape[0]
    layer = np.zeros_like(nucleus)
    seeds = np.empty_like(nucleus)
    missing = rng.uniform(*kind.missing)
    for size in (0.75, 1.3):
        step = 1.4 * max(kind.spacing * size * radius, 1.5)
        count = int(side / step) + 1
        at = (np.mgrid[:count, :count] + rng.uniform(0.0, 0.9, (2, count, count))).reshape(2, -1) * step
        row, column = np.minimum(at.astype(np.intp), side - 1)
        seeds.fill(0.0)
        seeds[row, column] = rng.uniform(0.4, 1.0, row.size) * (rng.random(row.size) >= missing)
        # the blur of a point is a dome, which reads as a little sphere where flat discs would merge
        width = max(0.6 * kind.radius * size * radius, 0.45)
        layer += cv2.GaussianBlur(seeds, (0, 0), width) * np.float32(2.0 * np.pi * width**2)
    layer = np.minimum(layer, 1.5) * (1.0 - (1.0 - kind.over_nucleus) * nucleus)
    azure += layer * rng.uniform(*kind.azure)
    eosin += layer * rng.uniform(*kind.eosin)


def _punch_vacuoles(
    most: int, radius: float, nucleus: np.ndarray, azure: np.ndarray, eosin: np.ndarray, rng: np.random.Generator
) -> None:
    """Clear a few round holes, in place."""
    holes = np.zeros_like(nucleus)
    for _ in range(max(0, int(rng.integers(-most, most + 1)))):
        away, angle, size = rng.uniform(0.3, 0.95), rng.uniform(0.0, 2.0 * np.pi), rng.uniform(0.035, 0.10)
        centre = np.array([away * np.cos(angle), away * np.sin(angle)])
        fill(holes, [centre + size * _CIRCLE], radius)
    keep = 1.0 - blur(holes, 0.025 * radius) * (0.8 - 0.5 * nucleus)
    azure *= keep
    eosin *= keep


def _rotation(angle: float) -> np.ndarray:
    """(2, 2) rotation by `angle` radians, for row vectors."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _to_pixels(curves: list[np.ndarray], side: int, radius: float) -> list[np.ndarray]:
    """Curves in radii to fixed-point canvas pixels, (P, 2) int32 each, as OpenCV's `shift` expects."""
    scale = 1 << _SUBPIXEL_BITS
    return [np.round((curve * radius + (side - 1) / 2.0) * scale).astype(np.int32) for curve in curves]


_CIRCLE = np.stack([np.cos(np.linspace(0.0, 6.0, 20)), np.sin(np.linspace(0.0, 6.0, 20))], axis=1)


def _tube(curve: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Closed outline (2P, 2) of a tube along `curve` (P, 2) with half-widths `width` (P,)."""
    tangent = np.gradient(curve, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1) / (np.hypot(*tangent.T)[:, None] + 1e-9)
    side = normal * width[:, None]
    return np.concatenate([curve + side, (curve - side)[::-1]])


def _arc(bend: float, span: float, points: int, rng: np.random.Generator) -> np.ndarray:
    """Points (P, 2) on an arc of radius `bend` over `span` radians, its centroid near the origin, turned at random."""
    angle = np.linspace(-span / 2.0, span / 2.0, points)
    curve = bend * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    curve -= 0.7 * curve.mean(axis=0)
    return curve @ _rotation(rng.uniform(0.0, 2.0 * np.pi))


def _lobed(rng: np.random.Generator, lobes: int, area: float, bend: float) -> list[np.ndarray]:
    """`lobes` rounded lobes along an arc, joined by thin bridges; `area` is the share of the cell's area."""
    size = np.sqrt(area / lobes)
    step = 2.0 * size * rng.uniform(1.0, 1.5) / bend
    scatter = rng.normal(0.0, 0.03 * lobes, (lobes, 2))
    centres = _arc(bend, min(step * (lobes - 1), 5.4), lobes, rng) + scatter - scatter.mean(axis=0)
    parts = [c + size * rng.uniform(0.85, 1.15) * outline(rng, 0.09, rng.uniform(1.0, 1.35), 32) for c in centres]
    for first, second in pairwise(centres):
        along = np.linspace(0.0, 1.0, 6)[:, None]
        parts.append(_tube(first + along * (second - first), np.full(6, rng.uniform(0.0, 0.10))))
    return parts


def _band(rng: np.random.Generator, area: float, bend: float, span: float) -> list[np.ndarray]:
    """One bent sausage (band, horseshoe) with rounded ends and an uneven width; `area` as in `_lobed`."""
    along = np.linspace(-1.0, 1.0, 28)
    wave = 1.0 + rng.uniform(0.05, 0.25) * np.cos(along * rng.uniform(2.0, 6.0) + rng.uniform(0.0, 6.28))
    # wider than the bend, the inner side would cross itself
    width = min(1.1 * np.pi * area / (2.0 * bend * span), 0.75 * bend)
    return [_tube(_arc(bend, span, 28, rng), width * wave * np.sqrt(np.clip(1.0 - along**6, 0.0, 1.0)))]


def _indented(
    rng: np.random.Generator, area: float, roughness: float, depth: float, longest: float = 1.25
) -> list[np.ndarray]:
    """One kidney: a rounded outline with a notch of `depth` radii of its own; `area` as in `_lobed`."""
    curve = outline(rng, roughness, rng.uniform(1.0, longest))
    around = np.angle(np.exp(1j * (np.arctan2(curve[:, 1], curve[:, 0]) - rng.uniform(0.0, 2.0 * np.pi))))
    curve *= (1.0 - depth * np.exp(-((around / rng.uniform(0.3, 0.7)) ** 2)))[:, None]
    return [(curve - curve.mean(axis=0)) * np.sqrt(area) * (1.0 + 0.15 * depth) + rng.normal(0.0, 0.07, 2)]


def _neutrophil_nucleus(rng: np.random.Generator) -> list[np.ndarray]:
    if rng.random() < 0.2:
        return _band(rng, rng.uniform(0.26, 0.36), rng.uniform(0.48, 0.6), rng.uniform(2.6, 4.4))
    lobes = int(rng.choice([2, 3, 4, 5], p=[0.2, 0.42, 0.28, 0.1]))
    return _lobed(rng, lobes, rng.uniform(0.28, 0.38), rng.uniform(0.42, 0.56))


def _eosinophil_nucleus(rng: np.random.Generator) -> list[np.ndarray]:
    lobes = 2 if rng.random() < 0.8 else 3
    return _lobed(rng, lobes, rng.uniform(0.26, 0.36), rng.uniform(0.40, 0.55))


def _basophil_nucleus(rng: np.random.Generator) -> list[np.ndarray]:
    return _lobed(rng, int(rng.integers(2, 4)), rng.uniform(0.42, 0.58), rng.uniform(0.25, 0.40))


def _lymphocyte_nucleus(rng: np.random.Generator) -> list[np.ndarray]:
    size = rng.uniform(0.76, 0.93) if rng.random() < 0.75 else rng.uniform(0.66, 0.76)
    away, angle = (1.0 - size) * rng.uniform(0.0, 0.9), rng.uniform(0.0, 2.0 * np.pi)
    nucleus = _indented(rng, size**2, rng.uniform(0.015, 0.04), max(0.0, rng.uniform(-0.25, 0.2)), 1.08)[0]
    return [nucleus - nucleus.mean(axis=0) + away * np.array([np.cos(angle), np.sin(angle)])]


def _monocyte_nucleus(rng: np.random.Generator) -> list[np.ndarray]:
    form = rng.random()
    if form < 0.5:
        return _indented(rng, rng.uniform(0.4, 0.56), 0.05, rng.uniform(0.3, 0.6))
    if form < 0.75:
        return _band(rng, rng.uniform(0.38, 0.48), rng.uniform(0.48, 0.56), rng.uniform(3.0, 4.4))
    lobes = _lobed(rng, 2, rng.uniform(0.42, 0.55), 0.4)
    return lobes if form < 0.88 else _indented(rng, rng.uniform(0.42, 0.58), 0.10, rng.uniform(0.0, 0.3))


# fmt: off
CELL_TYPES: dict[str, CellType] = {
    "basophil": CellType(
        diameter=(0.8, 0.98), roughness=(0.03, 0.07), elongation=(1.0, 1.08), clumping=(0.1, 0.25), lacy=0.2,
        chromatin=((0.6, 0.85), (0.55, 0.85)), cytoplasm=((0.2, 0.5), (0.25, 0.5)), nucleus=_basophil_nucleus,
        granules=Granules(0.07, 0.125, azure=(0.7, 1.2), eosin=(0.4, 0.8), over_nucleus=0.7, missing=(0.0, 0.45)),
    ),
    "eosinophil": CellType(
        diameter=(0.95, 1.12), roughness=(0.01, 0.05), elongation=(1.0, 1.1), clumping=(0.15, 0.35), lacy=0.2,
        chromatin=((0.8, 1.05), (0.65, 0.95)), cytoplasm=((0.04, 0.18), (0.3, 0.5)), nucleus=_eosinophil_nucleus,
        granules=Granules(0.06, 0.10, azure=(0.0, 0.08), eosin=(0.4, 0.8), over_nucleus=0.08, missing=(0.0, 0.15)),
    ),
    "lymphocyte": CellType(
        diameter=(0.66, 0.88), roughness=(0.01, 0.06), elongation=(1.0, 1.12), clumping=(0.08, 0.22), lacy=0.1,
        chromatin=((0.85, 1.1), (0.65, 0.95)), cytoplasm=((0.3, 0.75), (0.02, 0.12)), nucleus=_lymphocyte_nucleus,
    ),
    "monocyte": CellType(
        diameter=(1.02, 1.28), roughness=(0.02, 0.10), elongation=(1.0, 1.18), clumping=(0.2, 0.4), lacy=0.3,
        chromatin=((0.65, 0.9), (0.55, 0.8)), cytoplasm=((0.25, 0.48), (0.08, 0.2)), nucleus=_monocyte_nucleus,
        granules=Granules(0.022, 0.08, azure=(0.03, 0.12), eosin=(0.03, 0.15), over_nucleus=0.1), vacuoles=9,
    ),
    "neutrophil": CellType(
        diameter=(0.9, 1.1), roughness=(0.01, 0.05), elongation=(1.0, 1.12), clumping=(0.15, 0.35), lacy=0.2,
        chromatin=((0.85, 1.1), (0.7, 1.0)), cytoplasm=((0.04, 0.16), (0.1, 0.25)), nucleus=_neutrophil_nucleus,
        granules=Granules(0.024, 0.075, azure=(0.02, 0.15), eosin=(0.06, 0.22), over_nucleus=0.05),
    ),
}
# fmt: on
