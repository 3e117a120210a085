"""`cellfeat run` as a function: a recipe in, a run folder out."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from cellfeat import datasets, newcomers, observation_files, provenance, records
from cellfeat.confidence import Confidence
from cellfeat.distributed import is_main
from cellfeat.errors import CellfeatError
from cellfeat.evaluate import Evaluator, check_cells
from cellfeat.extract import Encoder, doubtful_masks
from cellfeat.finetune import adapter_for, checked_params
from cellfeat.novelty import Reference
from cellfeat.observations import Observer
from cellfeat.own_files import with_own_files
from cellfeat.pipeline import Pipeline, columns_read, resolve
from cellfeat.recipe import DEMO, Part, Recipe
from cellfeat.results import Result
from cellfeat.slots import Context
from cellfeat.splits import Split, settings
from cellfeat.storage import is_url
from cellfeat.undisturbed import undisturbed
from cellfeat.workplace import Workplace, listed, load_dataset, make_encoder

RECIPE, RECORDS, SKIPPED = "recipe.yaml", "records.jsonl", "skipped.csv"
PREDICTIONS = "predictions.parquet"
ADAPTER = "adapter"  # in a run folder: what `finetune:` made
DEFAULT_CLASSIFIER = "svm-linear"


def run(recipe: Recipe, out: Path, work: Workplace, pictures: bool = True) -> tuple[Path, list[dict[str, Any]]]:
    """Encode, fit, evaluate, refit and save; gives the run folder and its records.

    The folder appears under its final name when everything in it is whole. pictures: keep small pictures of cells for
    the report.
    """
    refuse_run_folder(out)
    recipe = _with_absolute_paths(resolve(recipe, work.registry))
    _check_adapter(recipe)
    seed = recipe.protocol.seeds[0]
    context = work.context(seed, "run")
    recipe = prepared(recipe, work, context)  # misfits show before any image is opened
    dataset = load_dataset(recipe.dataset, work)
    fitted = finetuned(recipe, dataset, work)
    encoder = make_encoder(fitted, work, context)
    prototype = Pipeline.build(fitted, work.registry, dataset.classes, context, encoder)
    cells = encoder.encode(dataset, columns_read(prototype.aligners))
    check_cells(cells, recipe.protocol, context)
    identity = f"{dataset.digest}|{encoder.description}"
    evaluator = Evaluator(fitted, work.registry, cells, dataset.classes, context, encoder, identity)
    with _run_folder(out) as folder:
        (folder / RECIPE).write_text(recipe.as_yaml(), encoding="utf-8")
        datasets.write_skipped(folder / SKIPPED, dataset.skipped)
        if recipe.finetune is not None:
            shutil.copytree(fitted.backbone.params["adapter"], folder / ADAPTER)
            evaluator.saved_recipe = _with_adapter(fitted, out.resolve() / ADAPTER)
        about = describe(recipe, dataset, encoder, prototype, context, work)
        doubtful = doubtful_masks(cells)
        if doubtful is not None:
            about["doubtful_masks"] = doubtful
        written = _evaluate(evaluator, folder, about)
        _refer(evaluator, encoder, dataset, folder)
        _observe(evaluator, encoder, dataset, folder, pictures)
    if is_main():  # another process may be here while this one still writes the last checkpoint
        evaluator.clear_scratch()
    return out, written


def refuse_run_folder(out: Path) -> None:
    """Raises: CellfeatError where there is something under this name."""
    if out.exists():
        raise CellfeatError(f"{out} exists and a run folder is never overwritten; name another with --out")


def prepared(recipe: Recipe, work: Workplace, context: Context) -> Recipe:
    """The recipe with a classifier where its methods have no head, once everything in it is seen to work together."""
    if recipe.finetune is not None:
        checked_params(recipe, work.registry)
    pipeline = Pipeline.build(recipe, work.registry, (), context)
    if recipe.classifier is None and not pipeline.has_own_head:
        recipe = resolve(recipe.model_copy(update={"classifier": Part(name=DEFAULT_CLASSIFIER)}), work.registry)
        pipeline = Pipeline.build(recipe, work.registry, (), context)
    _check_sources(recipe, pipeline, work)
    pipeline.prepare(context)
    pipeline.check_classifier(work.registry, context)
    return recipe


def _check_sources(recipe: Recipe, pipeline: Pipeline, work: Workplace) -> None:
    """Refuse several source domains for a method that is made for one; the manifest tells them, no image is opened."""
    if not all(getattr(aligner, "several_sources", True) for aligner in pipeline.aligners):
        data, protocol = listed(recipe.dataset, work), recipe.protocol
        for sources, _ in settings(protocol.name, data.domain, data.label, protocol.source, protocol.target):
            pipeline.check_sources(sources)


def _evaluate(evaluator: Evaluator, folder: Path, about: dict[str, Any]) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []
    results: list[Result] = []
    cells, classes, seeds = evaluator.cells, evaluator.classes, evaluator.recipe.protocol.seeds
    for seed in seeds:
        for split in evaluator.splits(seed):
            _tell(split, evaluator)
            results.append(evaluator.run(split, seed))
            new = records.of(results[-1], cells, classes, about)
            records.append(folder / RECORDS, new)
            written += new
            if seed == seeds[0]:
                pipeline = evaluator.refit(split, seed)
                pipeline.recipe = evaluator.saved_recipe
                pipeline.facts = {
                    "dataset": about["dataset"],
                    "weights_sha256": about["backbone"]["weights_sha256"],
                    "source": list(split.source),
                    "seed": seed,
                    newcomers.FACT: newcomers.places_newcomers(pipeline, cells, evaluator.context),
                }
                pipeline.save(folder / "pipelines" / split.name)
                Confidence.learn(results[-1], cells, classes).save(folder / "pipelines" / split.name)
    records.write_predictions(folder / PREDICTIONS, results, cells, classes)
    return written


def _refer(evaluator: Evaluator, encoder: Encoder, dataset: datasets.Dataset, folder: Path) -> None:
    """Keep what the training cells of each source look like, for warnings about cells that do not."""
    seed = evaluator.recipe.protocol.seeds[0]
    prototype = Pipeline.build(evaluator.recipe, evaluator.registry, dataset.classes, evaluator.context, encoder)
    uses_backbone = prototype.uses_backbone
    for split in evaluator.splits(seed):
        rows = split.rows
        try:
            with undisturbed(seed):
                known = dataset.select(rows), evaluator.cells[rows]
                Reference.learn(*known, encoder, seed, uses_backbone).save(folder / "pipelines" / split.name)
        except Exception as error:  # whatever an image or a backbone does here, the run's results stand
            reason = " ".join(str(error).split()) or type(error).__name__
            evaluator.context.note(f"the pipeline of {split.name} will not warn of unlike cells: {reason}")


def _observe(evaluator: Evaluator, encoder: Encoder, dataset: datasets.Dataset, folder: Path, pictures: bool) -> None:
    """Look at the saved pipelines once every result is written, so that looking can change none."""
    splits = list(evaluator.splits(evaluator.recipe.protocol.seeds[0]))

    def fitted(name: str, context: Context) -> Pipeline:
        return Pipeline.load(folder / "pipelines" / name, evaluator.registry, context, encoder)

    prototype = Pipeline.build(evaluator.recipe, evaluator.registry, dataset.classes, evaluator.context, encoder)
    observer = Observer(
        dataset,
        evaluator.cells,
        encoder,
        evaluator.context,
        evaluator.recipe.protocol.seeds[0],
        splits,
        uses_backbone=prototype.uses_backbone,
        paints=any(aligner.writes == "image" for aligner in prototype.aligners),
        pictures=pictures,
    )
    observer.observe(fitted, folder / PREDICTIONS, folder / observation_files.FOLDER)


def _tell(split: Split, evaluator: Evaluator) -> None:
    """Say which cells of a split are neither trained on nor scored."""
    for label, count in split.left_out.items():
        name = evaluator.classes[label]
        evaluator.context.note(
            f"source {split.name}: class {name} is left out, as its cells ({count}) or their groups are fewer than "
            "the folds"
        )
    for name in sorted(set(split.adaptable) - set(split.targets)):
        evaluator.context.note(f"domain {name} has no labelled cell: it is adapted to where a method asks, not scored")


def describe(
    recipe: Recipe,
    dataset: datasets.Dataset,
    encoder: Encoder,
    pipeline: Pipeline,
    context: Context,
    work: Workplace,
) -> dict[str, Any]:
    """What every record of this run says of itself."""
    plugins, plugin_facts = plugins_of(recipe, encoder, pipeline, work, context)
    return {
        "recipe": recipe.as_dict(),
        "recipe_digest": recipe.digest,
        "dataset": {
            "manifest": recipe.dataset.manifest,
            "digest": dataset.digest,
            "cells": len(dataset),
            "skipped": len(dataset.skipped),
            "dropped": dataset.dropped,
        },
        "backbone": {
            "name": recipe.backbone.name,
            "weights_sha256": encoder.description["weights_sha256"],
            "segmenter": encoder.description["segmenter"],
            "used": pipeline.uses_backbone,
        },
        "encoding": encoder.description,
        "uses_target": pipeline.uses_target,
        "uses_labels": pipeline.uses_labels,
        "plugins": plugins,
        "plugin_facts": plugin_facts,
        "versions": provenance.versions(),
        "hardware": provenance.hardware(context.device),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def plugins_of(
    recipe: Recipe, encoder: Encoder, pipeline: Pipeline, work: Workplace, context: Context
) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """By slot and name: who offers what is used, in which version, and what it declares of itself."""
    used = [("backbone", recipe.backbone, encoder.backbone), ("segmenter", recipe.segmenter, encoder.segmenter)]
    if recipe.classifier is not None:
        named = recipe.classifier
        used += [("classifier", named, work.registry.create("classifier", named.name, named.params, context))]
    used += [("align", part, aligner) for part, aligner in zip(recipe.align, pipeline.aligners, strict=True)]
    plugins, facts = {}, {}
    for slot, part, product in used:
        if part is not None:
            offer = work.registry.find(slot, part.name)
            plugins[f"{slot}:{part.name}"] = f"{offer.distribution} {offer.version}"
            facts[f"{slot}:{part.name}"] = offer.facts(product).as_dict()
    return plugins, facts


def _with_absolute_paths(recipe: Recipe) -> Recipe:
    """So that a run's pipelines find their data and label map from any working folder."""
    section, paths = recipe.dataset, {}
    if section.manifest != DEMO and not is_url(section.manifest):
        paths["manifest"] = str(Path(section.manifest).resolve())
    if section.labels is not None and Path(section.labels).is_file():
        paths["labels"] = str(Path(section.labels).resolve())
    return recipe.model_copy(update={"dataset": section.model_copy(update=paths)})


def finetuned(recipe: Recipe, dataset: datasets.Dataset, work: Workplace) -> Recipe:
    """The recipe with its backbone fine-tuned on masks first, if it asks for that; the adapter is cached."""
    return recipe if recipe.finetune is None else _with_adapter(recipe, adapter_for(recipe, dataset, work))


def _check_adapter(recipe: Recipe) -> None:
    """Refuse a recipe that names an adapter and would make another one."""
    adapter = recipe.backbone.params.get("adapter")
    if recipe.finetune is not None and adapter:
        raise CellfeatError(
            f"backbone.adapter is {adapter}, but the recipe's `finetune:` makes an adapter of its own; to use the one "
            "that is named, leave the section out: --set finetune=null"
        )


def _with_adapter(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the adapter in this folder, and nothing left to fine-tune."""
    backbone = Part.of(recipe.backbone.name, {**recipe.backbone.params, "adapter": str(folder)})
    return recipe.model_copy(update={"backbone": backbone, "finetune": None})


def saved_recipe(pipeline: Path, recipe: Recipe) -> Recipe:
    """A saved pipeline's recipe; the adapter of a run folder that was moved is found where the folder is now, and the
    files of a shared pipeline in its own."""
    recipe = with_own_files(pipeline, recipe)
    adapter, beside = recipe.backbone.params.get("adapter"), pipeline.resolve().parent.parent / ADAPTER
    if adapter and not Path(adapter).exists() and beside.is_dir():
        return _with_adapter(recipe, beside)
    return recipe


@contextmanager
def _run_folder(out: Path) -> Iterator[Path]:
    """A folder that takes its final name when the run ends well; what an interrupted run wrote stays beside it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.partial-{uuid4().hex[:8]}")
    partial.mkdir()
    try:
        yield partial
    except BaseException:
        if not (partial / RECORDS).is_file():  # nothing in it that took any time
            shutil.rmtree(partial, ignore_errors=True)
        raise
    if is_main():
        partial.rename(out)
    else:
        shutil.rmtree(partial)


def default_out(recipe: Recipe) -> Path:
    """runs/<date>-<backbone>-<align>-<classifier>, with a number when that is taken."""
    parts = [recipe.backbone.name, *(part.name for part in recipe.align)]
    parts += [recipe.classifier.name] if recipe.classifier else []
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{'-'.join(parts)}".replace(":", "-").replace("/", "-")
    folder = Path("runs") / name
    number = 2
    while folder.exists():
        folder = Path("runs") / f"{name}-{number}"
        number += 1
    return folder


def read_run(folder: Path) -> dict[str, Any]:
    """{source: pipeline folder} of a finished run, or of a single pipeline's folder."""
    if (folder / "pipeline.json").is_file():
        return {folder.name: folder}
    if not (folder / "pipelines").is_dir():
        raise CellfeatError(f"{folder} is no run folder: it has no pipelines/ (was the run interrupted?)")
    return {path.name: path for path in sorted((folder / "pipelines").iterdir()) if (path / "pipeline.json").is_file()}
