"""Align `ot-entropic`: every source cell goes to where an entropic transport plan sends it among the targets."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np

from cellfeat import CellfeatError, Cells, Context, SavesState
from cellfeat_da.inputs import pot, require, require_sources, sampled, squared_distances, target_names
from cellfeat_da.moments import require_seen

METHOD = "ot-entropic"
UNDERFLOW = 500.0  # beyond this cost / reg the plain iteration would round kernels of float64 to nothing
KNOWN_TO_DIFFER = 5.0  # times the largest cost, between cells whose labels are known and differ
AT_ONCE = 4096  # rows compared with the fitted ones at a time
MISPLACED = 0.01  # share of the mass in the wrong place from which on the user is told


class EntropicTransport(SavesState):
    """Entropic optimal transport: a source cell goes to the mean of the targets that it is coupled with.

    Courty, Flamary, Tuia and Rakotomamonjy, "Optimal Transport for Domain Adaptation", TPAMI 39(9), 2017: the plan
    that minimises <plan, cost> - reg entropy(plan) under uniform marginals (Cuturi 2013; POT's Sinkhorn), and the
    barycentric mapping. cost: squared Euclidean distance over its median, so reg has no dimension. A cell
    that is not among the fitted ones moves as the nearest one of its domain does (Ferradans et al., SIAM J. Imaging
    Sciences 7(3), 2014): x + barycentre(x_i) - x_i, for a fitted cell its very barycentre.

    reg: the smaller, the fewer targets a cell is coupled with. max_cells: so many cells of a source domain, and of the
    targets together, are drawn for a plan, at most 2000. iterations: at most, of Sinkhorn. class_regularisation: above
    0, weight of the group term (the lp-l1 one: power 1/2 of the mass that a target gets from each source class, POT's
    `sinkhorn_lpl1_mm`), which keeps cells of two classes from going to one target; only then are labels used.

    Source domains are mapped one by one, to all targets together; target rows stay as they are. Without target rows the
    sources stay too. Departures: where target labels are revealed and used, pairs known to differ cost 5 times the
    largest cost instead of being impossible, so that a class without revealed cells remains possible.
    """

    reads, writes, uses_target, uses_labels = ("pooled",), "pooled", True, False
    paper = 'Courty, Flamary, Tuia and Rakotomamonjy, "Optimal Transport for Domain Adaptation", TPAMI 39(9), 2017'

    def __init__(
        self, reg: float = 0.05, max_cells: int = 1000, class_regularisation: float = 0.0, iterations: int = 1000
    ) -> None:
        require(METHOD, "reg", reg, reg > 0, "above 0")
        require(METHOD, "max_cells", max_cells, 2 <= max_cells <= 2000, "between 2 and 2000")
        require(METHOD, "class_regularisation", class_regularisation, class_regularisation >= 0, "at least 0")
        require(METHOD, "iterations", iterations, iterations >= 1, "at least 1")
        self.reg, self.max_cells, self.class_regularisation = reg, max_cells, class_regularisation
        self.iterations, self.uses_labels = iterations, class_regularisation > 0

    def prepare(self, context: Context) -> None:
        pot(METHOD)

    def fit(self, cells: Cells, context: Context) -> Self:
        require_sources(METHOD, cells)
        self.targets_, self.seen_ = target_names(cells), sorted(set(cells.domain.tolist()))
        self.fitted_, self.image_ = {}, {}
        if not self.targets_:
            return self
        targets = cells[sampled(np.flatnonzero(np.isin(cells.domain, self.targets_)), self.max_cells, context)]
        goal = targets.pooled.astype(np.float64)
        for name in sorted(set(self.seen_) - set(self.targets_)):
            sources = self._drawn(cells, name, context)
            self.fitted_[name] = sources.pooled.astype(np.float64)
            plan = self._plan(self._cost(self.fitted_[name], goal, sources, targets), sources.label, name, context)
            self.image_[name] = plan @ goal / plan.sum(axis=1, keepdims=True)
        return self

    def transform(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, D) float32. Raises UnseenDomainError for a domain that fit was not shown."""
        require_seen(METHOD, cells, self.seen_)
        aligned = cells.pooled.astype(np.float64)
        for name, fitted in self.fitted_.items():
            rows = np.flatnonzero(cells.domain == name)
            for start in range(0, len(rows), AT_ONCE):
                part = rows[start : start + AT_ONCE]
                nearest = squared_distances(aligned[part], fitted).argmin(axis=1)
                # In this order a fitted cell's own difference is exactly 0, and its answer exactly its barycentre.
                aligned[part] = self.image_[name][nearest] + (aligned[part] - fitted[nearest])
        return aligned.astype(np.float32)

    def _drawn(self, cells: Cells, name: str, context: Context) -> Cells:
        """The cells of a source domain that are in its plan; those with a label where labels are used."""
        rows = cells.domain == name
        if self.uses_labels:
            rows &= cells.label >= 0
            if not rows.any():
                raise CellfeatError(
                    f"align {METHOD!r} with class_regularisation needs labelled cells and domain {name!r} has none; "
                    "set class_regularisation to 0 or leave that domain out"
                )
        return cells[sampled(np.flatnonzero(rows), self.max_cells, context)]

    def _cost(self, source: np.ndarray, goal: np.ndarray, sources: Cells, targets: Cells) -> np.ndarray:
        """(n, m) squared distances in units of their median."""
        cost = squared_distances(source, goal)
        cost /= np.median(cost) or cost.max() or 1.0
        if self.uses_labels:
            differ = (sources.label[:, None] != targets.label) & (targets.label >= 0)
            cost[differ] = KNOWN_TO_DIFFER * max(cost.max(), 1.0)
        return cost

    def _plan(self, cost: np.ndarray, label: np.ndarray, name: str, context: Context) -> np.ndarray:
        """(n, m) mass between the cells of domain `name` and the targets; all of it is 1."""
        ot = pot(METHOD)
        source, target = (np.full(count, 1 / count) for count in cost.shape)
        options: dict[str, Any] = {"method": "sinkhorn_log"} if cost.max() / self.reg > UNDERFLOW else {}
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # said below by what it does to the plan
            if self.uses_labels:
                plan = ot.da.sinkhorn_lpl1_mm(
                    source, label, target, cost, self.reg, self.class_regularisation, numInnerItermax=self.iterations
                )
            else:
                plan = ot.sinkhorn(source, target, cost, self.reg, numItermax=self.iterations, **options)
        if not np.isfinite(plan).all() or plan.sum(axis=1).min() <= 0:
            raise CellfeatError(
                f"align {METHOD!r} found no transport plan for domain {name!r} with reg={self.reg:g}: too small for "
                "these cells' distances; give a larger reg"
            )
        misplaced = 0.5 * float(np.abs(plan.sum(axis=1) - source).sum() + np.abs(plan.sum(axis=0) - target).sum())
        if misplaced > MISPLACED:
            context.note(
                f"{METHOD}: {misplaced:.0%} of the mass of domain {name!r} is not where it belongs after "
                f"{self.iterations} iterations; a larger reg or more iterations would place it"
            )
        return plan
