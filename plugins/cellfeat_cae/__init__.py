"""Cross-domain autoencoders as align plugins: DoRL's `cae`, BC-SAM's `bc-sam-ae`, AE-CFE's `ae-cfe`."""

from __future__ import annotations

from cellfeat import hookimpl


@hookimpl
def cellfeat_align() -> dict[str, type]:
    from cellfeat_cae.ae_cfe import AeCfe
    from cellfeat_cae.bc_sam import BcSamAe
    from cellfeat_cae.cae import Cae

    return {"cae": Cae, "bc-sam-ae": BcSamAe, "ae-cfe": AeCfe}
