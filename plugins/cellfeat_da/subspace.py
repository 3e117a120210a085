"""Align `subspace`: the principal axes of the sources turned onto those of the targets."""

from __future__ import annotations

from typing import Self

import numpy as np

from cellfeat import CellfeatError, Cells, Context, SavesState
from cellfeat_da.inputs import require, signed, target_names
from cellfeat_da.moments import require_seen


class SubspaceAlignment(SavesState):
    """Subspace alignment: sources go through their own principal axes onto the targets', targets onto theirs.

    Fernando, Habrard, Sebban and Tuytelaars, "Unsupervised Visual Domain Adaptation Using Subspace Alignment", ICCV
    2013, algorithm 1: X_s P_s P_s^T P_t for sources and X_t P_t for targets, P (D, k) the k leading
    principal axes; the classifier sees k features instead of D.

    components: k, less where cells or features are too few for it, which is noted.

    Every domain is centred by its own mean and not scaled, as skada's SubspaceAlignmentAdapter does; the paper
    divides by the standard deviation too (chain it: per-domain-z,subspace). Departures: several sources share one P_s,
    the axes of all source rows, each domain's around its own mean, and so do several targets one P_t. Without target
    rows P_t is P_s: plain principal components.
    """

    reads, writes, uses_target, uses_labels = ("pooled",), "pooled", True, False
    paper = (
        'Fernando, Habrard, Sebban and Tuytelaars, "Unsupervised Visual Domain Adaptation Using Subspace '
        'Alignment", ICCV 2013'
    )

    def __init__(self, components: int = 50) -> None:
        require("subspace", "components", components, components >= 1, "at least 1")
        self.components = components

    def fit(self, cells: Cells, context: Context) -> Self:
        self.targets_ = target_names(cells)
        pooled = cells.pooled.astype(np.float64)
        self.mean_ = {name: pooled[cells.domain == name].mean(axis=0) for name in sorted(set(cells.domain.tolist()))}
        of_target = np.isin(cells.domain, self.targets_)
        centred = pooled - np.stack([self.mean_[name] for name in cells.domain.tolist()])
        sides = {"source": ~of_target} | ({"target": of_target} if self.targets_ else {})
        count = self._count({side: cells[rows] for side, rows in sides.items()}, context)
        axes = {side: _principal_axes(centred[rows], count) for side, rows in sides.items()}
        own, wanted = axes["source"], axes.get("target", axes["source"])
        self.matrix_ = {"source": own @ (own.T @ wanted), "target": wanted}
        return self

    def transform(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, k) float32. Raises UnseenDomainError for a domain that fit was not shown."""
        require_seen("subspace", cells, self.mean_)
        pooled = cells.pooled.astype(np.float64)
        aligned = np.zeros((len(cells), self.matrix_["target"].shape[1]), np.float32)
        for name, mean in self.mean_.items():
            rows = cells.domain == name
            aligned[rows] = (pooled[rows] - mean) @ self.matrix_["target" if name in self.targets_ else "source"]
        return aligned

    def _count(self, sides: dict[str, Cells], context: Context) -> int:
        """k: no more than the axes that either side's centred rows can span."""
        count = self.components
        for side, cells in sides.items():
            spanned = len(cells) - len(set(cells.domain.tolist()))
            if spanned < 1:
                raise CellfeatError(
                    f"align 'subspace' needs at least 2 cells in a domain for principal axes and each {side} domain "
                    f"has fewer ({len(cells)} cells in all); use mean-centre"
                )
            count = min(count, spanned, cells.column("pooled").shape[1])
        if count < self.components:
            context.note(f"subspace: {count} of {self.components} components, all that cells and features allow")
        return count


def _principal_axes(centred: np.ndarray, count: int) -> np.ndarray:
    """(n, D) rows of mean 0 -> (D, count), the eigenvectors of their covariance with the largest eigenvalues."""
    return signed(np.linalg.eigh(centred.T @ centred / len(centred))[1][:, ::-1][:, :count])
