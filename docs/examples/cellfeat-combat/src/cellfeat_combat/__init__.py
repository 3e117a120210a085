"""ComBat as an align plugin of cellfeat: the method `combat`."""

from __future__ import annotations

from cellfeat import hookimpl

CELLFEAT_API_VERSION = 1  # of the contracts that this plugin is written for


@hookimpl
def cellfeat_align() -> dict[str, type]:
    from cellfeat_combat.combat import Combat  # here, so that listing a hundred plugins loads none of their methods

    return {"combat": Combat}
