"""`cellfeat.load`: a finished run, or an estimator that was saved, as an object that answers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cellfeat import estimator_files, records
from cellfeat.cell_classifier import CellClassifier
from cellfeat.console import SilentReporter, TerminalReporter
from cellfeat.errors import CellfeatError
from cellfeat.estimator import CellFeatures
from cellfeat.fitted_pipelines import Opened, pipeline_folder
from cellfeat.given import Given, given
from cellfeat.novelty import ENCODED, Novelty, Reference, measured_images
from cellfeat.pipeline import Pipeline, read_about
from cellfeat.recipe import Recipe
from cellfeat.registry import installed
from cellfeat.run import RECORDS
from cellfeat.types import Cells
from cellfeat.verdicts import remedies
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

    def predict(self, X: Any, domain: Any = None) -> np.ndarray:
        """(N,) names of classes."""
        return self.classes_[self.pipeline.predict(self._cells(X, domain)[0], self.opened.context)[0]]

    def predict_proba(self, X: Any, domain: Any = None) -> np.ndarray:
        """(N, K) probabilities over `classes_`; a class that the source lacks has 0."""
        return self.pipeline.predict(self._cells(X, domain)[0], self.opened.context)[1]

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

    def refit(self, target: Any, domain: Any = None) -> FittedRun:
        """The same methods fitted again on the run's source, with these cells among those adapted to, as `--refit`.

        Labels of `target` are never looked at, and cells of the source's laboratories are left out, with a note: these
        are fitted on already. What is in the run's folder stays as it is.

        Raises: CellfeatError where the run's manifest is no longer what it was.
        """
        self.opened.check_refit()
        cells, digest = self._cells(target, domain)
        return replace(self, pipeline=self.opened.refitted(cells, digest, self.work))

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
