"""Where a photograph of a smear holds nuclei: dark in red and in green light against the empty field.

After Romanowsky, azure B makes nuclei absorb red light as well as green; red cells let red light through.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

BLOCK = 2.0  # typical cells: the side of the blocks in each of which some empty field is looked for
BRIGHT = 95  # percentile of a block's light that is its empty field, where it has any
FULL = 0.05  # optical density by which a block's brightest place may lie below the field; more: it is full of cells
TERMS = 6  # of the quadratic surface that is fitted to the blocks
SMOOTHING = 1 / 24  # of a typical cell: wider than granules, narrower than a lobe
STAINED = 0.05  # optical density, red or green, from which a pixel is no empty field
FAINTEST = 0.12  # optical density of a nucleus, at least
DARKER = 2.0  # times what is stained and rather faint, which is red cells: nuclei are darker


class Stain(NamedTuple):
    """Of a photograph: stained (H, W) bool, whatever is no empty field; nuclear (H, W) bool, nuclei and platelets."""

    stained: np.ndarray
    nuclear: np.ndarray


def stain_of(image: np.ndarray, diameter: float) -> Stain:
    """(H, W, 3) uint8 RGB, a typical white cell of which is `diameter` px wide."""
    light = np.log(image[..., :2].astype(np.float32) + 1)
    density = np.clip(empty_field(light, diameter) - light, 0, None)
    stained = density.max(axis=2) > STAINED
    azure = cv2.GaussianBlur(density.min(axis=2), (0, 0), max(SMOOTHING * diameter, 0.5))
    return Stain(stained, azure > _nuclear_level(azure[stained]))


def empty_field(light: np.ndarray, diameter: float) -> np.ndarray:
    """(H, W, 2) logarithms of light -> (H, W, 2) or (2,) float32, those of the field with nothing on it.

    A quadratic surface through the brightest places of blocks, those left out that are full of cells; where there are
    few blocks, one level.
    """
    height, width = light.shape[:2]
    side = max(1, round(BLOCK * diameter))
    rows, columns = -(-height // side), -(-width // side)
    blocks = [
        ((row + 0.5) / rows, (column + 0.5) / columns, *np.percentile(part.reshape(-1, 2), BRIGHT, axis=0))
        for row, band in enumerate(np.array_split(light, rows))
        for column, part in enumerate(np.array_split(band, columns, axis=1))
    ]
    if len(blocks) < 3 * TERMS:
        return np.percentile(light.reshape(-1, 2), BRIGHT, axis=0).astype(np.float32)
    found = np.array(blocks, np.float64)
    ys, xs = (np.arange(length, dtype=np.float64) + 0.5 for length in (height, width))
    places = _terms((ys / height)[:, None], (xs / width)[None])
    return np.stack([_surface(found[:, :2], found[:, 2 + one], places) for one in (0, 1)], axis=2)


def _surface(where: np.ndarray, level: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(H, W) float32 of the terms `places` (6, H, W), fitted to levels (K,) at `where` (K, 2), from above."""
    terms, kept = _terms(where[:, 0], where[:, 1]).T, np.ones(len(level), bool)
    for _ in range(5):
        weights = np.linalg.lstsq(terms[kept], level[kept], rcond=None)[0]
        better = level - terms @ weights > -FULL
        if better.sum() < 2 * TERMS or (better == kept).all():
            break
        kept = better
    return np.tensordot(weights, places, 1).astype(np.float32)


def _terms(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """1, y, x, y², yx and x² of places in 0..1, along a new first axis."""
    y, x = np.broadcast_arrays(y, x)
    return np.stack([np.ones_like(y), y, x, y * y, y * x, x * x])


def _nuclear_level(azure: np.ndarray) -> float:
    """The density that parts nuclei from the rest, of the densities of stained pixels."""
    if not azure.size:
        return FAINTEST
    top = float(azure.max())
    levels = (255 * azure / max(top, 1e-6)).astype(np.uint8)
    otsu = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0] / 255 * top
    return max(FAINTEST, otsu, DARKER * float(np.percentile(azure, 30)))
