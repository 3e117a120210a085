"""What several alignment methods ask of their parameters and cells."""

from __future__ import annotations

from typing import Any

import numpy as np

from cellfeat import CellfeatError, Cells, Context, import_extra


def require(method: str, parameter: str, got: float, fits: bool, must: str) -> None:
    """Raise CellfeatError unless a parameter `fits`; `must` says what it must be."""
    if not fits:
        raise CellfeatError(f"align {method!r}: {parameter} must be {must}, got {got:g}")


def require_sources(method: str, cells: Cells) -> None:
    if cells.is_target.all():
        raise CellfeatError(f"align {method!r} got no source cells to fit on; check the protocol's source")


def target_names(cells: Cells) -> list[str]:
    """The domains to adapt to, sorted."""
    return sorted(set(cells.domain[cells.is_target].tolist()))


def sampled(rows: np.ndarray, limit: int, context: Context) -> np.ndarray:
    """These rows, or `limit` of them drawn by the context's generator, in their order."""
    if len(rows) <= limit:
        return rows
    import torch

    return np.sort(rows[torch.randperm(len(rows), generator=context.generator).numpy()[:limit]])


def signed(vectors: np.ndarray) -> np.ndarray:
    """(D, k) columns, each turned so that its largest entry is positive: eigenvectors have no sign of their own."""
    largest = np.abs(vectors).argmax(axis=0)
    return vectors * np.where(vectors[largest, np.arange(vectors.shape[1])] < 0, -1.0, 1.0)


def squared_distances(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n, D), (m, D) -> (n, m) squared Euclidean distances, at least 0."""
    centre = others.mean(axis=0)  # what all have in common would only cost digits
    rows, others = rows - centre, others - centre
    squares = (rows**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * rows @ others.T
    return np.maximum(squares, 0)


def pot(method: str) -> Any:
    """The package POT. Raises CellfeatError where it is not installed: it is an optional extra."""
    for module in ("ot.da", "ot.gaussian"):
        import_extra(module, f"align {method!r}")
    return import_extra("ot", f"align {method!r}")
