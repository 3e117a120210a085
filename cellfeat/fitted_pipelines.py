"""A finished run's pipelines: found, opened, and fitted again with new cells among those adapted to."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cellfeat.errors import CellfeatError, UnseenDomainError, unknown
from cellfeat.extract import Encoder
from cellfeat.newcomers import FACT
from cellfeat.pipeline import Pipeline, columns_read, read_about
from cellfeat.recipe import Recipe, parse
from cellfeat.registry import Registry
from cellfeat.run import read_run, saved_recipe
from cellfeat.slots import Context
from cellfeat.types import Cells
from cellfeat.workplace import Workplace, load_dataset, make_encoder

VECTORS = "vectors"  # stands for a backbone in the recipe of who brings features, and is none


def pipeline_folder(run: Path, source: str | None) -> Path:
    """The folder of one source's pipeline in a run."""
    pipelines = read_run(run)
    if source is None and len(pipelines) == 1:
        return next(iter(pipelines.values()))
    if source is None:
        raise CellfeatError(f"{run} has a pipeline per source: {', '.join(pipelines)}; choose one with --source")
    if source not in pipelines:
        raise CellfeatError(unknown("source of this run", source, pipelines))
    return pipelines[source]


def check_takes_images(folder: Path) -> None:
    """Raises: CellfeatError for a pipeline that was fitted in Python on features, since it has no backbone."""
    about = read_about(folder)
    if about.get("facts", {}).get("made_by") and parse(about["recipe"]).backbone.name == VECTORS:
        raise CellfeatError(
            f"{folder} was fitted in Python on features that were given (backbone=None), so that it has no backbone "
            f"for images; in Python, cellfeat.load({str(folder)!r}) takes features"
        )


@dataclass(frozen=True)
class Opened:
    """A saved pipeline, its encoder, and the context in which it answers."""

    folder: Path
    recipe: Recipe
    pipeline: Pipeline
    encoder: Encoder
    context: Context

    @classmethod
    def open(cls, folder: Path, work: Workplace) -> Opened:
        """Raises: CellfeatError where the weights are not those that it was fitted on the features of."""
        check_takes_images(folder)
        about = read_about(folder)
        recipe = saved_recipe(folder, parse(about["recipe"], f"the recipe in {folder}"))
        context = work.context(about["facts"]["seed"], "use")
        encoder = make_encoder(recipe, work, context)
        was, now = about["facts"]["weights_sha256"], encoder.description["weights_sha256"]
        if was != now:
            raise CellfeatError(
                f"{folder} was fitted on features of weights with sha256 {was}, but {recipe.backbone.name} now has "
                f"weights with {now}; put the old weights back or run again"
            )
        return cls(folder, recipe, Pipeline.load(folder, work.registry, context, encoder), encoder, context)

    @property
    def columns(self) -> tuple[str, ...]:
        """What the pipeline reads of cells."""
        return columns_read(self.pipeline.aligners)

    def check_refit(self) -> None:
        """Raises: CellfeatError where the cells that the pipeline was fitted on are not to be had."""
        facts = self.pipeline.facts
        if facts.get("shared"):
            raise self._shared_alone("--refit cannot be done")
        if "dataset" not in facts:
            raise CellfeatError(
                f"{self.folder} was fitted in Python and does not say where its cells lie: fit again there, with "
                "target=… for the cells to adapt to"
            )

    def check_domains(self, domains: Iterable[str]) -> None:
        """Raises: UnseenDomainError where the method must adapt to a laboratory that it was not fitted on, and
        CellfeatError where it is such a method's shared pipeline, which nobody can fit again."""
        facts, strange = self.pipeline.facts, sorted(set(domains) - set(self.pipeline.domains))
        if not strange or facts.get(FACT) is not False:
            return
        if facts.get("shared"):
            raise self._shared_alone(f"it cannot adapt to {', '.join(strange)}")
        method = ", ".join(part.name for part in self.recipe.align) or "none"
        raise UnseenDomainError(method, strange, self.pipeline.domains)

    def _shared_alone(self, consequence: str) -> CellfeatError:
        """What a pipeline without its training cells can be used for."""
        facts, known = self.pipeline.facts, ", ".join(self.pipeline.domains)
        remedy = "Leave it out: this pipeline answers for any laboratory"
        if facts.get(FACT) is not True:
            remedy = (
                f"It answers for images that were made in a laboratory it knows ({known}), with --domain and that "
                "name; for any other take a pipeline of a method that needs no refit (--align none, say), or train on "
                "labelled cells of your own: cellfeat run"
            )
        return CellfeatError(
            f"{self.folder} was shared without the cells that it was trained on, so that {consequence}. {remedy}"
        )

    def source_cells(self, work: Workplace) -> tuple[Cells, str]:
        """The cells that the pipeline was fitted on, and the digest of the data set that they are of.

        Raises: CellfeatError where the source's manifest has changed since, or `check_refit` refuses.
        """
        self.check_refit()
        facts, recipe = self.pipeline.facts, self.recipe
        original = load_dataset(recipe.dataset, work)
        if original.digest != facts["dataset"]["digest"]:
            raise CellfeatError(
                f"{recipe.dataset.manifest} has changed since {self.folder} was made: run again instead of --refit"
            )
        kept = np.isin(original.domain, facts["source"]) & np.isin(original.label, self.pipeline.fitted_classes)
        return self.encoder.encode(original.select(kept), self.columns), original.digest

    def refitted(self, target: Cells, digest: str, work: Workplace, labelled: Cells | None = None) -> Pipeline:
        """The same methods fitted on the run's own source, with these cells, labels hidden, among those adapted to.

        Cells of the source's laboratories are left out, with a note: these are fitted on already. digest: of the
        target's content, by which checkpoints are told apart. labelled: further cells, whose labels are shown, as a
        few-shot protocol shows them.

        Raises: CellfeatError where the source's manifest has changed since, or `check_refit` refuses.
        """
        source, original = self.source_cells(work)
        facts, recipe = self.pipeline.facts, self.recipe
        rows = new_rows(target.domain, facts["source"], "the images to adapt to", "the run's source", work)
        adapted = target[rows] if len(rows) else None
        fresh = Pipeline.build(recipe, work.registry, self.pipeline.classes, self.context, self.encoder)
        # Checkpoints belong to exactly this source, these images and this method.
        methods = [recipe.digest, made_by(recipe, work.registry), self.encoder.description]
        settings = [original, facts["source"], digest, told(adapted), methods]
        settings += [] if labelled is None else [told(labelled), labelled.label.tolist()]
        fitting = work.context(facts["seed"], "refit", settings)
        fit_whole(fresh, source, adapted, work, fitting, labelled=labelled)
        shutil.rmtree(fitting.scratch, ignore_errors=True)
        return fresh


def new_rows(domain: np.ndarray, sources: Collection[str], what: str, of: str, work: Workplace) -> np.ndarray:
    """(n,) int64 rows of the (N,) laboratories that are none of the sources; a note says how many others there are."""
    rows = np.flatnonzero(~np.isin(domain, sorted(sources)))
    if len(rows) < len(domain):
        work.reporter.note(
            f"{len(domain) - len(rows)} of {len(domain)} cells of {what} are of laboratories of {of}, which are fitted "
            "on already, and are left out"
        )
    return rows


def told(cells: Cells | None) -> list[list[str]]:
    """What their owner says of cells beside their images, all of which a method may read: for the name of a fit."""
    return [] if cells is None else [column.tolist() for column in (cells.id, cells.domain, cells.group)]


def made_by(recipe: Recipe, registry: Registry) -> list[str]:
    """Distribution and version of every aligner: what other code left half done is nothing to go on from."""
    offers = [registry.find("align", part.name) for part in recipe.align]
    return [f"{offer.distribution} {offer.version}" for offer in offers]


def fit_whole(
    pipeline: Pipeline,
    source: Cells,
    target: Cells | None,
    work: Workplace,
    context: Context,
    head: bool = True,
    labelled: Cells | None = None,
) -> np.ndarray:
    """Fit chain, classifier and corrections on labelled source cells and target cells, whose labels are hidden here.

    head: False leaves the classifier out. labelled: target cells whose labels are shown. Gives the (N, D) features of
    the source, then of the labelled cells, then of the target.
    """
    shown = source if labelled is None else source.joined(_named_apart(labelled, source, "labelled/"))
    cells = shown
    if target is not None:  # the same names, or the same images, may be in another laboratory
        target = _named_apart(target, shown, "target/")
        cells = shown.joined(target.hide_labels())
    cells = cells.with_target(np.arange(len(source), len(cells)))
    vectors: Any = pipeline.fit_align(cells, context)
    if head:
        pipeline.fit_classifier(work.registry, shown, vectors[: len(shown)], context)
        if target is not None:
            pipeline.fit_adjust(target.hide_labels(), context, vectors[len(shown) :])
    return vectors


def _named_apart(cells: Cells, others: Cells, prefix: str) -> Cells:
    """The cells under other ids, where the others have any of theirs."""
    return replace(cells, id=np.char.add(prefix, cells.id)) if np.isin(cells.id, others.id).any() else cells


@contextmanager
def checkpoints(work: Workplace, seed: int, key: Any) -> Iterator[Context]:
    """A context whose scratch folder is found again by the very same fit after a kill, and gone when that has ended.

    Two processes that fit the same at once, as a grid search has them, do not share it.
    """
    from filelock import FileLock, Timeout

    context = work.context(seed, "fit", key)
    # Few lock files, since one that is deleted locks nothing any more: two fits that share one lose no more than this.
    lock = FileLock(context.scratch.with_name(f"fit-{context.scratch.name[-2:]}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        with tempfile.TemporaryDirectory(dir=context.scratch.parent) as folder:
            yield replace(context, scratch=Path(folder))
        return
    try:
        context.scratch.mkdir(parents=True, exist_ok=True)  # another process may just have ended with it
        yield context
        shutil.rmtree(context.scratch, ignore_errors=True)
    finally:
        lock.release()
