"""Which pixels of a whole photograph belong to nuclei, where most of it has none."""

from __future__ import annotations

import numpy as np

from cellfeat_classical.nucleus import otsu
from cellfeat_classical.regions import disc, filled, opened

MOST_RED = 0.5  # of red cells' density in green light is the most that is believed of theirs in red light
STACKED = 2.0  # red cells that may lie over one another
KEPT = 0.3  # of the density in red light
STAINED = 0.06  # density in green light from which a pixel is no empty field
LEAST, NOISE = 0.05, 5.0  # least azure of a nucleus: a density, and in deviations of the noise
PART_OF_OWN, REACH = 0.42, 0.5  # of the densest part of this nucleus, within half a cell
PART_OF_TYPICAL = 0.4  # of the typical nucleus: paler ones, as monocytes have, are nuclei too


def azure(density: np.ndarray, diameter: float) -> np.ndarray:
    """(H, W, 3) optical density -> (H, W) float32: what in red light is more than red cells would take.

    Red cells take green light and some red light in a fixed proportion. The proportion and the amount are medians of
    the paler stained pixels, and STACKED of them may lie over one another.
    A part of the density in red light always counts: around one large cell the medians are its own.
    """
    import cv2

    smooth = cv2.GaussianBlur(density[..., :2], (0, 0), diameter / 56)
    red, green = smooth[..., 0], smooth[..., 1]
    stained = green > max(STAINED, otsu(np.minimum(green, 0.5)) / 2)
    if not stained.any():
        return red
    paler = stained & (green <= max(otsu(green[stained]), STAINED))  # red cells, without nuclei and granules
    usual = float(np.median(green[paler]))
    share = float(np.median(red[paler] / green[paler]))
    return np.maximum(red - min(share, MOST_RED) * np.minimum(green, STACKED * usual), KEPT * red)


def nuclear_mask(blue: np.ndarray, diameter: float) -> np.ndarray:
    """(H, W) azure -> (H, W) bool: pixels of nuclei in a photograph whose typical white cell has this diameter in px.

    Nuclei are too rare for a threshold on the pixels. Each local maximum of azure, blurred to the size of a lobe,
    counts once: Otsu's threshold (1979) parts the maxima, and the median of the upper ones is the typical nucleus.
    """
    import cv2

    broad = cv2.GaussianBlur(blue, (0, 0), diameter / 10)
    noise = 1.48 * float(np.median(np.abs(blue - broad)))
    peaks = broad[(broad >= cv2.dilate(broad, disc(diameter / 3))) & (broad > 0)]
    least = max(LEAST, NOISE * noise)
    if not (peaks > least / 2).any():
        return np.zeros(blue.shape, dtype=bool)
    upper = peaks[peaks >= max(otsu(peaks), least / 2)] if len(peaks) > 1 else peaks
    typical = float(np.median(upper)) if len(upper) else 0.0
    around = cv2.dilate(broad, disc(REACH * diameter))  # cytoplasm may be bluer than half of a paler nucleus elsewhere
    mask = opened(blue > np.maximum(max(least, PART_OF_TYPICAL * typical), PART_OF_OWN * around), diameter / 12)
    return filled(mask, diameter**2 / 30)
