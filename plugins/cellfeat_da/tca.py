"""Align `tca`: transfer component analysis, directions of a kernel space in which the domains' means agree."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np

from cellfeat import CellfeatError, Cells, Context, SavesState
from cellfeat_da.inputs import require, require_sources, sampled, signed, squared_distances

NEGLIGIBLE = 1e-10  # of the largest eigenvalue: a direction in which cells do not differ beyond rounding


class TransferComponents(SavesState):
    """Transfer component analysis: components with much variance and little distance between source and target means.

    Pan, Tsang, Kwok and Yang, "Domain Adaptation via Transfer Component Analysis", IEEE Transactions on Neural Networks
    22(2), 2011: minimise tr(W^T K L K W) + mu tr(W^T W) subject to W^T K H K W = n I. K (n, n) is the kernel
    matrix, L makes K L K the squared maximum mean discrepancy of source and target rows, H centres. The solution is
    made of the leading eigenvectors of (K L K + mu I)^(-1) K H K. Any cell, of any domain, is placed by its kernel
    values with the n fitted cells.

    kernel: "rbf", exp(-d^2 / median d^2) over pairs of fitted cells, or "linear". components: how many, less where
    cells or features allow no more, which is noted. mu: the larger, the less the distance between the domains counts.
    max_cells: n at most, at most 1000, half of them targets where there are enough; drawn.

    All sources are one side, all targets the other. Without target rows L is 0: variance alone counts.
    Departures: the linear kernel is divided by its mean over a cell and itself, so that mu means the same for features
    of any scale; components are centred on the fitted cells, on which each has variance 1 (the n above is 1 in the
    paper). skada 0.6 sets mu against the other term, its mu is 1 / mu here, and takes the product, which is not
    symmetric, for symmetric.
    """

    reads, writes, uses_target, uses_labels = ("pooled",), "pooled", True, False
    paper = (
        'Pan, Tsang, Kwok and Yang, "Domain Adaptation via Transfer Component Analysis", IEEE Transactions on '
        "Neural Networks 22(2), 2011"
    )

    def __init__(
        self, components: int = 50, kernel: Literal["rbf", "linear"] = "rbf", mu: float = 1.0, max_cells: int = 1000
    ) -> None:
        require("tca", "components", components, components >= 1, "at least 1")
        require("tca", "mu", mu, mu > 0, "above 0")
        require("tca", "max_cells", max_cells, 2 <= max_cells <= 1000, "between 2 and 1000")
        self.components, self.kernel, self.mu, self.max_cells = components, kernel, mu, max_cells

    def fit(self, cells: Cells, context: Context) -> Self:
        require_sources("tca", cells)
        if len(cells) < 2:
            raise CellfeatError(f"align 'tca' needs at least 2 cells, got {len(cells)}")
        rows = self._drawn(cells.is_target, context)
        self.fitted_ = cells.read("pooled", rows).astype(np.float64)
        self.scale_ = self._scale()
        kernel = self._kernel(self.fitted_)
        self.weights_ = self._solved(kernel, cells.is_target[rows])
        self.centre_ = kernel.mean(axis=0) @ self.weights_
        found = self.weights_.shape[1]
        if found < self.components:
            context.note(f"tca: {found} of {self.components} components, all that cells and features allow")
        return self

    def transform(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, components) float32, for cells of any domain."""
        return (self._kernel(cells.pooled.astype(np.float64)) @ self.weights_ - self.centre_).astype(np.float32)

    def _drawn(self, is_target: np.ndarray, context: Context) -> np.ndarray:
        """Rows to fit on: half of either side, or more of one where the other has fewer."""
        source, target = np.flatnonzero(~is_target), np.flatnonzero(is_target)
        half = self.max_cells // 2
        sources = max(self.max_cells - half, self.max_cells - len(target))
        targets = max(half, self.max_cells - len(source))
        return np.concatenate([sampled(source, sources, context), sampled(target, targets, context)])

    def _scale(self) -> float:
        """What squared distances, or inner products, are divided by."""
        if self.kernel == "linear":
            scale = float((self.fitted_**2).sum(axis=1).mean())
        else:
            squares = squared_distances(self.fitted_, self.fitted_)
            scale = float(np.median(squares[np.triu_indices(len(squares), 1)]))
        return scale if scale > 0 else 1.0

    def _kernel(self, pooled: np.ndarray) -> np.ndarray:
        """(N, D) float64 -> (N, n) kernel values with the fitted cells."""
        if self.kernel == "linear":
            return pooled @ self.fitted_.T / self.scale_
        return np.exp(-squared_distances(pooled, self.fitted_) / self.scale_)

    def _solved(self, kernel: np.ndarray, is_target: np.ndarray) -> np.ndarray:
        """W (n, components), leading ones first."""
        from scipy.linalg import eigh

        n = len(kernel)
        sides = np.zeros(n)  # L is the outer product of this vector with itself
        if is_target.any():
            sides = np.where(is_target, -1 / max(is_target.sum(), 1), 1 / (~is_target).sum())
        discrepancy = kernel @ sides
        centred = kernel - kernel.mean(axis=1, keepdims=True)
        least = max(n - self.components, 0)
        values, vectors = eigh(
            centred @ centred.T,
            np.outer(discrepancy, discrepancy) + self.mu * np.eye(n),
            subset_by_index=[least, n - 1],
        )
        values, vectors = values[::-1], signed(vectors[:, ::-1])
        if values[0] <= 0:
            raise CellfeatError("align 'tca' got cells whose features are all alike; check the backbone and its images")
        kept = values > NEGLIGIBLE * values[0]
        return vectors[:, kept] * np.sqrt(n / values[kept])
