"""What is said of each cell beside its class: how sure the answer is, and whether such cells were learnt from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellfeat.confidence import CONFIDENCE, Confidence, check_coverage
from cellfeat.datasets import Dataset
from cellfeat.errors import CellfeatError
from cellfeat.fitted_pipelines import Opened
from cellfeat.novelty import CutOut, Novelty, Reference
from cellfeat.novelty_remarks import Remedies
from cellfeat.pipeline import Pipeline
from cellfeat.types import UNLABELED, Cells

BETWEEN = "|"  # the classes of a set, in a table


@dataclass(frozen=True)
class Wanted:
    """What is asked for beside labels.

    abstain: below this probability there is no answer; None: every cell is answered. coverage: of prediction sets, such
    as 0.9; None: no sets. raw: probabilities as the method gave them, not calibrated; sets are made of calibrated ones
    all the same.

    Raises: CellfeatError for an `abstain` outside 0..1, or a coverage that is no share between 0 and 1.
    """

    abstain: float | None = None
    coverage: float | None = None
    raw: bool = False

    def __post_init__(self) -> None:
        if self.abstain is not None and not 0 <= self.abstain <= 1:
            raise CellfeatError(f"abstaining below {self.abstain:g}: it is a probability from 0 to 1, such as 0.8")
        if self.coverage is not None:
            check_coverage(self.coverage)

    def check(self, folder: Path) -> None:
        """Raises: CellfeatError for sets of a pipeline that was saved without what they are made by, and where a
        class's name would make two of one in a table."""
        if self.coverage is None:
            return
        confidence = Confidence.read(folder)
        if confidence is None:
            raise no_scores(folder)
        for name in confidence.classes:
            if BETWEEN in name:
                raise CellfeatError(
                    f"--coverage: a class of {folder} is called {name!r}, and the classes of a set are written with "
                    f"{BETWEEN} between them; leave --coverage out, or run again with a name without {BETWEEN}"
                )


def no_scores(folder: Path) -> CellfeatError:
    """What to do where a pipeline was saved without what sets are made by."""
    return CellfeatError(
        f"{folder} has no {CONFIDENCE}, the scores of held-out cells that sets are made by; run again with this "
        "version of cellfeat, or ask for no sets"
    )


def known(folder: Path, classes: Sequence[str]) -> Confidence | None:
    """What a pipeline's folder knows of its probabilities; None where it was saved without.

    Raises: CellfeatError where that is damaged, or another pipeline's.
    """
    confidence = Confidence.read(folder)
    if confidence is not None and confidence.classes != tuple(classes):
        raise CellfeatError(
            f"{folder / CONFIDENCE} is another pipeline's: its classes are {', '.join(confidence.classes)}, and not "
            f"{', '.join(classes)}"
        )
    return confidence


AS_EVER = Wanted()


@dataclass(frozen=True)
class Verdicts:
    """Answers for N cells, in their order.

    chosen: (N,) int64 into `classes`. proba: (N, K) float, calibrated where the run knows how. answered: (N,) bool,
    False where the method abstains. sets: (N, K) bool, the classes in each prediction set, None where none are wanted.
    novelty: how far the cells are from those that the run learnt from; None for a run that did not keep that. wanted:
    what was asked for. calibrated: whether `proba` is. given: (N,) bool, cells that were fitted on with their label,
    whose answer is this label with certainty, None where there are none: no method is asked what it was told. prior: K
    shares of the classes for which `proba` is right, as the run's held-out cells told; None for a run that did not
    keep that. held: how many (groups) of each class these were.
    """

    classes: tuple[str, ...]
    chosen: np.ndarray
    proba: np.ndarray
    answered: np.ndarray
    sets: np.ndarray | None = None
    novelty: Novelty | None = None
    wanted: Wanted = AS_EVER
    calibrated: bool = False
    given: np.ndarray | None = None
    prior: tuple[float, ...] | None = None
    held: tuple[int, ...] | None = None

    def columns(self) -> dict[str, Sequence[str]]:
        """{name: N texts} of a table, in the order of writing: after label and probability, before the classes' own."""
        found: dict[str, Sequence[str]] = {}
        if self.wanted.abstain is not None:
            found["best_label"] = [self.classes[one] for one in self.chosen]
        if self.sets is not None:
            found["set"] = [BETWEEN.join(np.array(self.classes)[one]) for one in self.sets]
        if self.given is not None:
            found["corrected"] = ["yes" if one else "no" for one in self.given]
        if self.novelty is not None:
            found["novelty"] = [f"{value:.6g}" for value in self.novelty.score]
            found["novel"] = ["yes" if one else "no" for one in self.novelty.novel]
        return found

    def labels(self) -> list[str]:
        """Class names; "" where the method abstains."""
        return [self.classes[one] if sure else "" for one, sure in zip(self.chosen, self.answered, strict=True)]


def judged(
    opened: Opened,
    pipeline: Pipeline,
    dataset: Dataset,
    cells: Cells,
    wanted: Wanted,
    given: np.ndarray | None = None,
    cut_out: CutOut | None = None,
) -> Verdicts:
    """Classes, probabilities and doubts of encoded cells, by a pipeline of a run or one fitted again on it.

    given: (N,) int64 labels that the pipeline was shown of these very cells, -1 of the others. cut_out: of cells of
    whole photographs, where they are from.

    Says on stderr for which classes no coverage can be promised.

    Raises: CellfeatError as `Wanted.check` and `known` do.
    """
    wanted.check(opened.folder)
    confidence = known(opened.folder, pipeline.classes)
    chosen, raw = pipeline.predict(cells, opened.context)
    chosen, raw = _with_given(chosen, raw, given)
    proba = raw if confidence is None else confidence.calibrated(raw)
    sets = None
    if confidence is not None and wanted.coverage is not None:
        sets = confidence.sets(proba, wanted.coverage)
        sets = sets if given is None else np.where((given != UNLABELED)[:, None], proba == 1, sets)
        for remark in _remarks(confidence, wanted.coverage):
            opened.context.note(remark)
    told = raw if wanted.raw else proba
    reference, can = Reference.read(opened.folder), remedies(opened, pipeline)
    return Verdicts(
        tuple(pipeline.classes),
        chosen,
        told,
        np.ones(len(chosen), bool) if wanted.abstain is None else told.max(axis=1) >= wanted.abstain,
        sets,
        None if reference is None else reference.judge(dataset, cells, opened.encoder, can, cut_out),
        wanted,
        confidence is not None and not wanted.raw,
        None if given is None else given != UNLABELED,
        None if confidence is None else confidence.prior,
        None if confidence is None else tuple(one.groups for one in confidence.by_class),
    )


def _with_given(chosen: np.ndarray, proba: np.ndarray, given: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The answers with those that a person gave in the place of what the fit, which was shown them, makes of them."""
    if given is None:
        return chosen, proba
    told, certain = given != UNLABELED, np.eye(proba.shape[1])
    return np.where(told, given, chosen), np.where(told[:, None], certain[given], proba)


def _remarks(confidence: Confidence, coverage: float) -> Iterator[str]:
    """What sets of this coverage promise, and for which classes nothing."""
    unit = "patients or groups" if confidence.grouped else "cells"
    yield (
        f"sets: {100 * coverage:g} % of the cells of each class have it in their set if they are like the source's, as "
        f"its held-out {unit} tell; of another laboratory's cells fewer may"
    )
    few = confidence.unpromised(coverage)
    if few:
        told = ", ".join(f"{name} ({count})" for name, count in few.items())
        yield f"sets: too few held-out {unit} for that coverage, so in every set: {told}"


def remedies(opened: Opened, pipeline: Pipeline) -> Remedies:
    """What can be done where cells are unlike those that the saved pipeline learnt from, `pipeline` being in use."""
    refitted = pipeline is not opened.pipeline
    facts = opened.pipeline.facts
    again = opened.pipeline.uses_target and not refitted and not facts.get("shared") and "dataset" in facts
    return Remedies(again, refitted, any(aligner.writes == "image" for aligner in pipeline.aligners))
