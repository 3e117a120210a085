"""Recipe × protocol × seed -> predictions. What a fit is shown is decided here."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cellfeat.errors import CellfeatError
from cellfeat.extract import Encoder
from cellfeat.pipeline import Pipeline
from cellfeat.provenance import Peak, peak_memory
from cellfeat.recipe import ProtocolSection, Recipe
from cellfeat.registry import Registry
from cellfeat.results import Prediction, Result, joined, merged
from cellfeat.slots import Context, Progress
from cellfeat.splits import Split, halves, splits
from cellfeat.types import Cells


class Shown(NamedTuple):
    """What a fit is shown: rows of the source, target rows with their labels, target rows without."""

    source: np.ndarray
    shown: np.ndarray
    target: np.ndarray

    @property
    def labelled(self) -> np.ndarray:
        return _rows([self.source, self.shown])

    @property
    def all(self) -> np.ndarray:
        return _rows(self)


class Fit(NamedTuple):
    """A fitted chain, the (N, D) features of what it was fitted on, and what it took."""

    context: Context
    pipeline: Pipeline
    features: np.ndarray
    seconds: float
    peak: Peak


Fits = OrderedDict[Path, Fit]  # by the folder of their checkpoints, which names exactly what was fitted


@dataclass
class Evaluator:
    """Runs a resolved recipe on encoded cells. `scratch` outlives a kill; `classes` names the labels.

    fits: the chains at hand, at most `kept_fits`; evaluators that differ in the classifier alone may share them.
    """

    recipe: Recipe
    registry: Registry
    cells: Cells
    classes: tuple[str, ...]
    context: Context
    encoder: Encoder | None = None
    identity: str = ""  # of data and encoding: tells one run's checkpoints from another's
    fits: Fits = field(default_factory=OrderedDict)
    kept_fits: int = 1

    def __post_init__(self) -> None:
        self._prototype = self._new_pipeline()
        self.saved_recipe = self.recipe  # what a refitted pipeline is saved with
        self._scratch: set[Path] = set()
        self._shared_seconds, self._peak = 0.0, Peak()

    @property
    def adapt(self) -> str:
        """The protocol's adaptation, or "none" when no method of the chain looks at target cells."""
        return self.recipe.protocol.adapt if self._prototype.uses_target else "none"

    def splits(self, seed: int) -> Iterator[Split]:
        protocol = self.recipe.protocol
        found = splits(
            protocol.name,
            self.cells,
            folds=protocol.folds,
            seed=seed,
            sources=protocol.source,
            targets=protocol.target,
            fitted_folds=protocol.fitted_folds,
            shots=protocol.shots,
        )
        for split in found:
            self._prototype.check_sources(split.source)
            yield split

    def fits_of(self, split: Split) -> int:
        """How many chains one split needs, to be kept for the next classifier."""
        apart = len(split.targets) if not self.recipe.protocol.together else 1
        if self.fits_once:
            return apart
        return len(split.folds) * apart * (2 if self.adapt == "heldout" else 1)

    def run(self, split: Split, seed: int) -> Result:
        """Fit and test one source setting; the protocol says whether its targets are adapted to together."""
        apart = not self.recipe.protocol.together and len(split.adaptable) > 1
        if apart and (self.adapt != "none" or split.shown):
            return merged(split, [self._run(part, seed) for part in split.for_each_target()])
        return self._run(split, seed)

    def _run(self, split: Split, seed: int) -> Result:
        started, self._shared_seconds, self._peak = time.monotonic(), 0.0, Peak()
        adapted_to = sorted(split.adaptable) if self.adapt != "none" else []
        names = (split.name, *split.targets)
        result = Result(
            split, seed, self.adapt, dict.fromkeys(names, adapted_to), targets={name: [] for name in split.targets}
        )
        with peak_memory(self.context.device) as peak:
            if self.fits_once:
                fit = self._fitted_once(result, split, seed)
            else:
                with self._progress(split) as bar:
                    for number in range(len(split.folds)):
                        fit = self._fold(result, split, seed, number)
                        bar.advance()
        result.peak = peak.or_more(self._peak)
        result.uses_shown = self._prototype.uses_target or not self._prototype.has_own_head
        result.weights_saw = fit.pipeline.weights_saw
        result.histories = fit.pipeline.histories
        result.seconds = time.monotonic() - started + self._shared_seconds
        return result

    def refit(self, split: Split, seed: int) -> Pipeline:
        """One pipeline on all source rows, adapted to every target of the split where the protocol adapts."""
        rows = Shown(split.rows, _rows(split.shown.values()), self._adapt_rows(split))
        if self.fits_once:
            fit, features_of = self._fit_once(split, seed)
            self._fit_classifier(fit, rows, features_of(rows.all))
        else:
            fit = self._fit_align(rows, seed)
            self._fit_classifier(fit, rows, fit.features)
        return fit.pipeline

    @property
    def fits_once(self) -> bool:
        """A label-free method under `adapt: test` is fitted once for the source, as published, not once per fold."""
        return self.adapt == "test" and not self._prototype.uses_labels

    def _adapt_rows(self, split: Split) -> np.ndarray:
        return _rows(split.adaptable.values() if self.adapt != "none" else ())

    def _fit_classifier(self, fit: Fit, rows: Shown, features: np.ndarray) -> None:
        """The classifier on labelled rows, then corrections on adapted rows; `features` are of `rows`, in order."""
        pipeline, labelled = fit.pipeline, rows.labelled
        pipeline.fit_classifier(self.registry, self.cells[labelled], features[: len(labelled)], fit.context)
        pipeline.fit_adjust(self.cells[rows.target].hide_labels(), fit.context, features[len(labelled) :])

    def clear_scratch(self) -> None:
        """Remove the checkpoints of these fits, once everything that came of them is saved."""
        for folder in self._scratch:
            shutil.rmtree(folder, ignore_errors=True)

    def _fit_align(self, rows: Shown, seed: int) -> Fit:
        """Fit the chain on these rows; asked for the same rows again, the fit that is at hand is given."""
        cells = self._visible(rows)
        context = self._context(seed, rows)
        found = self.fits.get(context.scratch)
        if found is None:
            started = time.monotonic()
            pipeline = self._new_pipeline()
            with peak_memory(context.device) as peak:
                features = pipeline.fit_align(cells, context)
            found = Fit(context, pipeline, features, time.monotonic() - started, peak)
            self.fits[context.scratch] = found
            while len(self.fits) > self.kept_fits:
                self.fits.popitem(last=False)
        else:
            self._shared_seconds += found.seconds
        self._peak = self._peak.or_more(found.peak)
        return found._replace(pipeline=replace(found.pipeline, recipe=self.recipe, head=None))

    def _fit_once(self, split: Split, seed: int) -> tuple[Fit, Callable[[np.ndarray], np.ndarray]]:
        """One fit on all rows of a split, and what gives the features of any of them.

        Methods that treat source and target alike are fitted once for all sources: on every row of all the domains.
        """
        shown, target = _rows(split.shown.values()), self._adapt_rows(split)
        rows = Shown(split.rows, shown, target)
        if all(getattr(one, "symmetric", False) and one.uses_target for one in self._prototype.aligners):
            inside = np.flatnonzero(np.isin(self.cells.domain, split.source))
            rows = Shown(shown[:0], shown[:0], np.unique(np.concatenate([inside, shown, target])))
        fit = self._fit_align(rows, seed)
        fit.pipeline.fitted_classes = np.unique(self.cells.label[np.concatenate([split.rows, shown])])
        place = {int(row): i for i, row in enumerate(rows.all)}
        return fit, lambda wanted: fit.features[[place[int(row)] for row in wanted]]

    def _fitted_once(self, result: Result, split: Split, seed: int) -> Fit:
        """The chain fitted once, a classifier per fold."""
        shown, target = _rows(split.shown.values()), self._adapt_rows(split)
        fit, of = self._fit_once(split, seed)
        with self._progress(split) as bar:
            for number, fold in enumerate(split.folds):
                part = Shown(fold.train, shown, target)
                self._fit_classifier(fit, part, of(part.all))
                result.inside.append(self._predict(fit, number, fold.test, of(fold.test)))
                for name, scored in split.targets.items():
                    result.targets[name].append(self._predict(fit, number, scored, of(scored)))
                bar.advance()
        return fit

    def _fold(self, result: Result, split: Split, seed: int, number: int) -> Fit:
        """One fold: the chain and the classifier see its training rows, and target rows as the protocol allows."""
        fold, shown = split.folds[number], _rows(split.shown.values())
        if self.adapt == "heldout":
            parts = [(half, other) for half, other in zip(*self._halves(split), strict=True)]
        else:
            parts = [(split.targets, self._adapt_rows(split))]
        answers: dict[str, list[Prediction]] = {name: [] for name in split.targets}
        for part, (scored, target) in enumerate(parts):
            rows = Shown(fold.train, shown, target)
            fit = self._fit_align(rows, seed)
            self._fit_classifier(fit, rows, fit.features)
            if part == 0:
                result.inside.append(self._predict(fit, number, fold.test))
            for name, wanted in scored.items():
                answers[name].append(self._predict(fit, number, wanted))
        for name, pieces in answers.items():
            result.targets[name].append(joined(pieces))
        return fit

    def _progress(self, split: Split) -> AbstractContextManager[Progress]:
        return self.context.progress(len(split.folds), f"{split.name}: folds")

    def _halves(self, split: Split) -> tuple[list[dict[str, np.ndarray]], list[np.ndarray]]:
        """`adapt: heldout`: ([scored rows by target], [adapted rows]) for either half of every target."""
        pairs = {name: halves(self.cells, rows) for name, rows in split.adaptable.items()}
        scored = [{name: np.intersect1d(rows, pairs[name][i]) for name, rows in split.targets.items()} for i in (0, 1)]
        return scored, [_rows(pair[1 - i] for pair in pairs.values()) for i in (0, 1)]

    def _predict(self, fit: Fit, fold: int, rows: np.ndarray, features: np.ndarray | None = None) -> Prediction:
        classes, proba = fit.pipeline.predict(self.cells[rows].hide_labels(), fit.context, features)
        return Prediction(fold, rows, classes, proba)

    def _visible(self, rows: Shown) -> Cells:
        """Labelled rows of source and target with their labels, then target rows without."""
        cells = self.cells[rows.all].with_target(np.arange(len(rows.source), len(rows.all)))
        return cells.hide_labels(np.arange(len(rows.labelled), len(rows.all)))

    def _new_pipeline(self) -> Pipeline:
        return Pipeline.build(self.recipe, self.registry, self.classes, self.context, self.encoder)

    def _context(self, seed: int, rows: Shown) -> Context:
        """A context whose scratch folder is named after exactly what is fitted, and whose generator starts anew."""
        import torch

        key = hashlib.sha256(f"{self.identity}|{self._method()}|{self._made_by()}|{seed}".encode())
        for part in (rows.source, rows.shown, rows.target) if len(rows.shown) else (rows.source, rows.target):
            key.update(np.ascontiguousarray(part, np.int64).tobytes() + b"|")
        scratch = self.context.scratch / key.hexdigest()[:20]
        scratch.mkdir(parents=True, exist_ok=True)
        self._scratch.add(scratch)
        return replace(self.context, scratch=scratch, generator=torch.Generator().manual_seed(seed))

    def _made_by(self) -> str:
        """Distribution and version of every aligner: what other code left half done is nothing to go on from."""
        offers = [self.registry.find("align", part.name) for part in self.recipe.align]
        return ",".join(f"{offer.distribution} {offer.version}" for offer in offers)

    def _method(self) -> str:
        return str(self.recipe.model_copy(update={"classifier": None, "protocol": type(self.recipe.protocol)()}).digest)


def _rows(parts: Iterable[np.ndarray]) -> np.ndarray:
    """All rows of several parts, none of no part."""
    return np.concatenate([np.zeros(0, int), *parts])


def check_enough(cells: Cells, n_folds: int, alone: bool = False) -> None:
    """Refuse data that no protocol can use, before any long work. alone: one domain's held-out folds are enough."""
    if len(set(cells.domain.tolist())) == 1 and not alone:
        raise CellfeatError(
            f"all {len(cells)} cells belong to the domain {str(cells.domain[0])!r}; comparisons between laboratories "
            "need at least two (merge manifests of several laboratories with `cellfeat data merge`)"
        )
    if len(cells) < n_folds:
        raise CellfeatError(f"{len(cells)} cells cannot be divided into {n_folds} folds")


def check_cells(cells: Cells, protocol: ProtocolSection, context: Context) -> None:
    """As `check_enough`; one laboratory alone is tested on itself where the protocol can, and told of."""
    check_enough(cells, protocol.folds, alone=protocol.name == "cross-domain")
    if len(set(cells.domain.tolist())) == 1:
        context.note(
            f"all cells are {cells.domain[0]}'s: tested on its own held-out folds alone, which says nothing about any "
            "other laboratory (cellfeat data merge adds one)"
        )
