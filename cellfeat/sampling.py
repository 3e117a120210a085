"""Samples with as many of every kind as there can be."""

from __future__ import annotations

import numpy as np


def balanced(strata: np.ndarray, most: int, seed: int, of_each: int | None = None) -> np.ndarray:
    """Rows (m,) int64, sorted, of at most `most` members of (N,) strata, drawn by the seed.

    Every stratum gives as many as any other, or all it has, and at most `of_each`. Where there are more strata than
    `most`, the first ones by name give one each.
    """
    names, place, counts = np.unique(strata, return_inverse=True, return_counts=True)
    quota = max(1, max((q for q in range(1, most + 1) if np.minimum(counts, q).sum() <= most), default=1))
    quota = min(quota, of_each or quota)
    order = np.random.default_rng(seed).permutation(len(strata))
    drawn = [order[place[order] == number][:quota] for number in range(len(names))]
    return np.sort(np.concatenate([*drawn, np.zeros(0, int)])[:most].astype(int))
