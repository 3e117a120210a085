"""What is said of each cell beside its class: how sure the answer is, and whether such cells were learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellfeat.confidence import Confidence
from cellfeat.datasets import Dataset
from cellfeat.fitted_pipelines import Opened
from cellfeat.novelty import Novelty, Reference
from cellfeat.novelty_remarks import Remedies
from cellfeat.pipeline import Pipeline
from cellfeat.types import Cells


@dataclass(frozen=True)
class Wanted:
    """What is asked for beside labels.

    abstain: below this probability there is no answer; None: every cell is answered. coverage: of prediction sets, such
    as 0.9; None: no sets. raw: probabilities as the method gave them, not calibrated.
    """

    abstain: float | None = None
    coverage: float | None = None
    raw: bool = False


AS_EVER = Wanted()


@dataclass(frozen=True)
class Verdicts:
    """Answers for N cells, in their order.

    chosen: (N,) int64 into `classes`. proba: (N, K) float, calibrated where the run knows how. answered: (N,) bool,
    False where the method abstains. sets: (N, K) bool, the classes in each prediction set, None where none are wanted.
    novelty: how far the cells are from those that the run learnt from; None for a run that did not keep that.
    """

    classes: tuple[str, ...]
    chosen: np.ndarray
    proba: np.ndarray
    answered: np.ndarray
    sets: np.ndarray | None = None
    novelty: Novelty | None = None

    def columns(self) -> dict[str, Sequence[str]]:
        """{name: N texts} of a table, in the order of writing: after label and probability, before the classes' own."""
        found: dict[str, Sequence[str]] = {}
        if not self.answered.all():
            found["best_label"] = [self.classes[one] for one in self.chosen]
        if self.sets is not None:
            found["set"] = ["|".join(np.array(self.classes)[one]) for one in self.sets]
        if self.novelty is not None:
            found["novelty"] = [f"{value:.6g}" for value in self.novelty.score]
            found["novel"] = ["yes" if one else "no" for one in self.novelty.novel]
        return found

    def labels(self) -> list[str]:
        """Class names; "" where the method abstains."""
        return [self.classes[one] if sure else "" for one, sure in zip(self.chosen, self.answered, strict=True)]


def judged(opened: Opened, pipeline: Pipeline, dataset: Dataset, cells: Cells, wanted: Wanted) -> Verdicts:
    """Classes, probabilities and doubts of encoded cells, by a pipeline of a run or one fitted again on it.

    Raises: CellfeatError for sets of a run that kept no scores of held-out cells.
    """
    chosen, proba = pipeline.predict(cells, opened.context)
    confidence = Confidence.read(opened.folder)
    if confidence is not None and not wanted.raw:
        proba = confidence.calibrated(proba)
    reference = Reference.read(opened.folder)
    return Verdicts(
        tuple(pipeline.classes),
        chosen,
        proba,
        np.ones(len(chosen), bool) if wanted.abstain is None else proba.max(axis=1) >= wanted.abstain,
        None if wanted.coverage is None else _sets(opened.folder, confidence, proba, wanted.coverage),
        None if reference is None else reference.judge(dataset, cells, opened.encoder, remedies(opened, pipeline)),
    )


def remedies(opened: Opened, pipeline: Pipeline) -> Remedies:
    """What can be done where cells are unlike those that the saved pipeline learnt from, `pipeline` being in use."""
    refitted = pipeline is not opened.pipeline
    facts = opened.pipeline.facts
    again = opened.pipeline.uses_target and not refitted and not facts.get("shared") and "dataset" in facts
    return Remedies(again, refitted, any(aligner.writes == "image" for aligner in pipeline.aligners))


def _sets(folder: Path, confidence: Confidence | None, proba: np.ndarray, coverage: float) -> np.ndarray:
    from cellfeat.errors import CellfeatError

    if confidence is None:
        raise CellfeatError(f"{folder} kept no scores of held-out cells, so that no prediction sets can be made of it")
    return confidence.sets(proba, coverage)
