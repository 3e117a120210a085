"""Recipe × protocol × seed -> records. Here, and only here, the labels of target cells are looked at: to score."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cellfeat import metrics
from cellfeat.errors import CellfeatError
from cellfeat.extract import Encoder
from cellfeat.pipeline import Pipeline
from cellfeat.recipe import Recipe
from cellfeat.registry import Registry
from cellfeat.slots import Context, Progress
from cellfeat.splits import Split, halves, splits
from cellfeat.types import Cells


@dataclass(frozen=True)
class Prediction:
    """One model's answers for the cells `rows`: (n,) classes and (n, K) probabilities."""

    fold: int
    rows: np.ndarray
    classes: np.ndarray
    proba: np.ndarray


@dataclass
class Result:
    """All that came of one source setting under one seed."""

    split: Split
    seed: int
    adapt: str  # what was done: "none" when no method asks for target cells
    adapted_to: list[str]
    inside: list[Prediction] = field(default_factory=list)  # each fold's model on its held-out fold
    targets: dict[str, list[Prediction]] = field(default_factory=dict)  # each fold's model on the whole target
    weights_saw: tuple[str, ...] | None = ()  # data that pretrained weights in it have seen; None: not known
    seconds: float = 0.0


@dataclass
class Evaluator:
    """Runs a resolved recipe on encoded cells. `scratch` outlives a kill; `classes` names the labels."""

    recipe: Recipe
    registry: Registry
    cells: Cells
    classes: tuple[str, ...]
    context: Context
    encoder: Encoder | None = None
    identity: str = ""  # of data and encoding: tells one run's checkpoints from another's

    def __post_init__(self) -> None:
        self._prototype = self._new_pipeline()
        self.saved_recipe = self.recipe  # what a refitted pipeline is saved with
        self._last: tuple[Context, Pipeline, np.ndarray] | None = None
        self._scratch: set[Path] = set()

    @property
    def adapt(self) -> str:
        """The protocol's adaptation, or "none" when no method of the chain looks at target cells."""
        return self.recipe.protocol.adapt if self._prototype.uses_target else "none"

    def splits(self, seed: int) -> Iterator[Split]:
        protocol = self.recipe.protocol
        return splits(
            protocol.name,
            self.cells,
            folds=protocol.folds,
            seed=seed,
            sources=protocol.source,
            targets=protocol.target,
        )

    def run(self, split: Split, seed: int) -> Result:
        """Fit and test one source setting."""
        started = time.monotonic()
        adapt_rows = _rows(split.adaptable.values())
        adapted_to = sorted(split.adaptable) if self.adapt != "none" else []
        result = Result(split, seed, self.adapt, adapted_to, targets={name: [] for name in split.targets})
        if self.adapt == "test" and not self._prototype.uses_labels:
            self._fitted_once(result, split, seed, adapt_rows)
        else:
            with self._progress(split) as bar:
                for number in range(len(split.folds)):
                    self._fold(result, split, seed, number, adapt_rows)
                    bar.advance()
        result.weights_saw = self._last[1].weights_saw if self._last else ()
        result.seconds = time.monotonic() - started
        return result

    def refit(self, split: Split, seed: int) -> Pipeline:
        """One pipeline on all source rows, adapted to every target of the split where the protocol adapts."""
        adapt = _rows(split.adaptable.values() if self.adapt != "none" else ())
        context, pipeline, features = self._fit_align(split.rows, adapt, seed)
        self._fit_classifier(pipeline, context, split.rows, adapt, features)
        return pipeline

    def _fit_classifier(
        self, pipeline: Pipeline, context: Context, source: np.ndarray, adapt: np.ndarray, features: np.ndarray
    ) -> None:
        """The classifier on source rows, then corrections on adapted rows; `features` are of both, in this order."""
        pipeline.fit_classifier(self.registry, self.cells[source], features[: len(source)], context)
        pipeline.fit_adjust(self.cells[adapt].hide_labels(), context, features[len(source) :])

    def clear_scratch(self) -> None:
        """Remove the checkpoints of these fits, once everything that came of them is saved."""
        for folder in self._scratch:
            shutil.rmtree(folder, ignore_errors=True)

    def _fit_align(self, source: np.ndarray, target: np.ndarray, seed: int) -> tuple[Context, Pipeline, np.ndarray]:
        """Fit the chain on these rows; asked for the same rows again, the fit that is at hand is given."""
        context = self._context(seed, source, target)
        if self._last is None or self._last[0].scratch != context.scratch:
            pipeline = self._new_pipeline()
            features = pipeline.fit_align(self._with_targets(source, target), context)
            self._last = (context, pipeline, features)
        return self._last

    def _fitted_once(self, result: Result, split: Split, seed: int, adapt_rows: np.ndarray) -> None:
        """A label-free method under `adapt: test`: one fit for the source, as published; a classifier per fold."""
        context, pipeline, features = self._fit_align(split.rows, adapt_rows, seed)
        place = {int(row): i for i, row in enumerate(np.concatenate([split.rows, adapt_rows]))}

        def of(rows: np.ndarray) -> np.ndarray:
            return features[[place[int(row)] for row in rows]]

        with self._progress(split) as bar:
            for number, fold in enumerate(split.folds):
                both = np.concatenate([of(fold.train), of(adapt_rows)])
                self._fit_classifier(pipeline, context, fold.train, adapt_rows, both)
                result.inside.append(self._predict(pipeline, context, number, fold.test, of(fold.test)))
                for name, rows in split.targets.items():
                    result.targets[name].append(self._predict(pipeline, context, number, rows, of(rows)))
                bar.advance()

    def _fold(self, result: Result, split: Split, seed: int, number: int, adapt_rows: np.ndarray) -> None:
        """One fold: the chain and the classifier see its training rows, and target rows as the protocol allows."""
        fold = split.folds[number]
        if self.adapt == "heldout":
            parts = [(half, other) for half, other in zip(*self._halves(split), strict=True)]
        else:
            parts = [(split.targets, adapt_rows if self.adapt == "test" else adapt_rows[:0])]
        answers: dict[str, list[Prediction]] = {name: [] for name in split.targets}
        for part, (scored, shown) in enumerate(parts):
            context, pipeline, features = self._fit_align(fold.train, shown, seed)
            self._fit_classifier(pipeline, context, fold.train, shown, features)
            if part == 0:
                result.inside.append(self._predict(pipeline, context, number, fold.test))
            for name, rows in scored.items():
                answers[name].append(self._predict(pipeline, context, number, rows))
        for name, pieces in answers.items():
            result.targets[name].append(_joined(pieces))

    def _progress(self, split: Split) -> AbstractContextManager[Progress]:
        return self.context.progress(len(split.folds), f"{split.name}: folds")

    def _halves(self, split: Split) -> tuple[list[dict[str, np.ndarray]], list[np.ndarray]]:
        """`adapt: heldout`: ([scored rows by target], [adapted rows]) for either half of every target."""
        pairs = {name: halves(self.cells, rows) for name, rows in split.adaptable.items()}
        scored = [
            {name: pairs[name][i][self.cells.label[pairs[name][i]] >= 0] for name in split.targets} for i in (0, 1)
        ]
        return scored, [_rows(pair[1 - i] for pair in pairs.values()) for i in (0, 1)]

    def _predict(
        self, pipeline: Pipeline, context: Context, fold: int, rows: np.ndarray, features: np.ndarray | None = None
    ) -> Prediction:
        classes, proba = pipeline.predict(self.cells[rows].hide_labels(), context, features)
        return Prediction(fold, rows, classes, proba)

    def _with_targets(self, source: np.ndarray, target: Any) -> Cells:
        """Source rows with their labels, then target rows without."""
        rows = np.concatenate([source, np.asarray(target, int)]).astype(int)
        cells = self.cells[rows].with_target(np.arange(len(source), len(rows)))
        return cells.hide_labels(cells.is_target)

    def _new_pipeline(self) -> Pipeline:
        return Pipeline.build(self.recipe, self.registry, self.classes, self.context, self.encoder)

    def _context(self, seed: int, source: np.ndarray, target: np.ndarray) -> Context:
        """A context whose scratch folder is named after exactly what is fitted, and whose generator starts anew."""
        import torch

        key = hashlib.sha256(f"{self.identity}|{self._method()}|{seed}".encode())
        key.update(np.ascontiguousarray(source, np.int64).tobytes() + b"|")
        key.update(np.ascontiguousarray(target, np.int64).tobytes())
        scratch = self.context.scratch / key.hexdigest()[:20]
        scratch.mkdir(parents=True, exist_ok=True)
        self._scratch.add(scratch)
        return replace(self.context, scratch=scratch, generator=torch.Generator().manual_seed(seed))

    def _method(self) -> str:
        return str(self.recipe.model_copy(update={"classifier": None, "protocol": type(self.recipe.protocol)()}).digest)


def _rows(parts: Iterable[np.ndarray]) -> np.ndarray:
    """All rows of several parts, none of no part."""
    return np.concatenate([np.zeros(0, int), *parts])


def _joined(pieces: list[Prediction]) -> Prediction:
    """The halves of one target, in row order again."""
    rows = np.concatenate([piece.rows for piece in pieces])
    order = np.argsort(rows)
    return Prediction(
        pieces[0].fold,
        rows[order],
        np.concatenate([piece.classes for piece in pieces])[order],
        np.concatenate([piece.proba for piece in pieces])[order],
    )


def score(result: Result, cells: Cells, n_classes: int) -> dict[str, metrics.Scored]:
    """Scores by target: the whole of each other domain, and the source itself by its held-out folds."""
    scored = {result.split.name: _score_inside(result.inside, cells, n_classes, result.seed)}
    for name, predictions in result.targets.items():
        answers = np.stack([prediction.classes for prediction in predictions])
        scored[name] = metrics.evaluate(cells.label[predictions[0].rows], answers, n_classes, result.seed)
    return scored


def _score_inside(folds: list[Prediction], cells: Cells, n_classes: int, seed: int) -> metrics.Scored:
    """Every source cell scored once, by the model that did not see it; the spread is over folds."""
    rows = np.concatenate([fold.rows for fold in folds])
    answers = np.concatenate([fold.classes for fold in folds])
    pooled = metrics.evaluate(cells.label[rows], answers, n_classes, seed)
    classes = np.array(pooled.classes, int)
    single = [
        metrics.scores_of(metrics.confusion(cells.label[fold.rows], fold.classes, n_classes), classes) for fold in folds
    ]
    models = {name: [float(one[name]) for one in single] for name in metrics.SCORES}
    return replace(pooled, models=models, std={name: _spread(values) for name, values in models.items()})


def _spread(values: list[float]) -> float:
    """Standard deviation over the folds in which the score means something; NaN when there is none."""
    finite = [value for value in values if np.isfinite(value)]
    return float(np.std(finite)) if finite else float("nan")


def check_enough(cells: Cells, n_folds: int) -> None:
    """Refuse data that no protocol can use, before any long work."""
    if len(set(cells.domain.tolist())) == 1:
        raise CellfeatError(
            f"all {len(cells)} cells belong to the domain {str(cells.domain[0])!r}; a cross-domain run needs "
            "at least two (merge manifests of several laboratories with `cellfeat data merge`)"
        )
    if len(cells) < n_folds:
        raise CellfeatError(f"{len(cells)} cells cannot be divided into {n_folds} folds")
