"""Deep CORAL as an align plugin of cellfeat: the method `deep-coral`, a network with a head of its own."""

from __future__ import annotations

from cellfeat import hookimpl

CELLFEAT_API_VERSION = 1  # of the contracts that this plugin is written for


@hookimpl
def cellfeat_align() -> dict[str, type]:
    from cellfeat_deep_coral.deep_coral import DeepCoral  # which loads no torch either before it is fitted

    return {"deep-coral": DeepCoral}
