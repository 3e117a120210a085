"""How far feature vectors are from a cloud of others, kept as a mean and a few directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

DIRECTIONS = 64  # at most; more of them bring nothing on real laboratories
CELLS_PER_DIRECTION = 5  # so that no direction is the picture of one cell
LEAST_CELLS = 20
SHRINKAGE = 0.05  # of the mean variance, added to each: the smallest of a sample are too small


@dataclass(frozen=True)
class FeatureCloud:
    """mean (D,), directions (k, D) orthonormal, variance (k,) along them, rest: variance beyond them, in all."""

    mean: np.ndarray
    directions: np.ndarray
    variance: np.ndarray
    rest: float

    @classmethod
    def fit(cls, features: np.ndarray) -> FeatureCloud | None:
        """Of (n, D) features; None of fewer than 20 cells, or of cells that are all alike."""
        count = min(DIRECTIONS, len(features) // CELLS_PER_DIRECTION)
        if len(features) < LEAST_CELLS:
            return None
        mean = features.mean(axis=0, dtype=np.float64)
        _, length, directions = np.linalg.svd(features - mean, full_matrices=False)
        variance = length**2 / (len(features) - 1)
        if variance[0] <= 0:
            return None
        count = min(count, int((variance > 1e-9 * variance[0]).sum()))
        kept = variance[:count] + SHRINKAGE * variance[:count].mean()
        return cls(mean, directions[:count], kept, max(float(variance[count:].sum()), 1e-9 * float(variance[0])))

    def distances(self, features: np.ndarray) -> np.ndarray:
        """(n,) Mahalanobis distances of (n, D) features, the covariance shrunk; what lies beyond the directions counts
        as much as one of them does per direction (Lee et al. 2018, arXiv:1807.03888, there by class; without classes it
        told real laboratories apart as well)."""
        centred = features - self.mean
        along = centred @ self.directions.T
        beyond = np.clip((centred**2).sum(axis=1) - (along**2).sum(axis=1), 0, None)
        squares = (along**2 / self.variance).sum(axis=1) + len(self.variance) * beyond / self.rest
        return np.sqrt(squares)

    def arrays(self) -> dict[str, np.ndarray]:
        """To be saved."""
        return {
            "mean": self.mean.astype(np.float32),
            "directions": self.directions.astype(np.float32),
            "variance": self.variance.astype(np.float64),
            "rest": np.array([self.rest]),
        }

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> FeatureCloud:
        """What `arrays` gave. Raises: KeyError where one is missing, ValueError where they do not fit together."""
        mean, directions, variance = (arrays[name] for name in ("mean", "directions", "variance"))
        if mean.ndim != 1 or directions.shape != (len(variance), len(mean)) or arrays["rest"].shape != (1,):
            raise ValueError("arrays of the features do not fit together")
        return cls(mean.astype(np.float64), directions.astype(np.float64), variance, float(arrays["rest"][0]))
