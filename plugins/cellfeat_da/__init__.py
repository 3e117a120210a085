"""Alignment of pooled features by their moments, as an align plugin; NumPy only."""

from __future__ import annotations

from cellfeat import hookimpl


@hookimpl
def cellfeat_align() -> dict[str, type]:
    from cellfeat_da.coral import Coral
    from cellfeat_da.moments import MeanCentre, NoAlignment, PerDomainZ

    return {"none": NoAlignment, "per-domain-z": PerDomainZ, "mean-centre": MeanCentre, "coral": Coral}
