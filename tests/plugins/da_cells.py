"""Cells that the tests of the alignment methods of cached features share."""

from __future__ import annotations

import numpy as np

from cellfeat import Cells


def cells_of(domains: dict[str, np.ndarray], targets: tuple[str, ...], label: np.ndarray | None = None) -> Cells:
    """Cells from {domain: (n, D) features}, in this order; labels hidden unless given."""
    names = np.repeat(list(domains), [len(values) for values in domains.values()])
    pooled = np.concatenate(list(domains.values())).astype(np.float32)
    label = np.full(len(names), -1) if label is None else label
    return Cells.from_arrays(label, domain=names, is_target=np.isin(names, targets), pooled=pooled)


def drawn(sizes: dict[str, int], features: int = 5, seed: int = 0) -> dict[str, np.ndarray]:
    """{domain: (n, features) float64} correlated, each domain with its own mean and covariance, exact in float32."""
    rng = np.random.default_rng(seed)
    return {
        name: (
            rng.normal(size=(n, features)) @ (np.eye(features) + 0.3 * rng.normal(size=(features, features)))
            + 2 * rng.normal(size=features)
        )
        .astype(np.float32)
        .astype(np.float64)
        for name, n in sizes.items()
    }


def unsigned(columns: np.ndarray) -> np.ndarray:
    """(n, k) with the first entry of every column positive: two solutions may differ in their axes' directions."""
    return columns * np.sign(columns[0])
