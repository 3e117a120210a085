"""Calibration by one temperature, for probabilities that are there already; the largest one stays the largest."""

from __future__ import annotations

import numpy as np

BOUNDS = (0.05, 20.0)  # of a temperature
LEAST = 1e-12  # a probability whose logarithm is taken, as in `metrics.calibration`


def tempered(proba: np.ndarray, temperature: float) -> np.ndarray:
    """(N, K) probabilities -> p^(1/T), normalised: (N, K) float64.

    For p = softmax(z) this is softmax(z / T) (Guo et al., ICML 2017, eq. 9). Zeros stay zeros, and the first largest of
    a row stays that, also where rounding would make it equal to another one.
    """
    proba = np.asarray(proba, float)
    best, rows = proba.argmax(axis=1), np.arange(len(proba))
    largest = proba[rows, best][:, None]
    powers = (proba / np.where(largest > 0, largest, 1)) ** (1 / temperature)
    found = powers / np.maximum(powers.sum(axis=1, keepdims=True), LEAST)
    strayed = found.argmax(axis=1) != best
    found[rows[strayed], best[strayed]] = np.nextafter(found[strayed].max(axis=1), 2.0)
    return found


def fitted(proba: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of the least mean log loss on (n, K) probabilities of n held-out cells; 1 where there are none.

    Unlike Guo et al. the n cells count as n + 2 of which one was of each class alike, Laplace's rule of succession as
    Platt (1999) has it for his sigmoid: on cells that were all right the log loss alone would want certainty, which n
    cells cannot show. A class without any probability counts for no temperature.
    """
    from scipy.optimize import minimize_scalar

    proba, labels = np.asarray(proba, float), np.asarray(labels, np.int64)
    if not len(labels):
        return 1.0
    doubt = 1 / (len(labels) + 2)
    possible = proba > 0
    target = doubt * possible / np.maximum(possible.sum(axis=1, keepdims=True), 1)
    target[np.arange(len(labels)), labels] += 1 - doubt
    target[~possible] = 0  # no power of nothing is anything
    logs = np.log(np.maximum(proba, LEAST))
    logs -= logs.max(axis=1, keepdims=True)

    def log_loss(log_temperature: float) -> float:
        scaled = np.where(possible, logs / np.exp(log_temperature), -np.inf)
        normal = np.log(np.exp(scaled).sum(axis=1, keepdims=True))
        return -float((target * np.where(possible, scaled - normal, 0)).sum() / len(labels))

    low, high = np.log(BOUNDS)
    return float(np.exp(minimize_scalar(log_loss, bounds=(low, high), method="bounded").x))


def cross_fitted(proba: np.ndarray, labels: np.ndarray, part: np.ndarray) -> np.ndarray:
    """(n, K) probabilities of cells, each tempered as the cells of the other parts want it; part: (n,) int64.

    One part alone is left as it is, since nothing is left to learn from. The models that answered the other parts were
    fitted on this one, as in every cross-fitting: a cell's label has that say, and no other, in its own temperature.
    """
    found = np.array(proba, float)
    for one in np.unique(part):
        own = part == one
        if not own.all():
            found[own] = tempered(proba[own], fitted(proba[~own], labels[~own]))
    return found
