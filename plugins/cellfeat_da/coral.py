"""Align `coral`: equal means and covariances, after Sun, Feng and Saenko."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np

from cellfeat import CellfeatError, Cells, Context, SavesState
from cellfeat_da.moments import by_domain, require_seen


class Coral(SavesState):
    """Every domain is whitened by its own covariance and recoloured by that of the targets.

    Sun, Feng and Saenko, "Return of Frustratingly Easy Domain Adaptation", AAAI 2016, algorithm 1:
    x -> (x - mean_d) S_d^(-1/2) S_t^(1/2) + mean_t. With one target that domain's rows stay exactly as they are.

    regularise: "ledoit-wolf" shrinks each covariance by its own estimated optimum; "identity" adds 1 to its diagonal,
    as published, which suits features of unit variance.

    Departures: means are aligned too (the paper assumes centred features). Several targets share one space: S_t is the
    covariance of all target rows, each domain's around its own mean, mean_t the mean of all target rows, and the
    targets are mapped there like the sources, each by itself. Without target rows the sources take that place.
    """

    reads, writes, uses_target, uses_labels = ("pooled",), "pooled", True, False
    paper = 'Sun, Feng and Saenko, "Return of Frustratingly Easy Domain Adaptation", AAAI 2016'

    def __init__(self, regularise: Literal["ledoit-wolf", "identity"] = "ledoit-wolf") -> None:
        self.regularise = regularise

    def fit(self, cells: Cells, context: Context) -> Self:
        targets = cells[cells.is_target] if cells.is_target.any() else cells
        groups = by_domain(targets)
        centre = np.concatenate([values for _, values in groups]).mean(axis=0)
        within = np.concatenate([values - values.mean(axis=0) for _, values in groups])
        colour = self._root(within, 0.5, "the targets")
        self.matrix_, self.shift_ = {}, {}
        for name, values in by_domain(cells):
            mean = values.mean(axis=0)
            self.matrix_[name] = self._root(values - mean, -0.5, f"domain {name!r}") @ colour
            self.shift_[name] = centre - mean @ self.matrix_[name]
        if len(groups) == 1:  # whitened and recoloured by one matrix: exactly nothing, not nearly
            name = groups[0][0]
            self.matrix_[name], self.shift_[name] = np.eye(len(centre)), np.zeros(len(centre))
        return self

    def transform(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, D) float32. Raises UnseenDomainError for a domain that fit was not shown."""
        require_seen("coral", cells, self.matrix_)
        aligned = cells.pooled.astype(np.float64)
        for name, matrix in self.matrix_.items():
            rows = cells.domain == name
            aligned[rows] = aligned[rows] @ matrix + self.shift_[name]
        return aligned.astype(np.float32)

    def _root(self, centred: np.ndarray, power: float, whose: str) -> np.ndarray:
        """The regularised covariance of centred (n, D) rows to a power, (D, D)."""
        from sklearn.covariance import ledoit_wolf

        if len(centred) < 2:
            raise CellfeatError(
                f"align 'coral' needs at least 2 cells for a covariance and {whose} has {len(centred)}; "
                "use mean-centre or leave that domain out"
            )
        if self.regularise == "identity":
            covariance = centred.T @ centred / (len(centred) - 1) + np.eye(centred.shape[1])
        else:
            covariance = ledoit_wolf(centred, assume_centered=True)[0]
        values, vectors = np.linalg.eigh(covariance)
        if values.max() < 1e-30:  # cells that are all alike, up to rounding, have no spread to remove
            values = np.ones_like(values)
        # Shrinkage may round to nothing, and then a feature that never varies would have no inverse.
        values = np.maximum(values, values.max() * 1e-6)
        return (vectors * values**power) @ vectors.T
