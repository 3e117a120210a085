"""What classical image analysis measures in a cell: colours, textures and shapes of nucleus and cytoplasm.

Targets of pre-training: a network that sees the cell in any stain must tell what was measured in the original, so its
tokens carry colour, texture and shape. The idea is that of masked feature prediction (Wei et al., 2022, arXiv
2112.09133), which takes oriented gradients as targets; here the targets are those of cytomorphology.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from cellfeat_lora_sam.shape import FEW, shape_of_cell

COLOUR_STEPS = 8  # per axis of the joint histogram in CIE Lab
TONE_STEPS = 32  # of single channels
PATTERN_RADII = (1.5, 3.0, 6.0)  # px
PATTERNS = 10  # rotation-invariant uniform patterns of 8 neighbours
BLOB_WIDTHS = (1.0, 2.0, 4.0)  # px: deviations of the Laplacian of Gaussian
BLOB_STEPS, BLOB_LIMIT = 16, 40.0
COMPONENTS = 64  # principal components that are kept as targets; what lies in later ones is mostly noise
MARGIN = 8  # px around the cell that textures at its rim reach into


class Descriptors(NamedTuple):
    """Principal components of measured vectors: mean and deviation (M,), axes (M, D), spread (D,), all float32."""

    mean: np.ndarray
    deviation: np.ndarray
    axes: np.ndarray
    spread: np.ndarray

    @property
    def count(self) -> int:
        return self.axes.shape[1]

    @classmethod
    def fitted(cls, measured: np.ndarray) -> Descriptors:
        """Of (N, M) float32; at most `COMPONENTS` axes."""
        mean, deviation = measured.mean(axis=0), measured.std(axis=0) + 1e-6
        standard = (measured - mean) / deviation
        _, values, axes = np.linalg.svd(standard, full_matrices=False)
        kept = min(COMPONENTS, int((values > 1e-3 * values[0]).sum()))
        # Fully whitened, the noise in the last axes would count as much as the class in the first
        spread = np.sqrt(values[:kept] / np.sqrt(len(measured)))
        spread *= np.sqrt(np.mean((standard @ axes[:kept].T / spread) ** 2))
        return cls(mean, deviation, np.ascontiguousarray(axes[:kept].T), spread.astype(np.float32))

    def standardised(self, measured: np.ndarray) -> np.ndarray:
        """(N, M) -> (N, D) float32 with a mean square of 1."""
        return (((measured - self.mean) / self.deviation) @ self.axes / self.spread).astype(np.float32)


def describe(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(s, s, 3) uint8 RGB and (s, s) uint8 mask of 0, 128 and 255 -> (M,) float32."""
    window = _window(mask)
    image, mask = np.ascontiguousarray(image[window]), mask[window]
    cell, nucleus = mask > 0, mask == 255
    parts = [_or_cell(nucleus, cell), _or_cell(cell & ~nucleus, cell)]
    values = [_colours(image, part) for part in parts]
    values += _textures(image, parts)
    values.append(shape_of_cell(cell, nucleus))
    return np.concatenate(values).astype(np.float32)


def _window(mask: np.ndarray) -> tuple[slice, slice]:
    """The box of the cell with a margin."""
    found = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    rows, columns = (slice(max(int(at[0]) - MARGIN, 0), int(at[-1]) + MARGIN + 1) for at in found)
    return rows, columns


def _or_cell(part: np.ndarray, cell: np.ndarray) -> np.ndarray:
    return part if part.sum() > FEW else cell


def _colours(image: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Histograms of one part: R, G, B, hue, L, a, b singly, and Lab jointly; square roots of shares."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[part]
    hue = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)[part][:, 0]
    joint = (lab.astype(np.int64) * COLOUR_STEPS // 256) @ (COLOUR_STEPS**2, COLOUR_STEPS, 1)
    single = [_histogram(tones, TONE_STEPS, 0, 256) for tones in (*image[part].T, hue, *lab.T)]
    counts = np.bincount(joint, minlength=COLOUR_STEPS**3)
    return np.concatenate([*single, np.sqrt(counts / counts.sum())])


def _textures(image: np.ndarray, parts: list[np.ndarray]) -> list[np.ndarray]:
    """Histograms of local binary patterns (Ojala et al., 2002) and of blobs at several scales, by part."""
    values = []
    for channel in cv2.split(image):
        smooth = cv2.GaussianBlur(channel, (0, 0), 1.0).astype(np.float32)
        for radius in PATTERN_RADII:
            patterns = _patterns(smooth, radius)
            values += [_histogram(patterns[part], PATTERNS, 0, PATTERNS) for part in parts]
        for width in BLOB_WIDTHS:
            wide = cv2.GaussianBlur(channel.astype(np.float32), (0, 0), width)
            blobs = cv2.Laplacian(wide, cv2.CV_32F) * width**2
            values += [_histogram(blobs[part], BLOB_STEPS, -BLOB_LIMIT, BLOB_LIMIT) for part in parts]
    return values


def _patterns(tones: np.ndarray, radius: float) -> np.ndarray:
    """Rotation-invariant uniform local binary patterns of 8 neighbours, 0..9; (s, s)."""
    height, width = tones.shape
    brighter = []
    for angle in np.arange(8) * np.pi / 4:
        step = np.array([[1, 0, -radius * np.cos(angle)], [0, 1, -radius * np.sin(angle)]], np.float32)
        shifted = cv2.warpAffine(tones, step, (width, height), borderMode=cv2.BORDER_REPLICATE)
        brighter.append(shifted >= tones + 1)  # a grey level of slack, or noise decides on flat ground
    ring = np.stack(brighter)
    uniform = (ring != np.roll(ring, 1, axis=0)).sum(axis=0) <= 2
    return np.where(uniform, ring.sum(axis=0), PATTERNS - 1)


def _histogram(values: np.ndarray, steps: int, low: float, high: float) -> np.ndarray:
    """Square roots of the shares: distances between such vectors are Hellinger's."""
    counts = np.histogram(values, steps, (low, high))[0]
    return np.sqrt(counts / max(counts.sum(), 1))
