"""Alignment of pooled features by their moments, and of images by their stain, as an align plugin; NumPy only."""

from __future__ import annotations

from cellfeat import hookimpl


@hookimpl
def cellfeat_align() -> dict[str, type]:
    from cellfeat_da.coral import Coral
    from cellfeat_da.moments import MeanCentre, NoAlignment, PerDomainZ
    from cellfeat_da.stain import Macenko, Reinhard

    stain = {"reinhard": Reinhard, "macenko": Macenko}
    return {"none": NoAlignment, "per-domain-z": PerDomainZ, "mean-centre": MeanCentre, "coral": Coral, **stain}
