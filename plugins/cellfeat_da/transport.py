"""Align `ot-linear`: every source is mapped onto the targets by optimal transport between two Gaussians."""

from __future__ import annotations

from typing import Self

import numpy as np

from cellfeat import CellfeatError, Cells, Context, SavesState
from cellfeat_da.inputs import pot, require, require_sources, target_names
from cellfeat_da.moments import by_domain, require_seen


class LinearTransport(SavesState):
    """Linear optimal transport: the Monge map between Gaussians, from every source domain to all target rows.

    Peyré and Cuturi, "Computational Optimal Transport", 2019, transport between Gaussians, for domain adaptation
    Flamary, Lounici and Ferrari, "Concentration bounds for linear Monge mapping estimation", 2019:
    x -> mean_t + (x - mean_s) A, A = C_s^(-1/2) (C_s^(1/2) C_t C_s^(1/2))^(1/2) C_s^(-1/2), which is POT's
    `ot.gaussian.bures_wasserstein_mapping`. Unlike CORAL's map it moves the cells as little as possible.

    shrinkage: the covariances are (1 - s) C + s trace(C) / D I; None lets Ledoit and Wolf's estimate choose s for each.

    Source domains are mapped one by one, all target rows together are the one Gaussian that they are mapped to, and
    target rows stay as they are. Without target rows the sources stay too. Departures: eigenvalues below 1e-6 of the
    largest are lifted to that, for features that never vary.
    """

    reads, writes, uses_target, uses_labels = ("pooled",), "pooled", True, False
    paper = 'Flamary, Lounici and Ferrari, "Concentration bounds for linear Monge mapping estimation", 2019'

    def __init__(self, shrinkage: float | None = None) -> None:
        if shrinkage is not None:
            require("ot-linear", "shrinkage", shrinkage, 0 <= shrinkage <= 1, "between 0 and 1, or none")
        self.shrinkage = shrinkage

    def prepare(self, context: Context) -> None:
        pot("ot-linear")

    def fit(self, cells: Cells, context: Context) -> Self:
        gaussian = pot("ot-linear").gaussian
        require_sources("ot-linear", cells)
        self.targets_ = target_names(cells)
        self.seen_ = sorted(set(cells.domain.tolist()))
        self.matrix_, self.shift_ = {}, {}
        if not self.targets_:
            return self
        of_target = np.isin(cells.domain, self.targets_)
        mean, covariance = self._moments(cells.pooled[of_target].astype(np.float64), "the targets together")
        for name, values in by_domain(cells[~of_target]):
            own, spread = self._moments(values, f"domain {name!r}")
            matrix, shift = gaussian.bures_wasserstein_mapping(own, mean, spread, covariance)
            self.matrix_[name], self.shift_[name] = matrix, shift.reshape(-1)
        return self

    def transform(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, D) float32. Raises UnseenDomainError for a domain that fit was not shown."""
        require_seen("ot-linear", cells, self.seen_)
        aligned = cells.pooled.astype(np.float64)
        for name, matrix in self.matrix_.items():
            rows = cells.domain == name
            aligned[rows] = aligned[rows] @ matrix + self.shift_[name]
        return aligned.astype(np.float32)

    def _moments(self, values: np.ndarray, whose: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean (D,) and regularised covariance (D, D) of (n, D) rows."""
        from sklearn.covariance import ledoit_wolf, shrunk_covariance

        if len(values) < 2:
            raise CellfeatError(
                f"align 'ot-linear' needs at least 2 cells for a covariance and {whose} has {len(values)}; "
                "use mean-centre or leave that domain out"
            )
        mean = values.mean(axis=0)
        centred = values - mean
        if self.shrinkage is None:
            covariance = ledoit_wolf(centred, assume_centered=True)[0]
        else:
            covariance = shrunk_covariance(centred.T @ centred / len(centred), self.shrinkage)
        eigenvalues, vectors = np.linalg.eigh(covariance)
        if eigenvalues.max() < 1e-30:  # cells that are all alike, up to rounding, have no spread to map
            eigenvalues = np.ones_like(eigenvalues)
        return mean, (vectors * np.maximum(eigenvalues, eigenvalues.max() * 1e-6)) @ vectors.T
