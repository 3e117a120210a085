"""Where to point SAM at: the middle of a white cell's nucleus, found by its colour.

Nuclei stained after Romanowsky are purple: they absorb red and green light. Red cells let red light through.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch

BRIGHT = 95  # percentile of each channel: the light of the empty field, also where cells fill most of the frame
SMOOTHING = 1 / 56  # of the frame's side: 4 px of 224, wider than granules and narrower than a nucleus
FAINTEST = 0.1  # optical density of a nucleus's darkest places, at least: noise and empty fields have less
NEARNESS = 2.0  # a pixel in the corner counts exp(-4) of one in the middle: the cell wanted is rarely at the edge


def nucleus_points(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, S, S) RGB, 0..255 -> (B, 2) float x and y in px, the place deepest inside each image's main nucleus.

    Each image is taken by itself; one without anything as dark as a nucleus gives its middle.
    """
    frames = images.permute(0, 2, 3, 1).float().cpu().numpy()
    return torch.from_numpy(np.stack([_point(frame) for frame in frames]))


def nucleus_map(image: np.ndarray) -> np.ndarray:
    """(S, S, 3) float RGB, 0..255 -> (S, S) float32: the smaller optical density of red and green, smoothed."""
    light = np.log(image[..., :2].astype(np.float32) + 1)
    empty = np.percentile(light, BRIGHT, axis=(0, 1)).astype(np.float32)
    density = np.clip(empty - light, 0, None).min(axis=2)
    return cv2.GaussianBlur(density, (0, 0), SMOOTHING * image.shape[0])


def _point(image: np.ndarray) -> np.ndarray:
    side, found = image.shape[0], nucleus_map(image)
    middle = (side - 1) / 2
    if found.max() < FAINTEST:
        return np.full(2, middle, np.float32)
    levels = (255 * found / found.max()).astype(np.uint8)
    dark = cv2.threshold(levels, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[1]
    count, parts = cv2.connectedComponents(dark, connectivity=4)
    away = ((np.arange(side) - middle) / middle) ** 2
    near = np.exp(-NEARNESS * (away[:, None] + away))
    weight = np.bincount(parts.ravel(), near.ravel(), count)
    largest = 1 + weight[1:].argmax()
    depth = cv2.distanceTransform(np.pad((parts == largest).astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return np.array([x, y], np.float32)
