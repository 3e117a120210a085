"""Samples with as many of every kind as there can be."""

from __future__ import annotations

import numpy as np


def balanced(
    strata: np.ndarray, most: int, seed: int, of_each: int | None = None, within: np.ndarray | None = None
) -> np.ndarray:
    """Rows (m,) int64, sorted, of at most `most` members of (N,) strata, drawn by the seed.

    Every stratum gives as many as any other, or all it has, and at most `of_each`. Where there are more strata than
    `most`, some drawn by the seed give one each; with `within`, (N,) names of what the strata lie in, as many of each.
    """
    names, first, place, counts = np.unique(strata, return_index=True, return_inverse=True, return_counts=True)
    quota = max(1, max((q for q in range(1, most + 1) if np.minimum(counts, q).sum() <= most), default=1))
    quota = min(quota, of_each or quota)
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(strata))
    numbers = np.arange(len(names))
    if len(names) > most:
        numbers = _in_turn(generator.permutation(numbers), None if within is None else within[first])[:most]
    drawn = [order[place[order] == number][:quota] for number in numbers]
    return np.sort(np.concatenate([*drawn, np.zeros(0, int)]).astype(int))


def _in_turn(numbers: np.ndarray, within: np.ndarray | None) -> np.ndarray:
    """The numbers, one of each that they lie in, then a second of each, and so on."""
    if within is None:
        return numbers
    turn = np.zeros(len(numbers), int)
    for name in np.unique(within):
        inside = within[numbers] == name
        turn[inside] = np.arange(inside.sum())
    return numbers[np.argsort(turn, kind="stable")]
