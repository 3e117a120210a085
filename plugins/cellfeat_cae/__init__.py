"""The cross-domain autoencoder of DoRL as an align plugin."""

from __future__ import annotations

from cellfeat import hookimpl


@hookimpl
def cellfeat_align() -> dict[str, type]:
    from cellfeat_cae.cae import Cae

    return {"cae": Cae}
