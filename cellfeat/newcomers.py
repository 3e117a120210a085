"""Whether a fitted pipeline answers for a laboratory that it was not fitted on: some methods must adapt to it first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from cellfeat.pipeline import Pipeline
from cellfeat.slots import Context
from cellfeat.types import Cells

FACT = "places_new"  # of a saved pipeline, and of what is shared of it
STRANGER = "a laboratory that nothing was fitted on"


def places_newcomers(pipeline: Pipeline, cells: Cells, context: Context) -> bool:
    """Ask for the class of one of `cells` under the name of an unknown laboratory; nothing of the run is changed."""
    import torch

    context = replace(context, generator=torch.Generator().manual_seed(context.seed))
    try:
        pipeline.predict(replace(cells[np.arange(1)], domain=np.array([STRANGER])), context)
    except Exception:  # UnseenDomainError; an author who raises anything else places it no more
        return False
    return True


def bound_to(about: Mapping[str, Any]) -> str | None:
    """Why a shared pipeline (its cellfeat.json) is of no use to other laboratories, and what is; None where it is.

    Its training cells stay with whoever shared it, so that it cannot adapt to anybody.
    """
    if about.get(FACT) is not False:
        return None
    names = ", ".join(about.get("laboratories", ()))
    return (
        f"it answers for images of {names} alone: its method must adapt to any other laboratory, and the cells that it "
        "was trained on are not shared. For others, share a pipeline of a method that needs no refit (--align none, "
        "say)"
    )
