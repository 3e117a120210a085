"""Drawing of one synthetic white blood cell, as dye concentrations on a canvas of its own; its form is given.

Lengths are in cell radii and concentrations in units of one dye, as in `synthetic_types`.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from cellfeat.synthetic_types import CellType, Granules, outline

_SUBPIXEL_BITS = 4
_CANVAS_RADII = 1.5  # the most irregular monocyte reaches about 1.4 radii
_AREA_RADIUS = 40.0  # px; enough to find an area to a few per cent
_CIRCLE = np.stack([np.cos(np.linspace(0.0, 6.0, 20)), np.sin(np.linspace(0.0, 6.0, 20))], axis=1)


class CellLayers(NamedTuple):
    """One white cell on a square canvas, centred; every layer is (S, S) float32.

    Attributes:
        azure: concentration of the blue dye, 0 to about 2.
        eosin: concentration of the red dye, 0 to about 2.
        body: coverage by the cell, 0..1.
        nucleus: coverage by its nucleus, 0..1, never more than `body`.
        red: haemoglobin, 1 is a full red cell; None for none.
    """

    azure: np.ndarray
    eosin: np.ndarray
    body: np.ndarray
    nucleus: np.ndarray
    red: np.ndarray | None = None


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


def draw_white_cell(kind: CellType, radius: float, rng: np.random.Generator) -> CellLayers:
    """Draw one cell of type `kind` with equivalent radius `radius` px."""
    side = 2 * int(np.ceil(radius * _CANVAS_RADII)) + 2
    shape = outline(rng, rng.uniform(*kind.roughness), rng.uniform(*kind.elongation))
    body = blur(fill(np.zeros((side, side), np.float32), [shape], radius), 0.02 * radius)
    share = rng.uniform(*kind.nuclear_share)
    parts = _with_area(kind.nucleus(rng, share), share)
    nucleus, edges = _nucleus_coverage(parts, shape, side, radius)
    azure, eosin = _cytoplasm(kind, radius, body, nucleus, rng)
    if kind.hof:
        azure *= 1.0 - kind.hof * _hof(parts, side, radius)
    red = None
    if kind.haemoglobin is not None:
        red = np.float32(rng.uniform(*kind.haemoglobin)) * body * (1.0 - 0.8 * nucleus)
    chromatin = _chromatin(kind, side, radius, edges, rng)
    nucleoli = _nucleoli(kind.nucleoli, parts, side, radius, rng) if kind.nucleoli else None
    # one draw for both dyes: chromatin differs in depth from cell to cell, hardly in hue
    depth = rng.random()
    for dye, (low, high), lack in zip((azure, eosin), kind.chromatin, (0.2, 0.5), strict=True):
        density = chromatin if nucleoli is None else chromatin * (1.0 - np.float32(lack) * nucleoli)
        dye += nucleus * ((low + depth * (high - low)) * density - 0.8 * dye)
    if kind.granules is not None:
        _add_granules(kind.granules, radius, nucleus, azure, eosin, rng)
    if kind.vacuoles:
        _punch_vacuoles(kind.vacuoles, radius, nucleus, azure, eosin, rng)
    return CellLayers(azure * body, eosin * body, body, np.minimum(nucleus, body), red)


def _with_area(parts: list[np.ndarray], share: float) -> list[np.ndarray]:
    """The same outlines, scaled so that their union has `share` of the unit disc's area."""
    covered = fill(np.zeros((129, 129), np.float32), parts, _AREA_RADIUS).sum() / (np.pi * _AREA_RADIUS**2)
    scale = np.clip(np.sqrt(share / max(float(covered), 1e-6)), 0.7, 1.4)
    return [part * scale for part in parts]


def _nucleus_coverage(
    parts: list[np.ndarray], shape: np.ndarray, side: int, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Coverage by the nucleus and its darker contours, both (S, S) float32 in 0..1."""
    inside = fill(np.zeros((side, side), np.float32), [0.97 * shape], radius)
    nucleus = fill(np.zeros((side, side), np.float32), parts, radius) * inside
    edges = np.zeros((side, side), np.float32)
    for pixels in _to_pixels(parts, side, radius):
        cv2.polylines(edges, [pixels], True, 1.0, max(1, round(0.05 * radius)), cv2.LINE_8, _SUBPIXEL_BITS)
    return blur(nucleus, 0.03 * radius), blur(edges, 0.03 * radius)


def _nucleoli(most: int, parts: list[np.ndarray], side: int, radius: float, rng: np.random.Generator) -> np.ndarray:
    """Coverage by up to `most` pale round nucleoli within the nucleus, (S, S) float32 in 0..1."""
    middle, discs = parts[0].mean(axis=0), []
    for _ in range(int(rng.integers(0, most + 1))):
        toward = parts[0][rng.integers(len(parts[0]))] - middle
        discs.append(middle + rng.uniform(0.1, 0.65) * toward + rng.uniform(0.09, 0.17) * _CIRCLE)
    return blur(fill(np.zeros((side, side), np.float32), discs, radius), 0.04 * radius)


def _hof(parts: list[np.ndarray], side: int, radius: float) -> np.ndarray:
    """The pale zone of the Golgi body, (S, S) float32 in 0..1, on the side to which the nucleus leaves most room."""
    nucleus = parts[0] - parts[0].mean(axis=0)
    away = -parts[0].mean(axis=0)
    away /= np.hypot(*away) + 1e-6
    spot = parts[0].mean(axis=0) + away * 0.95 * np.max(nucleus @ away)
    disc = fill(np.zeros((side, side), np.float32), [spot + 0.3 * _CIRCLE], radius)
    return blur(disc, 0.12 * radius)


def _chromatin(kind: CellType, side: int, radius: float, edges: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Relative density of the chromatin, (S, S) float32 about 1: clumps, strands and a dense contour."""
    fine = smooth_noise(side, 0.09 * radius, rng)
    clumps = smooth_noise(side, 0.25 * radius, rng) * 0.6 + fine * 0.8
    strands = 0.8 - 1.6 * np.abs(fine)
    texture = np.clip((1.0 - kind.lacy) * clumps + kind.lacy * strands, -1.5, 1.5)
    return 1.0 + rng.uniform(*kind.clumping) * texture + 0.22 * edges


def _cytoplasm(
    kind: CellType, radius: float, body: np.ndarray, nucleus: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Azure and eosin of the cytoplasm without granules, each (S, S) float32; paler next to the nucleus."""
    side = body.shape[0]
    texture = 1.0 + 0.10 * smooth_noise(side, 0.5 * radius, rng) + 0.06 * smooth_noise(side, 0.08 * radius, rng)
    texture -= 0.35 * blur(nucleus, 0.10 * radius)
    azure, eosin = (rng.uniform(*dye) for dye in kind.cytoplasm)
    blue = texture + 2.0 * kind.margin * (body - blur(body, 0.15 * radius)) if kind.margin else texture
    return np.float32(azure) * blue, np.float32(eosin) * texture


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


def _to_pixels(curves: list[np.ndarray], side: int, radius: float) -> list[np.ndarray]:
    """Curves in radii to fixed-point canvas pixels, (P, 2) int32 each, as OpenCV's `shift` expects."""
    scale = 1 << _SUBPIXEL_BITS
    return [np.round((curve * radius + (side - 1) / 2.0) * scale).astype(np.int32) for curve in curves]
