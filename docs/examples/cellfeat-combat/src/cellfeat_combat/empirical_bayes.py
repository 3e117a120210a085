"""ComBat's empirical Bayes: the location and scale of one batch, each feature's drawn towards those of all features."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cellfeat import CellfeatError

MOST_ITERATIONS = 10_000  # it takes some ten; never to end would be worse than to say so


class Adjustment(NamedTuple):
    """What a batch's standardised features are adjusted by: z -> (z - gamma) / sqrt(delta), each (D,) float64."""

    gamma: np.ndarray
    delta: np.ndarray


class Prior(NamedTuple):
    """Method-of-moments hyperparameters of one batch, over its D features.

    gamma ~ Normal(centre, spread); delta ~ InverseGamma whose mean is `scale` and whose variance is `scale_spread`.
    """

    centre: float
    spread: float
    scale: float
    scale_spread: float


def prior(gamma: np.ndarray, delta: np.ndarray) -> Prior:
    """From a batch's means and variances, each (D,); variances over features have D - 1 below, and are 0 for D = 1."""
    ddof = min(1, len(gamma) - 1)
    return Prior(float(gamma.mean()), float(gamma.var(ddof=ddof)), float(delta.mean()), float(delta.var(ddof=ddof)))


def posterior(standardised: np.ndarray, tolerance: float) -> Adjustment:
    """The joint posterior means of one batch's location and scale, (n, D) -> two of (D,).

    Gamma given delta and delta given gamma in turn, until neither moves by `tolerance`, in pooled standard deviations
    and pooled variances. A batch without spread, of one cell or of equal cells, has no scale to estimate:
    its delta is 1 and only its location is adjusted.

    Raises: CellfeatError when that does not come to rest.
    """
    count, mean = len(standardised), standardised.mean(axis=0)
    variance = standardised.var(axis=0, ddof=1) if count > 1 else np.zeros_like(mean)
    given = prior(mean, variance)
    if not variance.any():
        even = np.ones_like(mean)
        return Adjustment(location(count, mean, even, given), even)
    gamma, delta = mean, variance
    for _ in range(MOST_ITERATIONS):
        old_gamma, old_delta = gamma, delta
        gamma = location(count, mean, old_delta, given)
        squares = (count - 1) * variance + count * (mean - gamma) ** 2  # the sum of (z - gamma)^2 over the batch
        delta = scale(count, squares, given)
        if (
            max(np.abs(gamma - old_gamma).max(), np.abs(delta / np.where(old_delta, old_delta, 1) - 1).max())
            < tolerance
        ):
            return Adjustment(gamma, delta)
    raise CellfeatError(
        f"align 'combat' did not come to rest within {MOST_ITERATIONS} iterations; a larger tolerance than "
        f"{tolerance:g} lets it: --set align.tolerance=1e-4"
    )


def location(count: int, mean: np.ndarray, delta: np.ndarray, given: Prior) -> np.ndarray:
    """The posterior mean of gamma, given delta: the batch's own mean, drawn to that of all its features."""
    return (count * given.spread * mean + delta * given.centre) / (count * given.spread + delta)


def scale(count: int, squares: np.ndarray, given: Prior) -> np.ndarray:
    """The posterior mean of delta, given the batch's sum of squares around gamma.

    (b + squares / 2) / (count / 2 + a - 1) with a = (2 s + m^2) / s and b = (m s + m^3) / s, m and s the mean and the
    variance of the variances; multiplied through by s, which is 0 where all features vary alike.
    """
    m, s = given.scale, given.scale_spread
    return (s * squares / 2 + m * s + m**3) / (s * (count / 2 + 1) + m**2)
