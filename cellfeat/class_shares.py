"""Shares of classes among new cells, told by probabilities that hold where the classes had other shares (label shift).

A classifier's probabilities p_k(x) go with the shares s_k of the classes for which they are right, its implied prior.
Where only the shares differ, and cells of a class look as they did, p_k(x) / s_k is the likelihood of class k up to a
factor of the cell, and p'_k(x) ~ p_k(x) t_k / s_k is right for shares t (Saerens, Latinne and Decaestecker, Neural
Computation 14(1), 2002, eq. 2.4). Their EM (eq. 2.9) gives the likeliest t. Few cells leave open what the shares are:
that is the posterior of t under a Dirichlet prior, drawn by data augmentation (Tanner and Wong, Journal of the American
Statistical Association 82, 1987; mixtures: Diebolt and Robert, JRSS B 56, 1994): classes from p', then t from the
classes, in turn.
"""

from __future__ import annotations

import numpy as np

SURE = 1 - 1e-9  # of a cell's largest probability: there is nothing to draw
CHUNK = 250  # cells whose classes are drawn at once
CHAINS = 100  # of the data augmentation, side by side
BURN_IN = 40  # steps of each that are thrown away; it starts at the likeliest shares
JEFFREYS = 0.5  # of every class in the Dirichlet prior
ITERATIONS, TOLERANCE = 500, 1e-6  # of EM, and of the fit of a prior
LEAST = 1e-300


def implied_prior(proba: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(K,) shares s for which (n, K) probabilities of n labelled cells are right, whatever shares these cells have.

    A classifier that was fitted with even weights on uneven classes answers as if they were even. So s is fitted: it is
    the one by which the probabilities, moved from s to the cells' own shares, have the cells' own shares on average,
    which is the likeliest bias of each class (Alexandari, Kundaje and Shrikumar, ICML 2020). Probabilities that are
    right as they are give the cells' shares. Every class counts as one cell more.
    """
    shares = (np.bincount(labels, minlength=proba.shape[1]) + 1) / (len(labels) + proba.shape[1])
    weight = np.ones(proba.shape[1])
    for _ in range(ITERATIONS):
        moved = proba * weight
        mean = (moved / np.maximum(moved.sum(axis=1, keepdims=True), LEAST)).sum(axis=0) + 1
        change = shares * mean.sum() / mean
        weight = weight * change / (weight * change).sum()
        if np.abs(change - 1).max() < TOLERANCE:
            break
    prior = shares / np.maximum(weight, LEAST)
    return prior / prior.sum()


def likeliest(likelihood: np.ndarray) -> np.ndarray:
    """(K,) shares of most posterior density for n cells of (n, K) likelihood, one cell more of each class."""
    cells, width = likelihood.shape
    shares = np.full(width, 1 / width)
    for _ in range(ITERATIONS):
        moved = likelihood * shares
        before, shares = shares, ((moved / moved.sum(axis=1, keepdims=True)).sum(axis=0) + 1) / (cells + width)
        if np.abs(shares - before).max() < TOLERANCE:
            break
    return shares


def drawn_counts(proba: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """(draws, K) int64 cells by class, every one of (n, K) drawn from its row."""
    sure = proba.max(axis=1, initial=0.0) >= SURE
    counts = np.tile(np.bincount(proba[sure].argmax(axis=1), minlength=proba.shape[1]), (draws, 1))
    steps = proba[~sure].cumsum(axis=1)
    steps /= steps[:, -1:]
    for start in range(0, len(steps), CHUNK):
        part = steps[start : start + CHUNK]
        above = rng.random((draws, len(part)))
        reached = [(above < part[:, place]).sum(axis=1) for place in range(part.shape[1])]
        counts += np.diff(np.stack(reached, axis=1), axis=1, prepend=0)
    return counts


def shifted_counts(
    proba: np.ndarray,
    prior: np.ndarray,
    answered: np.ndarray,
    draws: int,
    rng: np.random.Generator,
    held: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(draws, K) cells by class of the answered, and of the others; the shares of the classes are left to the cells.

    proba: (n, K), right for shares `prior` (K,), above 0. answered: (n,) bool. All cells tell the shares.
    held: (K,) cells of each class that told the prior; each chain then has one of its own, its part of a class times
    Gamma(h + 1) / (h + 1), since h cells of a class tell its part to about 1 / sqrt(h) of itself. None: exact.
    """
    width, chains = proba.shape[1], min(CHAINS, draws)
    likelihood = proba / prior
    likelihood /= np.maximum(likelihood.sum(axis=1, keepdims=True), LEAST)
    sure = likelihood.max(axis=1, initial=0.0) >= SURE
    fixed = [np.bincount(likelihood[sure & one].argmax(axis=1), minlength=width) for one in (answered, ~answered)]
    doubtful, there = likelihood[~sure], answered[~sure]
    if not len(doubtful):
        return np.tile(fixed[0], (draws, 1)), np.tile(fixed[1], (draws, 1))
    shares = np.tile(likeliest(likelihood), (chains, 1))
    doubt = np.ones((chains, width)) if held is None else rng.standard_gamma(held + 1.0, (chains, width)) / (held + 1.0)
    steps = -(-draws // chains)
    kept = np.empty((2, steps, chains, width), np.int64)
    for step in range(-BURN_IN, steps):
        counts = _classes(doubtful, there, shares / doubt, rng) + np.array(fixed)[:, None]
        weights = rng.standard_gamma(counts.sum(axis=0) + JEFFREYS)
        shares = weights / weights.sum(axis=1, keepdims=True)
        if step >= 0:
            kept[:, step] = counts
    first, second = kept.reshape(2, -1, width)[:, :draws]
    return first, second


def _classes(likelihood: np.ndarray, answered: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(2, chains, K) cells by class, of the answered and of the others: each drawn once by each chain's shares."""
    chains, width = shares.shape
    found = np.zeros((2, chains, width), np.int64)
    for start in range(0, len(likelihood), 20 * CHUNK):
        part, there = likelihood[start : start + 20 * CHUNK], answered[start : start + 20 * CHUNK]
        above = rng.random((chains, len(part))) * (shares @ part.T)
        reached = np.zeros_like(above)
        before = np.zeros((2, chains), np.int64)
        for place in range(width):
            reached += shares[:, place, None] * part[:, place]
            below = above < reached if place < width - 1 else np.ones(above.shape, bool)
            both = np.stack([below[:, one].sum(axis=1) for one in (there, ~there)])
            found[:, :, place] += both - before
            before = both
    return found
