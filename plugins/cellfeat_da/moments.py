"""Aligners that leave the features alone or standardise them domain by domain."""

from __future__ import annotations

from collections.abc import Collection
from typing import Self

import numpy as np

from cellfeat import Cells, Context, SavesState, UnseenDomainError


class NoAlignment(SavesState):
    """Align `none`: the mean over the cell's tokens as it is, the baseline that every alignment has to beat."""

    reads, writes, uses_target, uses_labels = ("pooled",), "pooled", False, False

    def fit(self, cells: Cells, context: Context) -> Self:
        return self

    def transform(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, D) float32, unchanged."""
        return cells.pooled.astype(np.float32, copy=False)


class PerDomainZ(SavesState):
    """Align `per-domain-z`: every domain gets mean 0 and standard deviation 1 in every feature.

    z = (x - mean_d) / std_d over the rows of domain d seen in fit, std with ddof 0. The idea of AdaBN (Li et al.,
    Pattern Recognition 80, 2018) on features instead of batch-norm layers. A feature that is constant in a domain is
    divided by 1.
    """

    reads, writes, uses_target, uses_labels = ("pooled",), "pooled", True, False
    paper = "Li et al., Pattern Recognition 80, 2018 (AdaBN, whose idea it is)"

    def fit(self, cells: Cells, context: Context) -> Self:
        self.mean_, self.std_ = {}, {}
        for name, values in by_domain(cells):
            mean, std = values.mean(axis=0), values.std(axis=0)
            # Below the resolution of float32 a spread is rounding, not signal.
            constant = std <= np.finfo(np.float32).eps * np.abs(mean)
            self.mean_[name], self.std_[name] = mean, np.where(constant, 1.0, std)
        return self

    def transform(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, D) float32. Raises UnseenDomainError for a domain that fit was not shown."""
        require_seen("per-domain-z", cells, self.mean_)
        aligned = cells.pooled.astype(np.float64)
        for name in self.mean_:
            rows = cells.domain == name
            aligned[rows] = (aligned[rows] - self.mean_[name]) / self.std_[name]
        return aligned.astype(np.float32)


class MeanCentre(SavesState):
    """Align `mean-centre`: x - mean_d, over the rows of domain d seen in fit.

    Makes the first moments of all domains equal exactly, which is what the domain term of DoRL's autoencoder (Li et
    al., arXiv 2408.07467) works towards; spread and correlations stay.
    """

    reads, writes, uses_target, uses_labels = ("pooled",), "pooled", True, False

    def fit(self, cells: Cells, context: Context) -> Self:
        self.mean_ = {name: values.mean(axis=0) for name, values in by_domain(cells)}
        return self

    def transform(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, D) float32. Raises UnseenDomainError for a domain that fit was not shown."""
        require_seen("mean-centre", cells, self.mean_)
        aligned = cells.pooled.astype(np.float64)
        for name, mean in self.mean_.items():
            aligned[cells.domain == name] -= mean
        return aligned.astype(np.float32)


def by_domain(cells: Cells) -> list[tuple[str, np.ndarray]]:
    """(domain, its pooled features (n, D) float64), sorted by name."""
    pooled = cells.pooled.astype(np.float64)
    return [(name, pooled[cells.domain == name]) for name in sorted(set(cells.domain.tolist()))]


def require_seen(method: str, cells: Cells, seen: Collection[str]) -> None:
    unseen = set(cells.domain.tolist()) - set(seen)
    if unseen:
        raise UnseenDomainError(method, unseen, seen)
