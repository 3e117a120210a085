"""Align `combat`: laboratories are the batches of ComBat, after Johnson, Li and Rabinovic."""

from __future__ import annotations

from typing import Self

import numpy as np

from cellfeat import CellfeatError, Cells, Context, SavesState, UnseenDomainError
from cellfeat_combat.empirical_bayes import posterior


class Combat(SavesState):
    """ComBat: each laboratory's location and scale of every feature, estimated by empirical Bayes and taken away.

    Johnson, Li and Rabinovic, "Adjusting batch effects in microarray expression data using empirical Bayes methods",
    Biostatistics 8(1):118-127, 2007, with the parametric priors. A feature of a cell is
    x = mean + deviation * (gamma_d + sqrt(delta_d) * noise) in domain d; gamma and delta are drawn towards what the
    domain's other features say of them, which steadies a laboratory with few cells. The adjusted feature is
    mean + deviation * (z - gamma_d) / sqrt(delta_d), z being the standardised one.

    reference: a domain that stays as it is and gives mean and deviation, to which the others are adjusted, as in later
    versions of the authors' program (sva, `ref.batch`). None: mean and deviation of all cells.
    tolerance: where the iteration ends, see `posterior`; it sets digits and nothing else.

    After fit: `gamma_star_` and `delta_star_`, {domain: (D,)}; `grand_mean_` and `pooled_variance_`, (D,) float64.

    Departures: no biological covariates. They would be the classes, and a target's are hidden; hence where
    laboratories hold different shares of the classes, ComBat takes that difference for an effect of the laboratory,
    as every alignment without labels does. A domain of one cell, or of equal cells, has its location adjusted and
    its scale left (sva then does so in all domains). A feature that varies inside no domain stays as it is (in sva: one
    that is constant in any domain), and so does a single domain. The iteration ends where nothing moves by `tolerance`;
    sva's ends sooner, where nothing moves by a ten-thousandth of itself.
    """

    reads, writes, uses_target, uses_labels = ("pooled",), "pooled", True, False

    # Facts that are declared, shown by `cellfeat plugins info combat` and stamped on records.
    several_sources = True
    deterministic = True
    symmetric = True  # source and target rows are treated alike, so that one fit on all domains serves every source
    paper = "Johnson, Li and Rabinovic, Biostatistics 8(1):118-127, 2007, doi:10.1093/biostatistics/kxj037"

    def __init__(self, reference: str | None = None, tolerance: float = 1e-6) -> None:
        if not tolerance > 0:
            raise CellfeatError(f"align 'combat': tolerance must be above 0, got {tolerance:g}; the default is 1e-6")
        self.reference, self.tolerance = reference, tolerance

    def fit(self, cells: Cells, context: Context) -> Self:
        """Learn every domain's location and scale; rows are float64 inside. Raises CellfeatError for the reference."""
        pooled = cells.pooled.astype(np.float64)
        domains = {name: pooled[cells.domain == name] for name in sorted(set(cells.domain.tolist()))}
        self._standardise(domains)
        varies = self.pooled_variance_ > 0
        if len(domains) == 1 or not varies.any():
            what = "one domain alone" if len(domains) == 1 else "no feature that varies inside a domain"
            context.note(f"combat: {what}, so there is nothing to adjust and cells stay as they are")
        self.gamma_star_, self.delta_star_ = {}, {}
        for name, values in domains.items():
            gamma, delta = np.zeros(len(varies)), np.ones(len(varies))
            if varies.any() and len(domains) > 1 and name != self.reference:
                deviation = np.sqrt(self.pooled_variance_[varies])
                standardised = (values[:, varies] - self.grand_mean_[varies]) / deviation
                gamma[varies], delta[varies] = posterior(standardised, self.tolerance)
            self.gamma_star_[name], self.delta_star_[name] = gamma, delta
        return self

    def transform(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, D) float32, each row by itself. Raises UnseenDomainError for a domain that fit was not shown."""
        unseen = set(cells.domain.tolist()) - set(self.gamma_star_)
        if unseen:
            raise UnseenDomainError("combat", unseen, self.gamma_star_)
        pooled = cells.pooled.astype(np.float64)
        for name in sorted(set(cells.domain.tolist())):
            rows, factor = cells.domain == name, 1 / np.sqrt(self.delta_star_[name])
            location = self.grand_mean_ + np.sqrt(self.pooled_variance_) * self.gamma_star_[name]
            # One product and one sum, so that gamma 0 and delta 1 leave a row as it is, to the last bit.
            pooled[rows] = pooled[rows] * factor + (self.grand_mean_ - location * factor)
        return pooled.astype(np.float32)

    def _standardise(self, domains: dict[str, np.ndarray]) -> None:
        """Set the grand mean and the pooled variance inside domains: over all cells, or over the reference's."""
        if self.reference is not None:
            if len(domains.get(self.reference, ())) < 2:
                raise CellfeatError(
                    f"align 'combat': reference {self.reference!r} must be a domain with at least 2 of the cells that "
                    f"are fitted on; there are {', '.join(f'{name} ({len(rows)})' for name, rows in domains.items())}"
                )
            domains = {self.reference: domains[self.reference]}
        self.grand_mean_ = np.concatenate(list(domains.values())).mean(axis=0)
        within = np.concatenate([values - values.mean(axis=0) for values in domains.values()])
        variance = (within**2).mean(axis=0)
        # Below the resolution of float32 a spread is rounding, not signal.
        rounding = np.sqrt(variance) <= np.finfo(np.float32).eps * np.abs(self.grand_mean_)
        self.pooled_variance_ = np.where(rounding, 0.0, variance)
