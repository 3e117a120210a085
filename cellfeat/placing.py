"""New cells before a finished run's pipeline: opened as it is, or fitted again with them, and with labels of some."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cellfeat.datasets import Dataset
from cellfeat.fitted_pipelines import Opened
from cellfeat.labelled_targets import LabelledTargets
from cellfeat.pipeline import Pipeline
from cellfeat.types import Cells
from cellfeat.workplace import Workplace


class Placed(NamedTuple):
    """What was saved; its pipeline, as it is or fitted again; the encoded cells. given: (N,) int64 labels of those that
    it was shown the labels of, -1 of the others; None where it was shown none."""

    opened: Opened
    pipeline: Pipeline
    cells: Cells
    given: np.ndarray | None = None


def placed(folder: Path, dataset: Dataset, refit: bool, work: Workplace, labelled: Path | None = None) -> Placed:
    """Open a saved pipeline for the cells of a data set, which it is fitted again with as targets where that is asked.

    labelled: a manifest of cells of the same laboratory whose labels are shown to a pipeline that is fitted again.
    """
    opened, shown = ready(folder, dataset.domains, refit, work, labelled)
    return answering(opened, shown, dataset, refit, work)


def ready(
    folder: Path, domains: Sequence[str], refit: bool, work: Workplace, labelled: Path | None = None
) -> tuple[Opened, LabelledTargets | None]:
    """What was saved, and the labelled cells; so that what cannot answer is known before the cells are there.

    Raises: CellfeatError where the pipeline cannot be used, or fitted again, for these laboratories.
    """
    opened = Opened.open(folder, work)
    if refit or labelled is not None:
        opened.check_refit()
    else:
        opened.check_domains(domains)
    return opened, None if labelled is None else LabelledTargets.read(labelled, opened, work)


def answering(opened: Opened, shown: LabelledTargets | None, dataset: Dataset, refit: bool, work: Workplace) -> Placed:
    """What is open for the cells of a data set, which it is fitted again with as targets where that is asked."""
    cells = opened.encoder.encode(dataset, opened.columns)
    if shown is not None:
        return Placed(opened, _refitted_with(shown, opened, dataset, cells, work), cells, shown.given(dataset))
    return Placed(opened, opened.refitted(cells, dataset.digest, work) if refit else opened.pipeline, cells)


def _refitted_with(shown: LabelledTargets, opened: Opened, dataset: Dataset, cells: Cells, work: Workplace) -> Pipeline:
    """Fitted again with labelled cells, each of which is adapted to once, whether or not it is to be answered too."""
    others = cells[shown.others(dataset)]
    pipeline = opened.refitted(others, dataset.digest, work, shown.cells)
    strange = sorted(set(dataset.domains) - set(shown.cells.domain.tolist()))
    if strange:
        work.reporter.note(
            f"the labelled cells are of {', '.join(sorted(set(shown.cells.domain.tolist())))}, the images of "
            f"{', '.join(strange)}: methods that work by laboratory take them for two (--domain names the images')"
        )
    work.reporter.note(shown.agreement(opened, pipeline, work).sentence())
    return pipeline
