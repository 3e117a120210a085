"""Alignment of pooled features in closed forms and of images by their stain, as an align plugin."""

from __future__ import annotations

from cellfeat import hookimpl


@hookimpl
def cellfeat_align() -> dict[str, type]:
    from cellfeat_da.coral import Coral
    from cellfeat_da.discriminant import BalancedLDA, SelfTrainedLDA
    from cellfeat_da.entropic import EntropicTransport
    from cellfeat_da.importance import ImportanceWeighting
    from cellfeat_da.label_shift import LabelShift
    from cellfeat_da.moments import MeanCentre, NoAlignment, PerDomainZ
    from cellfeat_da.skada import SkadaAdapter
    from cellfeat_da.stain import Macenko, Reinhard
    from cellfeat_da.subspace import SubspaceAlignment
    from cellfeat_da.tca import TransferComponents
    from cellfeat_da.transport import LinearTransport

    return {
        "none": NoAlignment,
        "per-domain-z": PerDomainZ,
        "mean-centre": MeanCentre,
        "coral": Coral,
        "subspace": SubspaceAlignment,
        "ot-linear": LinearTransport,
        "ot-entropic": EntropicTransport,
        "tca": TransferComponents,
        "importance": ImportanceWeighting,
        "label-shift": LabelShift,
        "balanced-lda": BalancedLDA,
        "self-trained-lda": SelfTrainedLDA,
        "reinhard": Reinhard,
        "macenko": Macenko,
        "skada": SkadaAdapter,
    }
