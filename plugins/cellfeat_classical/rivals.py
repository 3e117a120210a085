"""Red cells that touch the white cell: told from it by their colour and by the neck between the two."""

from __future__ import annotations

import numpy as np

from cellfeat_classical.regions import depth, disc, grown, opened, shrunk, touching

ALIKE, UNLIKE = 0.85, 0.97  # a neck this narrow parts two bodies of the same colour, or of red cells' colour
HINT, SURE = 0.2, 0.5  # evidence from which a maximum of the depth, or a patch, is a red cell
HUE_SPREAD, DEPTH_SPREAD = 0.03, 0.15  # least deviations of direction and ln length: noise of the camera
NUCLEUS_SPREAD = 0.06  # wider, so that the cytoplasm lies nearer to the nucleus than to red cells
COVERED = 0.5  # of the ring around the nucleus; where less of it is stained there is no cytoplasm to learn from
LEVELS = 24


def red_evidence(colour: np.ndarray, foreground: np.ndarray, nucleus: np.ndarray, dark: np.ndarray) -> np.ndarray:
    """How much a pixel looks like the red cells of this picture, (S, S) float32: -1 white cell, 0 unknown, 1 red cell.

    Red cells away from the white one, the nucleus and a ring around it are three normal distributions of direction
    and log length of `colour`, the (S, S, 3) difference in Lab from the empty field. `dark`, (S, S) bool, are pixels
    of nuclei and platelets, which no red cell has.
    """
    import cv2

    side, length = len(colour), np.linalg.norm(colour, axis=2)
    features = np.dstack([colour / (length + 1)[..., None], np.log(length + 3)])
    away = depth(~nucleus)
    zone = (away > side / 56) & (away <= side / 22)
    others = shrunk(foreground & ~touching(foreground, nucleus) & ~dark, side / 37)
    if others.sum() < side:
        others |= foreground & (away > side / 5) & ~dark
    if others.sum() < side / 2:
        return np.zeros(nucleus.shape, dtype=np.float32)
    red, own = _Normal(features[others], HUE_SPREAD), [_Normal(features[nucleus], NUCLEUS_SPREAD)]
    if (zone & foreground).sum() > COVERED * zone.sum():
        own.append(_Normal(features[zone & foreground], HUE_SPREAD))
    thick = features.copy()
    thick[..., 3] = np.maximum(thick[..., 3], red.middle[3])  # a red cell is paler in its middle, never darker
    ratio = red.log_likelihood(thick) - np.max([each.log_likelihood(features) for each in own], axis=0)
    known = foreground & (length > 0.4 * np.median(length[others]))
    return cv2.GaussianBlur(np.where(known, np.tanh(ratio / 4), 0).astype(np.float32), (0, 0), max(side / 112, 0.3))


class _Normal:
    """A normal distribution around the median of a sample (P, D)."""

    def __init__(self, sample: np.ndarray, least: float) -> None:
        self.middle = np.median(sample, axis=0)
        centred = sample - self.middle
        covariance = centred.T @ centred / len(sample) + np.diag([least**2] * 3 + [DEPTH_SPREAD**2])
        self.precision = np.linalg.inv(covariance)
        self.constant = -0.5 * np.linalg.slogdet(covariance)[1]

    def log_likelihood(self, values: np.ndarray) -> np.ndarray:
        """(..., D) -> (...), up to a constant that all distributions share."""
        away = values - self.middle
        return self.constant - 0.5 * ((away @ self.precision) * away).sum(axis=-1)


def find_rivals(foreground: np.ndarray, marker: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """Cores of bodies in the foreground that are not the marked cell, (S, S) bool.

    A maximum of the foreground's depth is one if the widest way from it to the marker has a neck; a maximum of the
    depth without the marked cell if it looks like a red cell; a patch if it surely does.
    """
    side = len(foreground)
    inner = depth(foreground)
    peaks = _separate_peaks(inner, marker, evidence)
    free = depth(foreground & ~marker)
    red = _maxima(free) & (evidence > HINT)
    sure = foreground & (evidence > SURE) & ~grown(marker, side / 22)
    return peaks | red | opened(sure, side / 22)


def _maxima(values: np.ndarray) -> np.ndarray:
    """Where a depth is the largest within 1/22 of the side, and more than an edge's, (S, S) bool."""
    import cv2

    side = len(values)
    return (values >= cv2.dilate(values, disc(side / 11))) & (values > side / 30)


def _separate_peaks(inner: np.ndarray, marker: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """Maxima of the depth (S, S) beyond a neck: the more one looks red, the wider the neck may be; (S, S) bool."""
    import cv2

    count, parts = cv2.connectedComponents((_maxima(inner) & ~marker).astype(np.uint8))
    peaks = [parts == label for label in range(1, count)]
    widest = inner[grown(marker, len(inner) / 11)].max()
    found = np.zeros(count, dtype=bool)
    for label, (peak, neck) in enumerate(zip(peaks, _necks(inner, marker, peaks), strict=True), start=1):
        limit = ALIKE + (UNLIKE - ALIKE) * np.clip(evidence[peak].max(), 0, 1)
        found[label] = neck < limit * min(inner[peak].max(), widest)
    return found[parts]


def _necks(inner: np.ndarray, marker: np.ndarray, peaks: list[np.ndarray]) -> list[float]:
    """For each peak the least depth on the widest way to the marker, to one of LEVELS levels; 0 if there is no way."""
    necks = [0.0] * len(peaks)
    for level in np.linspace(inner.max(), 0, LEVELS, endpoint=False):
        if all(necks):
            break
        reached = touching(inner >= level, marker)
        necks = [neck or float(level * reached[peak].any()) for neck, peak in zip(necks, peaks, strict=True)]
    return necks
