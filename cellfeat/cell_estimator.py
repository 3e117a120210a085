"""What the estimators share: parameters to methods, cells to a fitted chain, and the way to a file and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from cellfeat import estimator_files
from cellfeat.class_labels import BadLabels, encoded_labels
from cellfeat.console import SilentReporter, TerminalReporter
from cellfeat.errors import CellfeatError
from cellfeat.extract import REUSED, Encoder
from cellfeat.fitted_pipelines import VECTORS, checkpoints, fit_whole, made_by, new_rows, told
from cellfeat.given import Given, given, of_vectors
from cellfeat.pipeline import Pipeline, columns_read, completed
from cellfeat.recipe import Recipe, parse
from cellfeat.registry import Registry, installed
from cellfeat.slots import Context
from cellfeat.types import Cells
from cellfeat.workplace import Workplace, make_encoder

SOURCE, TARGET = "source", "target"  # laboratories that have no name


class Fitted(NamedTuple):
    """What a fit left: the chain, the features (n, D) of the cells of X that it saw, whether these are all of them, and
    the classes behind its labels 0..K-1."""

    pipeline: Pipeline
    features: np.ndarray
    whole: bool
    classes: np.ndarray


class CellEstimator(BaseEstimator):
    """The parameters of `CellFeatures` and `CellClassifier`, which say what they mean."""

    backbone: str | None
    backbone_params: Mapping[str, Any] | None
    segmenter: str | None
    segmenter_params: Mapping[str, Any] | None
    align: str | Sequence[str]
    align_params: Mapping[str, Any] | None
    target: Any
    target_domain: str
    domain: str | None
    labels: str | None
    device: str
    precision: str
    batch: int | None
    random_state: Any
    verbose: bool
    pipeline_: Pipeline

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = self.backbone is None
        tags.input_tags.string = self.backbone is not None
        tags.no_validation = self.backbone is not None
        return tags

    @property
    def recipe_(self) -> Recipe:
        """The fitted methods with all their parameters, as `cellfeat run` would write them."""
        check_is_fitted(self, "pipeline_")
        return self.pipeline_.recipe

    @property
    def domains_(self) -> list[str]:
        """The laboratories that were seen in fit."""
        check_is_fitted(self, "pipeline_")
        return list(self.pipeline_.domains)

    def save(self, folder: Path | str) -> None:
        """Write what was fitted into a new folder, for `cellfeat.load`: safetensors, skops and JSON, never a pickle.

        `target` is data and stays out.

        Raises: CellfeatError for a folder that exists, and for parameters that JSON cannot hold.
        """
        check_is_fitted(self, "pipeline_")
        estimator_files.save(self, Path(folder))

    def __getstate__(self) -> dict[str, Any]:
        """For other processes and copies: the fitted chain as the files that `save` writes."""
        state = super().__getstate__()
        if "pipeline_" in state:
            state = {**state, "pipeline_": estimator_files.packed(state["pipeline_"])}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if isinstance(state.get("pipeline_"), dict):
            self.pipeline_ = estimator_files.unpacked(state["pipeline_"], self._workplace(), self.backbone is not None)

    def _classifier_part(self) -> dict[str, Any] | None:
        return None

    def _workplace(self) -> Workplace:
        reporter = TerminalReporter() if self.verbose else SilentReporter()
        return Workplace(installed(), reporter, self.device, self.precision, batch=self.batch)

    def _asked(self, seed: int, registry: Registry) -> Recipe:
        """The parameters as a recipe, every plugin found and every parameter checked."""
        content: dict[str, Any] = {
            "align": align_parts(self.align, self.align_params),
            "backbone": _part(self.backbone or VECTORS, self.backbone_params),
            "segmenter": None if self.segmenter is None else _part(self.segmenter, self.segmenter_params),
            "classifier": self._classifier_part(),
            "protocol": {"seeds": [seed]},
        }
        recipe = parse(content, type(self).__name__)
        if self.backbone is None and self.segmenter is not None:
            raise CellfeatError("backbone=None takes features, which no segmenter can change; leave segmenter=None")

        changes: dict[str, Any] = {"align": [completed(registry, "align", part) for part in recipe.align]}
        changes["backbone"] = (
            recipe.backbone if self.backbone is None else completed(registry, "backbone", recipe.backbone)
        )
        changes["segmenter"] = recipe.segmenter and completed(registry, "segmenter", recipe.segmenter)
        changes["classifier"] = recipe.classifier and completed(registry, "classifier", recipe.classifier)
        return recipe.model_copy(update=changes)

    def _seed(self) -> int:
        if isinstance(self.random_state, (int, np.integer)):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31))

    def _fit_chain(self, X: Given, y: Sequence[Any] | None, head: bool) -> Fitted:
        """Fit every method, and with `head` the classifier. y: the classes as they came; None: nothing said of any."""
        work, seed = self._workplace(), self._seed()
        context = work.context(seed, "estimator")
        recipe = self._asked(seed, work.registry)
        encoder = None if self.backbone is None else make_encoder(recipe, work, context)
        pipeline = Pipeline.build(recipe, work.registry, (), context, encoder)
        self._check_methods(pipeline)
        columns = self._checked_columns(pipeline)
        pipeline.prepare(context)
        learns = head or pipeline.uses_labels
        classes, label = encoded_labels(y if learns and y is not None else [None] * len(X))
        rows = np.flatnonzero(label >= 0) if learns else np.arange(len(X))
        self._check_labels(pipeline, y, classes, learns)
        chosen = X.select(rows)
        if len(chosen) < len(X):
            work.reporter.note(f"{len(X) - len(chosen)} of {len(X)} cells have no label and are left out of the fit")
        pipeline.check_sources(set(chosen.domain.tolist()))
        source, content = chosen.encoded(columns, encoder, work)
        # As a run takes cells. So no result depends on X's order, but where images come without ids: theirs are places.
        order = np.argsort(source.id, kind="stable")
        source = replace(source, label=label[rows])[order]
        target, more = self._target(pipeline, set(chosen.domain.tolist()), columns, encoder, work)
        pipeline.classes = tuple(str(name) for name in classes.tolist())
        cells = [content, source.label.tolist(), told(source), more, told(target)]
        methods = [recipe.digest, made_by(recipe, work.registry), encoder and encoder.description]
        with checkpoints(work, seed, [cells, methods]) as fitting:
            vectors = fit_whole(pipeline, source, target, work, fitting, head)
        pipeline.facts = {
            "made_by": type(self).__name__,
            "weights_sha256": encoder and encoder.description["weights_sha256"],
            "source": sorted(set(source.domain.tolist())),
            "seed": seed,
        }
        noted = getattr(work.reporter, "notes", [])
        self.notes_ = [note for note in noted if REUSED not in note]  # of this machine's folders, which nobody else has
        return Fitted(pipeline, vectors[: len(source)][np.argsort(order)], len(rows) == len(X), classes)

    def _check_methods(self, pipeline: Pipeline) -> None:
        """Refuse methods that the estimator cannot use."""

    def _checked_columns(self, pipeline: Pipeline) -> tuple[str, ...]:
        columns = columns_read(pipeline.aligners)
        if self.backbone is None and set(columns) != {"pooled"}:
            names = ", ".join(method.name for method in pipeline.methods)
            raise CellfeatError(
                f"align {names} reads {', '.join(columns)} of cells, but backbone=None brings features alone; name a "
                "backbone and give images"
            )
        return columns

    def _check_labels(self, pipeline: Pipeline, y: Any, classes: np.ndarray, learns: bool) -> None:
        """Refuse to learn from labels where there are none."""
        if not learns or len(classes) > 1:
            return
        names = ", ".join(method.name for method in pipeline.methods if method.aligner.uses_labels)
        who = f"align {names}" if names else type(self).__name__
        if y is None:
            raise BadLabels(f"{who} learns from labels and requires y to be passed, but the target y is None")
        found = f"one class, {classes.tolist()[0]!r}" if len(classes) else "no class"
        raise BadLabels(f"{who} learns from labels, but y has {found}; None, NaN, '' and -1 mean a hidden label")

    def _target(
        self,
        pipeline: Pipeline,
        sources: set[str],
        columns: Sequence[str],
        encoder: Encoder | None,
        work: Workplace,
    ) -> tuple[Cells | None, str]:
        """The cells to adapt to, where a method looks at any: those of `target` that are of no source laboratory."""
        if self.target is None or not pipeline.uses_target:
            return None, ""
        found = self._target_given()
        rows = new_rows(found.domain, sources, "target=", "X", work)
        return found.select(rows).encoded(columns, encoder, work) if len(rows) else (None, "")

    def _target_given(self) -> Given:
        if self.backbone is not None:
            return given(self.target, self.target_domain, name="target")
        if isinstance(self.target, tuple) and len(self.target) == 2:  # features and their laboratories
            vectors = validate_data(self, self.target[0], reset=False, dtype=np.float32)
            return of_vectors(vectors, self.target_domain).of(self.target[1], None, "target")
        return of_vectors(validate_data(self, self.target, reset=False, dtype=np.float32), self.target_domain)

    def _given(self, X: Any, y: Any, domain: Any, group: Any) -> tuple[Given, Sequence[Any] | None]:
        """X of a fit, and its classes, where anybody says them."""
        default = self.domain or SOURCE
        if self.backbone is not None:
            found = given(X, default, self.labels if y is None else None)
        else:
            found = of_vectors(validate_data(self, X, dtype=np.float32), default)
        y = found.label if y is None else np.asarray(y, dtype=object).ravel()
        if y is not None and len(y) != len(found):
            raise BadLabels(f"y has {len(y)} labels for {len(found)} cells")
        return found.of(domain, group), y

    def _new_cells(self, X: Any, domain: Any, columns: Sequence[str] | None = None) -> tuple[Cells, Context]:
        """Cells for a fitted chain, and the context in which it answers."""
        check_is_fitted(self, "pipeline_")
        work = self._workplace()
        if self.backbone is not None:
            found = given(X, SOURCE)
        else:
            found = of_vectors(validate_data(self, X, reset=False, dtype=np.float32), SOURCE)
        found = found.of(domain, None)
        if not found.has_domain:
            found = found.of(self._unsaid(found), None)
        cells, _ = found.encoded(columns_read(self.pipeline_.aligners), self.pipeline_.encoder, work)
        return cells, work.context(self.pipeline_.facts["seed"], "estimator")

    def _unsaid(self, X: Given) -> str:
        """The laboratory of cells that do not say theirs: the only one, or that of the fit's X, if that did not either.

        Raises: CellfeatError where it would have to be guessed.
        """
        seen = self.pipeline_.domains
        if self.domain or len(seen) == 1:
            return self.domain or seen[0]
        ways = "give a table with a column 'domain', domain=… (with metadata routing), or the parameter domain"
        if self.pipeline_.facts["source"] != [SOURCE]:
            raise CellfeatError(
                f"X does not say of which laboratory its cells are, and the fit knew {', '.join(seen)}: {ways} of the "
                "estimator"
            )
        own = 0 if self.target is None else len(X.content() & self._target_given().content())
        if own:
            raise CellfeatError(
                f"X has {own} cells of target= and does not say of which laboratory they are; without it they would be "
                f"of that of the fit's X: {ways} of the estimator"
            )
        return SOURCE


def align_parts(align: str | Sequence[str], params: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """A recipe's `align` section from a name, "a,b" or a list of names, and their parameters.

    params: of the one method; of a chain {name: its parameters}.
    """
    names = [name.strip() for name in align.split(",")] if isinstance(align, str) else list(align)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise CellfeatError(f"align={align!r}: give a name, or a chain as a list or as 'cae,per-domain-z'")
    given_params = dict(params or {})
    if len(names) == 1 and set(given_params) != {names[0]}:
        return [_part(names[0], given_params)]
    foreign = sorted(set(given_params) - set(names))
    if foreign:
        raise CellfeatError(
            f"align_params has {', '.join(foreign)}, which is none of {', '.join(names)}; parameters of a chain are "
            "given by name, as in {'cae': {'epochs': 50}}"
        )
    return [_part(name, given_params.get(name)) for name in names]


def _part(name: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"name": name, **estimator_files.plain(params or {})}
