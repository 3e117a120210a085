"""Labelled cells of a new laboratory, as `cellfeat data correct` writes them: shown to a run that is fitted again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cellfeat.datasets import Dataset
from cellfeat.errors import CellfeatError, unknown
from cellfeat.fitted_pipelines import Opened
from cellfeat.manifest import read_rows
from cellfeat.pipeline import Pipeline
from cellfeat.recipe import DatasetSection
from cellfeat.types import UNLABELED, Cells
from cellfeat.workplace import Workplace, load_dataset

PREDICTED = "predicted"  # column of the classes that were answered before the correction
FOLDS = 5


@dataclass(frozen=True)
class Agreement:
    """How often the method's class was the reviewer's, on the labelled cells.

    before: what was answered before they were labelled, None where the manifest does not tell. held_out: of fits that
    were not shown the cell they answer for, None where there were no such fits.
    """

    cells: int
    before: float | None
    held_out: float | None

    def as_dict(self) -> dict[str, Any]:
        return {"cells": self.cells, "agreed_before": self.before, "agreed_held_out": self.held_out}

    def sentence(self) -> str:
        """One line for a person."""
        said = f"{self.cells:,} labelled {'cell is' if self.cells == 1 else 'cells are'} fitted on"
        if self.before is not None:
            said += f"; before, {100 * self.before:.0f} % of them were answered right"
        if self.held_out is None:
            return f"{said}; how well it does now is not known, as every fit was shown them"
        return f"{said}; now {100 * self.held_out:.0f} % are, each by a fit that was not shown it"


@dataclass(frozen=True)
class LabelledTargets:
    """Labelled cells, encoded; digests: (N,) str of their images. predicted: (N,) str, "" where it is not known."""

    cells: Cells
    digests: np.ndarray
    predicted: np.ndarray

    @classmethod
    def read(cls, manifest: Path, opened: Opened, work: Workplace) -> LabelledTargets:
        """From a manifest whose labels are classes of the pipeline.

        Raises: CellfeatError for another class, and where no cell has a label.
        """
        dataset = load_dataset(DatasetSection(manifest=str(manifest)), work)
        labels = _labels(manifest, dataset, opened.pipeline.classes)
        rows = np.flatnonzero(labels != UNLABELED)
        if not len(rows):
            raise CellfeatError(f"--labelled {manifest}: no cell has a label")
        dataset, labels = dataset.select(rows), labels[rows]
        cells = replace(opened.encoder.encode(dataset, opened.columns), label=labels)
        told = {row["id"]: row[PREDICTED] for row in read_rows(manifest)}
        predicted = np.array([told[name] for name in dataset.id.tolist()], dtype=str)
        return cls(cells, np.asarray(dataset.image_digest), predicted)

    def others(self, dataset: Dataset) -> np.ndarray:
        """(M,) int64 rows of a data set whose images are none of the labelled ones."""
        return np.flatnonzero(self.given(dataset) == UNLABELED)

    def given(self, dataset: Dataset) -> np.ndarray:
        """(M,) int64 labels of a data set's images that are among the labelled ones, -1 of all others."""
        known = dict(zip(self.digests.tolist(), self.cells.label.tolist(), strict=True))
        return np.array([known.get(one, UNLABELED) for one in np.asarray(dataset.image_digest).tolist()], np.int64)

    def agreement(self, opened: Opened, pipeline: Pipeline, work: Workplace) -> Agreement:
        """How well the pipeline, fitted again with these cells, does on them."""
        names = np.array(pipeline.classes)[self.cells.label]
        known = self.predicted != ""
        before = float(np.mean(self.predicted[known] == names[known])) if known.any() else None
        return Agreement(len(self.cells), before, self._held_out(opened, pipeline, work))

    def _held_out(self, opened: Opened, pipeline: Pipeline, work: Workplace) -> float | None:
        """The share of cells answered right by classifiers that were fitted without them.

        None where the chain itself has seen the labels, or where too few cells, or patients, can be held out.
        """
        folds = min(FOLDS, len(np.unique(self.cells.group)))
        if pipeline.uses_labels or pipeline.has_own_head or folds < 2:
            return None
        from sklearn.model_selection import GroupKFold

        source, context = opened.source_cells(work)[0], opened.context
        features = [pipeline.features(cells, context) for cells in (source, self.cells)]
        right = np.zeros(len(self.cells), bool)
        split = GroupKFold(folds, shuffle=True, random_state=context.seed)
        for train, test in split.split(features[1], groups=self.cells.group):
            part = replace(pipeline, head=None)
            shown = source.joined(self.cells[train])
            part.fit_classifier(work.registry, shown, np.concatenate([features[0], features[1][train]]), context)
            answers, _ = part.predict(self.cells[test].hide_labels(), context, features[1][test])
            right[test] = answers == self.cells.label[test]
        return float(right.mean())


def _labels(manifest: Path, dataset: Dataset, classes: tuple[str, ...]) -> np.ndarray:
    """(N,) int64 into the pipeline's classes, -1 where there is none."""
    strange = [name for name in dataset.classes if name not in classes]
    if strange:
        raise CellfeatError(f"--labelled {manifest}: {unknown('class of this run', strange[0], classes)}")
    places = np.array([*(classes.index(name) for name in dataset.classes), UNLABELED])
    return places[dataset.label]
