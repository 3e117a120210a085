"""What the dye takes from the light, and the nucleus nearest the middle."""

from __future__ import annotations

import numpy as np

from cellfeat_classical.regions import filled, grown, opened

MAX_DENSITY = 2.5  # 8 % of the light; what is darker than this is as dark as this
MIN_DENSITY, MIN_LEVELS = 0.04, 4  # of a nucleus above the rest, in red light; less is noise on an empty field
NOTABLE = 0.25  # of the highest mode of lightness; a lower one is glare in the middle of red cells
FITS = ((3, 0.12), (6, 0.10), (6, 0.08))  # terms of the surface, and how far in ln I a pixel of it may lie
SPECK = 0.08  # of the largest lobe
BINS = 128


def multi_otsu(values: np.ndarray) -> tuple[float, float]:
    """The two thresholds that part the values into three classes with the largest variance between them.

    Otsu's criterion (1979) for every pair of edges of a histogram, from sums of its prefixes: Liao, Chen & Chung
    (2001), J. Inf. Sci. Eng. 17:713-727. Values that are all equal give thresholds that none of them exceeds.
    """
    counts, edges = np.histogram(values, BINS)
    if values.min() == values.max():
        return float(values.max()), float(values.max())
    mass = np.concatenate([[0.0], np.cumsum(counts)])
    moment = np.concatenate([[0.0], np.cumsum(counts * np.arange(BINS))])
    weight = mass[None] - mass[:, None]  # [i, j]: of the bins i to j - 1
    between = np.where(weight > 0, (moment[None] - moment[:, None]) ** 2 / np.maximum(weight, 1), 0.0)
    total = between[0][:, None] + between + between[:, -1][None]
    total[np.tril_indices(BINS + 1)] = -1.0
    low, high = np.unravel_index(int(total.argmax()), total.shape)
    return float(edges[low]), float(edges[high])


def otsu(values: np.ndarray) -> float:
    """The threshold that parts float values into two classes with the largest variance between them."""
    counts, edges = np.histogram(values, BINS)
    mass, moment = np.cumsum(counts)[:-1], np.cumsum(counts * np.arange(BINS))
    rest = np.maximum(len(values) - mass, 1)
    between = (moment[-1] * mass / len(values) - moment[:-1]) ** 2 / (np.maximum(mass, 1) * rest)
    return float(edges[1 + int(between.argmax())])


def empty_field(image: np.ndarray) -> np.ndarray:
    """(S, S, 3) uint8 RGB -> (S, S, 3) float32: the picture without any cell, a quadratic surface in ln I.

    It starts as the brightest notable mode of lightness (red cells may cover more of the frame than nothing does) and
    is fitted again to the pixels near it, so that the shade of the lamp is not taken for a cell.
    """
    light = np.log(image.astype(np.float32) + 1)
    start = np.log(_brightest_mode(image) + 1)
    ys, xs = np.meshgrid(*(np.linspace(-1, 1, length, dtype=np.float32) for length in image.shape[:2]), indexing="ij")
    terms = np.stack([np.ones_like(xs), xs, ys, xs * xs, xs * ys, ys * ys], axis=2)
    surface = np.broadcast_to(start, image.shape)
    for used, reach in FITS:
        near = np.abs(light - surface).max(axis=2) < reach
        if near.sum() < 8 * used:
            break
        chosen = terms[near][:, :used]
        ridge = 0.02 * near.sum() * np.diag([0.0] + [1.0] * (used - 1)).astype(np.float32)
        weights = np.linalg.solve(chosen.T @ chosen + ridge, chosen.T @ (light[near] - start))
        surface = start + np.clip(terms[..., :used] @ weights, -0.4, 0.4)  # not far beyond the pixels it was fitted to
    return np.clip(np.exp(surface) - 1, 0, 255).astype(np.float32)


def _brightest_mode(image: np.ndarray) -> np.ndarray:
    """(S, S, 3) uint8 RGB -> (3,) float32 in 0..255."""
    import cv2

    lightness = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[..., 0]
    counts = np.bincount(lightness.ravel() // 2, minlength=128)
    counts = np.convolve(np.pad(counts, 1), [1, 2, 3, 2, 1], "same")  # padded: a mode may lie at either end
    modes = (counts[1:-1] >= counts[:-2]) & (counts[1:-1] >= counts[2:]) & (counts[1:-1] > NOTABLE * counts.max())
    mode = 2 * int(np.flatnonzero(modes).max())
    near = np.abs(lightness.astype(np.int16) - mode) <= 5
    return np.median(image[near], axis=0).astype(np.float32)


def optical_density(image: np.ndarray, field: np.ndarray) -> np.ndarray:
    """(S, S, 3) uint8 RGB and the empty field -> (S, S, 3) float32 in 0..MAX_DENSITY: -ln(I / I of the field)."""
    return np.clip(np.log((field + 1) / (image.astype(np.float32) + 1)), 0, MAX_DENSITY)


def nuclear_pixels(density: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Optical density and empty field, (S, S, 3) -> (S, S) bool: darkest of three classes in red, not pale in green.

    Red cells and eosin take green and blue light but little red, so red alone finds nuclei; green keeps blue specks
    and shadows out.
    """
    import cv2

    side = len(density)
    smooth = cv2.GaussianBlur(density, (0, 0), max(side / 112, 0.3))
    red, green = smooth[..., 0], smooth[..., 1]
    mask = opened((red > multi_otsu(red)[1]) & (green > multi_otsu(green)[0]), side / 37)
    least = max(MIN_DENSITY, MIN_LEVELS / (field[..., 0].mean() + 1))
    if not mask.any() or red[mask].mean() - red[~mask].mean() < least:
        return np.zeros(mask.shape, dtype=bool)
    return filled(mask, side**2 / 200)


def central_group(nuclei: np.ndarray, foreground: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Part the pixels of nuclei into those of the white cell and those of others, each (S, S) bool.

    Lobes with a gap of at most 1/14 of the side and no background in it are one nucleus, and the large, central one is
    the cell's. Specks beside it, as platelets are, belong to neither.
    """
    import cv2

    joined = grown(nuclei, len(nuclei) / 12) & (foreground | nuclei)
    count, parts = cv2.connectedComponents(joined.astype(np.uint8), connectivity=4)
    ys, xs = np.meshgrid(*(np.linspace(-1, 1, length) for length in nuclei.shape), indexing="ij")
    score = np.bincount(parts.ravel(), (nuclei * np.exp(-2 * (ys**2 + xs**2))).ravel(), count)
    own = nuclei & (parts == int(score.argmax()))
    _, lobes, stats, _ = cv2.connectedComponentsWithStats(own.astype(np.uint8), connectivity=4)
    area = stats[:, cv2.CC_STAT_AREA] * (np.arange(len(stats)) > 0)  # component 0 is what lies outside
    return (area > SPECK * area.max())[lobes], nuclei & ~own


def nucleus_within(cell: np.ndarray, nucleus: np.ndarray, density: np.ndarray) -> np.ndarray:
    """The nucleus once its cell is known: Otsu's threshold of red and green density inside the cell, (S, S) bool.

    Without the rest of the frame the threshold lies between nucleus and cytoplasm. Kept where it finds most of the
    first nucleus and not twice as much; else the first one stays.
    """
    import cv2

    side = len(cell)
    both = cv2.GaussianBlur(density[..., :2].sum(axis=2), (0, 0), max(side / 112, 0.3))
    found = filled(opened(cell & (both > otsu(both[cell])), side / 37), side**2 / 200)
    shared = (found & nucleus).sum()
    return found if shared > 0.6 * nucleus.sum() and shared > 0.5 * found.sum() else nucleus
