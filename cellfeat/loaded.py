"""`cellfeat.load`: a finished run, or an estimator that was saved, as an object that answers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cellfeat import estimator_files, records
from cellfeat.cell_classifier import CellClassifier
from cellfeat.confidence import Confidence, check_coverage
from cellfeat.console import SilentReporter, TerminalReporter
from cellfeat.errors import CellfeatError, unknown
from cellfeat.estimator import CellFeatures
from cellfeat.fitted_pipelines import Opened, pipeline_folder
from cellfeat.given import Given, given
from cellfeat.labelled_targets import LabelledTargets
from cellfeat.novelty import ENCODED, Novelty, Reference, measured_images
from cellfeat.pipeline import Pipeline, read_about
from cellfeat.recipe import Recipe
from cellfeat.registry import installed
from cellfeat.run import RECORDS
from cellfeat.types import Cells
from cellfeat.verdicts import Wanted, known, no_scores, remedies
from cellfeat.workplace import Workplace

NEW = "new"  # the laboratory of cells that do not say theirs, as for `cellfeat predict`


@dataclass(frozen=True)
class FittedRun:
    """A pipeline of a finished run: what `cellfeat transform` and `predict` use, on cells of any kind.

    X is what `CellFeatures` takes. domain: the laboratory of its cells, a name or (N,) names, before that of a table;
    where nothing says it, it is "new". Answers are in the order of X, for a manifest in the order of the ids.
    """

    folder: Path
    opened: Opened = field(repr=False)
    work: Workplace = field(repr=False)
    pipeline: Pipeline = field(repr=False)
    confidence: Confidence | None = field(default=None, repr=False)  # of `recalibrated`; None: the run's own

    @property
    def classes_(self) -> np.ndarray:
        """(K,) names of the classes."""
        return np.array(self.pipeline.classes)

    @property
    def recipe(self) -> Recipe:
        """What was run, with every parameter."""
        return self.pipeline.recipe

    @property
    def source(self) -> list[str]:
        """The laboratories whose labels were fitted on."""
        return list(self.opened.pipeline.facts["source"])

    @property
    def domains(self) -> list[str]:
        """All laboratories that were seen in fit."""
        return list(self.pipeline.domains)

    @property
    def records(self) -> list[dict[str, Any]]:
        """The run's records about this pipeline's source; none for a pipeline's folder that lies elsewhere."""
        path = self.folder.parent.parent / RECORDS
        found = records.read(path) if path.is_file() else []
        return [record for record in found if record["source"] == self.folder.name]

    def transform(self, X: Any, domain: Any = None) -> np.ndarray:
        """(N, D) float32 aligned features.

        Raises: CellfeatError, an `UnseenDomainError` for a laboratory that the method cannot place: see `refit`.
        """
        return self.pipeline.features(self._cells(X, domain)[0], self.opened.context)

    def predict(self, X: Any, domain: Any = None, *, abstain: float | None = None) -> np.ndarray:
        """(N,) names of classes; "" for a cell whose calibrated probability is below `abstain`, 0..1.

        Raises: CellfeatError for another `abstain`.
        """
        chosen, proba = self._answers(X, domain, Wanted(abstain=abstain))
        names = self.classes_[chosen]
        return names if abstain is None else np.where(proba.max(axis=1) >= abstain, names, "")

    def predict_proba(self, X: Any, domain: Any = None, *, raw: bool = False) -> np.ndarray:
        """(N, K) probabilities over `classes_`, calibrated on the run's held-out source cells; a class that the source
        lacks has 0. raw: as the method gave them, which those of a run without that knowledge always are."""
        return self._answers(X, domain, Wanted(raw=raw))[1]

    def predict_sets(self, X: Any, coverage: float = 0.9, domain: Any = None, *, by_class: bool = True) -> np.ndarray:
        """(N, K) bool: the classes of `classes_` in each cell's conformal prediction set.

        coverage: how many of the cells of each class, or of all where `by_class` is False, have their class in the set,
        of cells like the source's; for another laboratory's nothing is promised.

        Raises: CellfeatError for a coverage that is no share between 0 and 1, and for a run that kept no scores.
        """
        check_coverage(coverage)
        confidence = self._known()
        if confidence is None:
            raise no_scores(self.folder)
        return confidence.sets(self.predict_proba(X, domain), coverage, by_class)

    def recalibrated(self, X: Any, labels: Any, domain: Any = None) -> FittedRun:
        """The same answers, with temperature and scores of labelled cells that nothing was fitted on, such as some of
        another laboratory: what is said of coverage and calibration is then about cells like these.

        labels: (N,) names of classes. Cells of one group count as one for sets, as in a run.

        Raises: CellfeatError for other numbers of labels than cells, and for names that are no classes.
        """
        cells = self._cells(X, domain)[0]
        names = np.asarray(labels, str)
        if names.shape != (len(cells),):
            raise CellfeatError(f"{len(cells)} cells have labels of shape {names.shape}; give one for each")
        strange = sorted(set(names.tolist()) - set(self.pipeline.classes))
        if strange:
            raise CellfeatError(unknown("class of this run", strange[0], self.pipeline.classes))
        label = np.array([self.pipeline.classes.index(name) for name in names.tolist()], np.int64)
        proba = self.pipeline.predict(cells, self.opened.context)[1]
        taught = np.isin(range(len(self.pipeline.classes)), self.pipeline.fitted_classes)
        one = np.zeros(len(cells), np.int64)  # part: halves of the groups stand for folds
        return replace(self, confidence=Confidence.of(proba, label, one, cells.group, self.pipeline.classes, taught))

    def novelty(self, X: Any, domain: Any = None) -> Novelty:
        """How far cells are from those that the pipeline learnt from: score and novel, (N,), and remarks on them all.

        Raises: CellfeatError for features instead of images, and for a run that did not keep what its cells look like.
        """
        reference = Reference.read(self.opened.folder)
        if reference is None:
            raise CellfeatError(f"{self.opened.folder} did not keep what its training cells look like: run again")
        found: Given = given(X, NEW).of(domain, None)
        cells = found.encoded(ENCODED, self.opened.encoder, self.work)[0] if reference.encodes else None
        known = measured_images(len(found), found.images(), cells)
        return reference.judged(known, remedies(self.opened, self.pipeline))

    def refit(self, target: Any, domain: Any = None, labelled: Path | str | None = None) -> FittedRun:
        """The same methods fitted again on the run's source, with these cells among those adapted to, as `--refit`.

        Labels of `target` are never looked at, and cells of the source's laboratories are left out, with a note: these
        are fitted on already. What is in the run's folder stays as it is. labelled: a manifest of cells whose labels
        are fitted on too, as `--labelled`; an image that is also in `target` is adapted to twice.

        Raises: CellfeatError where the run's manifest is no longer what it was, and for labels that are no classes of
        the run.
        """
        self.opened.check_refit()
        shown = None if labelled is None else LabelledTargets.read(Path(labelled), self.opened, self.work).cells
        cells, digest = self._cells(target, domain)
        fitted = self.opened.refitted(cells, digest, self.work, shown)
        return replace(self, pipeline=fitted, confidence=None)  # scores are of the answers of one fit

    def _answers(self, X: Any, domain: Any, wanted: Wanted) -> tuple[np.ndarray, np.ndarray]:
        """((N,) classes, (N, K) probabilities, calibrated but for raw ones)."""
        confidence = self._known()
        chosen, proba = self.pipeline.predict(self._cells(X, domain)[0], self.opened.context)
        return chosen, proba if confidence is None or wanted.raw else confidence.calibrated(proba)

    def _known(self) -> Confidence | None:
        return self.confidence or known(self.folder, self.pipeline.classes)

    def _cells(self, X: Any, domain: Any) -> tuple[Cells, str]:
        found: Given = given(X, NEW).of(domain, None)
        return found.encoded(self.opened.columns, self.opened.encoder, self.work)


def load(
    run: Path | str,
    source: str | None = None,
    *,
    device: str = "auto",
    precision: str = "fp32",
    verbose: bool = False,
) -> FittedRun | CellFeatures | CellClassifier:
    """A run folder's pipeline of a source, one pipeline's folder, or what `CellFeatures.save` wrote.

    source: needed where a run has several. device, precision: as for `cellfeat predict`. verbose: progress and notes on
    stderr.

    Raises: CellfeatError where there is no such thing, and where the weights of its backbone are others now.
    """
    folder = pipeline_folder(Path(run), source)
    kinds: dict[str, type] = {"CellFeatures": CellFeatures, "CellClassifier": CellClassifier}
    if read_about(folder)["facts"].get("made_by") in kinds:
        return estimator_files.load(kinds, folder, device=device, precision=precision, verbose=verbose)
    reporter = TerminalReporter() if verbose else SilentReporter()
    work = Workplace(installed(), reporter, device, precision)
    opened = Opened.open(folder, work)
    return FittedRun(folder, opened, work, opened.pipeline)
