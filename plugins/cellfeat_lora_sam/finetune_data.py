"""Images with masks for fine-tuning: zoomed once into the network's frame, augmented anew in every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from cellfeat import CellfeatError, Context

MAX_ANGLE = 20  # degrees


@dataclass(frozen=True)
class Frames:
    """Training images in the network's frame.

    images: (N, S, S, 3) uint8 RGB. masks: (N, S, S) bool. mean, std: (3,) float, RGB on 0..255, averages over the
    images of each image's own mean and deviation, taken before the zoom.
    """

    images: np.ndarray
    masks: np.ndarray
    mean: np.ndarray
    std: np.ndarray


def load_frames(pairs: Sequence[Any], size: int, context: Context) -> Frames:
    """Read all pairs of (image (H, W, 3) uint8 RGB, mask (H, W) bool), each once; empty masks are left out and counted.

    Raises:
        CellfeatError: when no pair has a cell in its mask, or an image and its mask differ in size.
    """
    images, masks, means, deviations = [], [], [], []
    with context.progress(len(pairs), "reading images and masks") as bar:
        for index in range(len(pairs)):
            image, mask = pairs[index]
            if image.shape[:2] != mask.shape:
                raise CellfeatError(
                    f"pair {index}: the image is {image.shape[:2]}, its mask {mask.shape} (height, width)"
                )
            zoomed = zoom_mask(mask, size)
            if zoomed.any():
                images.append(zoom_image(image, size))
                masks.append(zoomed)
                means.append(image.mean(axis=(0, 1), dtype=np.float64))
                deviations.append(image.std(axis=(0, 1), dtype=np.float64))
            bar.advance()
    if not images:
        raise CellfeatError(f"none of the {len(pairs)} masks has a cell; fine-tuning needs images with masks")
    if len(images) < len(pairs):
        context.note(
            f"{len(pairs) - len(images)} of {len(pairs)} images have an empty mask and are left out of training"
        )
    return Frames(np.stack(images), np.stack(masks), np.mean(means, axis=0), np.mean(deviations, axis=0))


def zoom_image(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (size, size, 3) uint8 by cubic splines, as in the original program."""
    height, width = image.shape[:2]
    return ndimage.zoom(image, (size / height, size / width, 1), order=3)


def zoom_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """(H, W) bool -> (size, size) bool by the nearest pixel."""
    height, width = mask.shape
    return ndimage.zoom(mask.astype(np.uint8), (size / height, size / width), order=0).astype(bool)


def augment(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Half of the time a quarter turn and a flip, a quarter of the time a rotation by -20° to 19°, else nothing.

    As in the original program: nearest pixel, black corners. Different from it: the test images are left alone, and the
    rotation follows the zoom instead of preceding it, so that an image is zoomed once and not in every epoch.
    """
    if rng.random() < 0.5:
        turns, axis = int(rng.integers(4)), int(rng.integers(2))
        return np.flip(np.rot90(image, turns), axis), np.flip(np.rot90(mask, turns), axis)
    if rng.random() < 0.5:
        angle = int(rng.integers(-MAX_ANGLE, MAX_ANGLE))
        turned = ndimage.rotate(image, angle, order=0, reshape=False)
        return turned, ndimage.rotate(mask.astype(np.uint8), angle, order=0, reshape=False).astype(bool)
    return image, mask
