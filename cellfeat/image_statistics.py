"""What a photograph of a cell looks like in a few figures: light, stain, sharpness, noise, size. Pixels alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cellfeat import images
from cellfeat.types import Column

AT_ONCE = 64  # images whose masks are held
FRAME = 128  # px: colours and sharpness are measured in a frame of this side, whatever the camera
MOST = 256  # px at the image's middle that noise and compression are measured on
STATISTICS = (
    "background_lightness",
    "background_redness",
    "background_yellowness",
    "nucleus_density",
    "cytoplasm_density",
    "stain_blueness",
    "contrast",
    "sharpness",
    "noise",
    "blockiness",
    "pixels",
    "cell_share",
)
_NOISE = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
_NOISE_GAIN = 6 * 0.6745  # of that filter on white noise, and from the median of magnitudes to a standard deviation


def image_statistics(image: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """(12,) float32, in the order of `STATISTICS`, of (H, W, 3) uint8 RGB and the cell's mask, bool of any size.

    background_…: CIE L*a*b* of the brightest quarter of what is not the cell; L* 0..100. …_density: optical density,
    mean of the colours, over that background, in the darkest and the palest third of the cell. stain_blueness: share of
    red light in the cell's density, 0..1; more is bluer, less is pinker. contrast: of L*, 5th to 95th percentile.
    sharpness: log2 of the finest detail against coarser one, in a frame of 128 px. noise: standard deviation in grey
    levels of 255 (Immerkaer 1996, doi 10.1006/cviu.1996.0060; median instead of mean, so that texture counts less).
    blockiness: log2 of the steps between blocks of 8 px against those inside, 0 without JPEG. pixels: log2 of the
    image's side. cell_share: diameter of a circle of the mask's area as a share of the image's side; NaN without a
    mask, or with one that is empty or the whole image, and then colours are of the whole image.
    """
    side = float(np.sqrt(image.shape[0] * image.shape[1]))
    height, width = (max(8, round(length * FRAME / side)) for length in image.shape[:2])
    frame = images.resize(image, (height, width), "area" if side > FRAME else "bilinear")
    share = diameter_share(mask)
    cell = None if mask is None or np.isnan(share) else images.resize_mask(mask, (height, width))
    grey = _grey(_middle(image))
    figures = [*_colours(frame, cell), _sharpness(frame), _noise(grey), _blockiness(grey), np.log2(side), share]
    return np.array(figures, np.float32)


def statistics_of(count: int, image: Callable[[int], np.ndarray], masks: Column | None) -> np.ndarray:
    """(count, 12) float32 of many images, each read by its number when its turn comes, in threads.

    masks: column of (count, S, S) bool.
    """
    found = np.empty((count, len(STATISTICS)), np.float32)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="statistics") as threads:
        for start in range(0, count, AT_ONCE):
            rows = np.arange(start, min(start + AT_ONCE, count))
            inside = [None] * len(rows) if masks is None else masks.read(rows)
            found[rows] = list(threads.map(lambda row, mask: image_statistics(image(row), mask), rows.tolist(), inside))
    return found


def reader(paths: Sequence[Path | str]) -> Callable[[int], np.ndarray]:
    """Gives the image of a number, (H, W, 3) uint8 RGB; raises ImageError for one that cannot be read any more."""
    return lambda number: images.read_rgb(images.read_bytes(paths[number]), name=str(paths[number]))


def diameter_share(mask: np.ndarray | None) -> float:
    """`cell_share` of a mask."""
    if mask is None or mask.all() or not mask.any():
        return float("nan")
    return float(np.sqrt(4 / np.pi * mask.mean()))


def _middle(image: np.ndarray) -> np.ndarray:
    top, left = (max(0, (length - MOST) // 16 * 8) for length in image.shape[:2])  # whole blocks of JPEG are cut off
    return image[top : top + MOST, left : left + MOST]


def _colours(frame: np.ndarray, cell: np.ndarray | None) -> list[float]:
    """The first seven statistics."""
    import cv2

    colour = frame.reshape(-1, 3).astype(np.float32)
    lab = cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).reshape(-1, 3)
    inside = np.ones(len(colour), bool) if cell is None else cell.ravel()
    outside = np.ones(len(colour), bool) if cell is None or inside.all() else ~inside
    lightness = lab[:, 0]
    light = outside & (lightness >= np.quantile(lightness[outside], 0.75))
    background = np.median(colour[light], axis=0)
    density = np.clip(np.log((background + 1) / (colour[inside] + 1)), 0, None)
    total = density.mean(axis=1)
    if cell is None:  # the darkest fifth of an image is cell and not background
        density, total = density[_from(total, 0.8)], total[_from(total, 0.8)]
    dark, pale = total[_from(total, 2 / 3)], total[~_from(total, 1 / 3)]
    absorbed = density.mean(axis=0)
    blueness = absorbed[0] / max(absorbed.sum(), 1e-6)
    low, high = np.quantile(lightness, [0.05, 0.95])
    return [*np.median(lab[light], axis=0), _mean(dark), _mean(pale), float(blueness), high - low]


def _from(values: np.ndarray, quantile: float) -> np.ndarray:
    return values >= np.quantile(values, quantile)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0


def _grey(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 to (H, W) float32, not rounded: the noise of good cameras is less than a grey level."""
    import cv2

    return cv2.cvtColor(pixels.astype(np.float32), cv2.COLOR_RGB2GRAY)


def _sharpness(frame: np.ndarray) -> float:
    import cv2

    grey = _grey(frame)
    fine, coarse = (cv2.GaussianBlur(grey, (0, 0), sigma) for sigma in (1.0, 3.0))
    return float(np.log2((np.std(grey - fine) + 1e-3) / (np.std(fine - coarse) + 1e-3)))


def _noise(grey: np.ndarray) -> float:
    import cv2

    inside = cv2.filter2D(grey, -1, _NOISE)[1:-1, 1:-1]
    return float(np.median(np.abs(inside)) / _NOISE_GAIN) if inside.size else 0.0


def _blockiness(grey: np.ndarray) -> float:
    """Where blocks begin is not known of an image that was cut out of another, so the most striking of 8 places counts;
    in both directions, and the weaker of them, as an edge in the picture is seldom in both."""
    found = []
    for steps in (np.abs(np.diff(grey, axis=1)).mean(axis=0), np.abs(np.diff(grey, axis=0)).mean(axis=1)):
        if len(steps) < 16:
            return 0.0
        places = np.array([np.mean(steps[start::8]) for start in range(8)])
        found.append(float(np.log2((places.max() + 0.1) / (np.median(places) + 0.1))))
    return min(found)
