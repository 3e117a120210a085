"""The light of a whole photograph without any cell, and the parts of it that no light reached."""

from __future__ import annotations

import numpy as np

SIDE = 512  # px of the longer side; the lamp's light changes slowly, and noise is averaged away
TILES = 12  # along the longer side: the most are wider than a cell
BRIGHT = 0.75  # quantile of a tile's lightness from which it may be taken for empty
ROUNDS = 8
UNLIT = 0.15  # of the brightest pixels, in every colour: darker is no stain, as that lets some colour through
BRIGHTEST, LEAST_LIGHT = 0.95, 24.0  # quantile of lightness that counts as bright; a black photograph has none
ONE_FIELD = 0.8  # of what is lit is one piece
RIM = 1 / 64  # of the longer side: so far the edge of a dark part may be blurred
NEAR = 0.06  # in ln I: what lies this far below the surface is a tile of cells, or a pixel of one


def illumination(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (H, W, 3) float32 in 0..255: a quadratic surface in ln I through what is empty.

    It starts at the bright parts of tiles, from which tiles that cells cover fall away, as the corners of a photograph
    may be darker than the cells in its middle; the last rounds take single pixels.
    """
    import cv2

    height, width = image.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    light = np.log(cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA).astype(np.float32) + 1)
    terms = _terms(light.shape[:2])
    surface = _through_tiles(light, terms)
    for _ in range(2):
        near = np.abs(light - surface).max(axis=2) < 1.5 * NEAR
        if near.sum() < light.shape[0] * light.shape[1] / 50:
            break
        surface = terms @ _fit(terms[near], light[near], np.ones(int(near.sum()), dtype=np.float32))
    field = np.clip(np.exp(surface) - 1, 0, 255).astype(np.float32)
    return cv2.resize(field, (width, height), interpolation=cv2.INTER_LINEAR)


def evened(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB, as if the lamp's light were everywhere what it is in the photograph's middle range.

    A cell in a corner then looks as one in the middle, which is how cells come that were cut out one by one.
    """
    field = np.maximum(illumination(image), 1.0)
    usual = np.median(field[:: max(1, len(field) // 64), :: max(1, field.shape[1] // 64)], axis=(0, 1))
    return np.clip(image * (usual / field) + 0.5, 0, 255).astype(np.uint8)


def lit(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB with the colour of the empty field where `unlit`; the image itself where all is lit."""
    dark = unlit(image)
    if not dark.any():
        return image
    seen = image[~dark]
    total = seen.astype(np.int32).sum(axis=1)
    found = image.copy()
    found[dark] = np.median(seen[total >= np.median(total)], axis=0).astype(np.uint8)
    return found


def unlit(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (H, W) bool, where no light came, as beyond a round eyepiece field or in a black frame.

    Dark parts that reach the border, and a rim of them, where what is left is one field; a photograph of bright things
    on black has none.
    """
    import cv2

    height, width = image.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    lightest = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA).max(axis=2)
    bright = float(np.quantile(lightest, BRIGHTEST))
    dark = lightest < UNLIT * bright
    if bright < LEAST_LIGHT or not dark.any():
        return np.zeros((height, width), bool)
    dark = _from_border(dark)
    reach = 2 * max(1, round(RIM * max(size))) + 1
    near = cv2.dilate(dark.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))
    areas = cv2.connectedComponentsWithStats(1 - near, connectivity=4)[2][1:, cv2.CC_STAT_AREA]
    if areas.max(initial=0) <= ONE_FIELD * areas.sum():
        return np.zeros((height, width), bool)
    return np.asarray(cv2.resize(near * dark.any(), (width, height), interpolation=cv2.INTER_NEAREST) > 0)


def _from_border(dark: np.ndarray) -> np.ndarray:
    """(h, w) bool, the parts that reach the border."""
    import cv2

    _, parts = cv2.connectedComponents(dark.astype(np.uint8), connectivity=4)
    edge = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    return np.isin(parts, edge[edge > 0])


def _terms(shape: tuple[int, ...]) -> np.ndarray:
    """(H, W, 6) float32 of a quadratic surface, coordinates in -1..1."""
    ys, xs = np.meshgrid(*(np.linspace(-1, 1, length, dtype=np.float32) for length in shape), indexing="ij")
    return np.stack([np.ones_like(xs), xs, ys, xs * xs, xs * ys, ys * ys], axis=2)


def _through_tiles(light: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """(h, w, 3) ln I -> (h, w, 3), fitted to the bright parts of tiles; those below it count ever less."""
    step = max(1, -(-max(light.shape[:2]) // TILES))
    colours, places = [], []
    for top in range(0, light.shape[0], step):
        for left in range(0, light.shape[1], step):
            tile = light[top : top + step, left : left + step].reshape(-1, 3)
            total = tile.sum(axis=1)
            bright = total >= np.quantile(total, BRIGHT)
            colours.append(np.median(tile[bright], axis=0))
            places.append(terms[top : top + step, left : left + step].reshape(-1, 6)[bright].mean(axis=0))
    seen, at = np.array(colours, dtype=np.float32), np.array(places, dtype=np.float32)
    weights = np.ones(len(seen), dtype=np.float32)
    for _ in range(ROUNDS):
        fit = _fit(at, seen, weights)
        below = np.maximum(at @ fit - seen, 0).max(axis=1)
        weights = 1 / (1 + (below / (NEAR / 2)) ** 2)
    return terms @ fit


def _fit(terms: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted least squares, (P, 6) and (P, 3) -> (6, 3); a little ridge, as few tiles may be empty."""
    middle = np.average(values, axis=0, weights=weights)
    ridge = 0.01 * weights.sum() * np.diag([0.0] + [1.0] * 5).astype(np.float32)
    heavy = terms * weights[:, None]
    solved = np.linalg.solve(heavy.T @ terms + ridge, heavy.T @ (values - middle))
    solved[0] += middle
    return solved.astype(np.float32)
