"""Align `skada`: the feature-space adapters of the library skada, by their names there."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from cellfeat import (
    CellfeatError,
    Cells,
    Context,
    import_extra,
    load_estimator,
    load_state,
    save_estimator,
    save_state,
)
from cellfeat_da.inputs import require, require_sources, sampled, target_names
from cellfeat_da.moments import require_seen

METHOD, FILE = "skada", "adapter.skops"
# What fitted adapters are made of, beside what scikit-learn's estimators are.
TRUSTED = (
    *(
        f"skada._mapping.{name}Adapter"
        for name in (
            "CORAL",
            "ClassRegularizerOTMapping",
            "EntropicOTMapping",
            "LinearOTMapping",
            "MMDLSConSMapping",
            "MultiLinearMongeAlignment",
            "OTMapping",
        )
    ),
    *(
        f"skada._subspace.{name}Adapter"
        for name in (
            "SubspaceAlignment",
            "TransferComponentAnalysis",
            "TransferJointMatching",
            "TransferSubspaceLearning",
        )
    ),
    *(f"ot.da.{name}Transport" for name in ("EMD", "Linear", "Sinkhorn", "SinkhornL1l2", "SinkhornLpl1")),
    "ot.da.distribution_estimation_uniform",  # the one function: as many equal shares as there are rows
    "ot.backend.NumpyBackend",
)
Adapter = Literal[
    "CORALAdapter",
    "SubspaceAlignmentAdapter",
    "TransferComponentAnalysisAdapter",
    "TransferJointMatchingAdapter",
    "TransferSubspaceLearningAdapter",
    "LinearOTMappingAdapter",
    "OTMappingAdapter",
    "EntropicOTMappingAdapter",
    "ClassRegularizerOTMappingAdapter",
    "MultiLinearMongeAlignmentAdapter",
    "MMDLSConSMappingAdapter",
]
LABELLED = ("TransferSubspaceLearningAdapter", "ClassRegularizerOTMappingAdapter", "MMDLSConSMappingAdapter")


class SkadaAdapter:
    """Any adapter of skada (Gnassounou et al., arXiv 2407.11676) that moves features, run as the other methods are.

    adapter: its class in skada. params: its own arguments, as in `--set "align.params={reg: 0.5}"`; what is not named
    is skada's default. max_cells: so many cells of a domain, drawn by the seed, are fitted on; several adapters solve
    problems that grow with the cube of their number.

    The sources are skada's domains 1, 2, …, the targets -1, -2, …; a domain that fit was not shown is refused. Labels
    of the sources are shown to the adapters that use them and to no other; target labels to none. Departures: every
    domain is asked for by itself, since an adapter of skada 0.6 that is given exactly what it was fitted on may answer
    in another order; without target cells features stay as they are. Adapters that weight cells or predict labels are
    not offered: they answer for the cells of the fit alone. `coral`, `subspace`, `tca`, `ot-linear` and `ot-entropic`
    are methods of cellfeat's own, without this dependency.
    """

    reads, writes, uses_target, uses_labels = ("pooled",), "pooled", True, False
    paper = "Gnassounou et al., skada, arXiv 2407.11676; each adapter's own in its documentation"

    def __init__(
        self, adapter: Adapter = "CORALAdapter", params: dict[str, Any] | None = None, max_cells: int = 1000
    ) -> None:
        require(METHOD, "max_cells", max_cells, max_cells >= 2, "at least 2")
        self.adapter, self.params, self.max_cells = adapter, params, max_cells
        self.uses_labels = adapter in LABELLED

    def prepare(self, context: Context) -> None:
        with routed():
            self._new()

    def fit(self, cells: Cells, context: Context) -> Self:
        require_sources(METHOD, cells)
        targets = target_names(cells)
        sources = sorted(set(cells.domain.tolist()) - set(targets))
        self.domains_ = {name: number for number, name in enumerate(sources, 1)}
        self.domains_ |= {name: -number for number, name in enumerate(targets, 1)}
        self.fitted_: Any = None
        if not targets:
            context.note("skada: no target cells to adapt to, so features stay as they are")
            return self
        cells = cells[np.concatenate([self._drawn(cells, name, context) for name in self.domains_])]
        domain = np.array([self.domains_[name] for name in cells.domain.tolist()])
        with routed(), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            adapter = self._new()
            label = cells.label if self.uses_labels else None
            try:
                self.fitted_ = adapter.fit(cells.pooled.astype(np.float64), label, sample_domain=domain)
            except (ValueError, RuntimeError, np.linalg.LinAlgError) as error:
                raise CellfeatError(f"align 'skada': {self.adapter} refuses: {_line(error)}") from error
        for text in dict.fromkeys(str(one.message) for one in said if one.category in (UserWarning, RuntimeWarning)):
            if "copy construct" not in text:  # how skada calls torch is nothing to the user
                context.note(f"skada: {self.adapter}: {' '.join(text.split())[:200]}")
        return self

    def transform(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, D) float32, D as the adapter makes it. Raises UnseenDomainError for a domain that fit was not shown."""
        require_seen(METHOD, cells, self.domains_)
        pooled = cells.pooled.astype(np.float64)
        if self.fitted_ is None or not len(cells):
            return pooled.astype(np.float32)
        parts, order = [], []
        with routed():
            for name in sorted(set(cells.domain.tolist())):
                rows = np.flatnonzero(cells.domain == name)
                domain = np.full(len(rows), self.domains_[name])
                parts.append(self.fitted_.transform(pooled[rows], sample_domain=domain, allow_source=True))
                order.append(rows)
        aligned = np.concatenate(parts)
        return aligned[np.argsort(np.concatenate(order))].astype(np.float32)

    def save(self, folder: Path) -> None:
        meta = {"adapter": self.adapter, "params": self.params, "max_cells": self.max_cells, "domains": self.domains_}
        save_state(folder, {}, meta | {"fitted": self.fitted_ is not None})
        if self.fitted_ is not None:
            save_estimator(self.fitted_, Path(folder) / FILE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        _, meta = load_state(folder)
        method = cls(meta["adapter"], meta["params"], meta["max_cells"])
        method.domains_, method.fitted_ = meta["domains"], None
        if meta["fitted"]:
            with routed():
                method.fitted_ = load_estimator(Path(folder) / FILE, TRUSTED)
        return method

    def _new(self) -> Any:
        try:
            return getattr(import_extra("skada", "align 'skada'"), self.adapter)(**(self.params or {}))
        except TypeError as error:
            raise CellfeatError(f"align 'skada': {self.adapter} does not take these params: {_line(error)}") from None

    def _drawn(self, cells: Cells, name: str, context: Context) -> np.ndarray:
        """The rows of a domain that are fitted on; of a source those with a label where labels are used."""
        rows = cells.domain == name
        if self.uses_labels and self.domains_[name] > 0:
            rows &= cells.label >= 0
        return sampled(np.flatnonzero(rows), self.max_cells, context)


@contextmanager
def routed() -> Iterator[None]:
    """skada switches scikit-learn's metadata routing on for the whole process when it is imported; here for a block."""
    import sklearn

    with sklearn.config_context(enable_metadata_routing=True):
        yield


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
