"""Using methods on data: features of a manifest, and a finished run's pipelines on new cells."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cellfeat import datasets, provenance
from cellfeat.artifacts import atomic_file
from cellfeat.changes import changes, read_answers
from cellfeat.errors import CellfeatError, unknown
from cellfeat.feature_files import ALIGNED, DIGEST, FORMS, POOLED, FeatureTable, form_of
from cellfeat.fitted_pipelines import pipeline_folder
from cellfeat.manifest import refuse_existing
from cellfeat.pipeline import read_about, resolve
from cellfeat.placing import placed
from cellfeat.predicted import Predictions, groups_of, no_groups, write_shares
from cellfeat.recipe import DatasetSection, Recipe, parse
from cellfeat.spreadsheets import plain
from cellfeat.store import QUALITY
from cellfeat.types import UNLABELED, ArrayColumn, Cells, Column
from cellfeat.unlabelled import unlabelled_images
from cellfeat.verdicts import AS_EVER, Verdicts, Wanted, judged
from cellfeat.workplace import Workplace, checked, load_dataset, make_encoder

ENGINES = ("local", "ray")


def extract(
    recipe: Recipe,
    out: Path,
    work: Workplace,
    engine: str = "local",
    address: str | None = None,
    encoders: int | None = None,
) -> tuple[int, int]:
    """Write the pooled features of a recipe's data set; gives (cells, features).

    engine: `local`, or `ray`, whose cluster is at `address` and encodes in so many processes, as `ray_engine` says.
    """
    _check_engine(engine, address, encoders)
    _check_out(out, tuple(FORMS))
    recipe = resolve(recipe, work.registry)
    seed = recipe.protocol.seeds[0]
    if engine == "ray":
        from cellfeat import ray_engine

        encoder, dataset = ray_engine.encoded(recipe, ("pooled",), work, seed, address, encoders)
        cells = encoder.stored(dataset, ("pooled",))
    else:
        encoder = make_encoder(recipe, work, work.context(seed, "extract"))
        dataset = load_dataset(recipe.dataset, work)
        cells = encoder.encode(dataset, ("pooled",))
    about = {
        "features": POOLED,
        "backbone": recipe.backbone.model_dump(),
        "segmenter": recipe.segmenter and recipe.segmenter.model_dump(),
        "weights_sha256": encoder.description["weights_sha256"],
        "weights_saw": getattr(encoder.backbone, "weights_saw", None),
        "encoding": encoder.description,
    }
    return _finish(out, cells, dataset, cells.column("pooled"), about)


def encode_cells(
    manifest: Path | str,
    columns: Sequence[str] = ("pooled",),
    *,
    backbone: str = "lora-sam",
    params: Mapping[str, Any] | None = None,
    segmenter: str | None = None,
    labels: str | None = None,
    work: Workplace | None = None,
) -> Cells:
    """The cells of a manifest with columns of a backbone, encoded or from the cache, as `cellfeat run` would see them.

    columns: of "image", "mask", "map", "pooled", "crop", as `Cells` says. params: of the backbone. labels: a vocabulary
    or a YAML map. work: plugins, device, precision; None: the installed ones, and the best device.

    Raises: CellfeatError for bad images, unknown columns, or parameters that the backbone does not have.
    """
    work = work or Workplace.on_terminal()
    sections = {
        "dataset": {"manifest": str(manifest), "labels": labels},
        "backbone": {"name": backbone, **(params or {})},
    }
    recipe = resolve(parse(sections | ({"segmenter": {"name": segmenter}} if segmenter else {})), work.registry)
    encoder = make_encoder(recipe, work, work.context(recipe.protocol.seeds[0], "extract"))
    return encoder.encode(load_dataset(recipe.dataset, work), columns)


def transform(run: Path, data: str, out: Path, source: str | None, refit: bool, work: Workplace) -> tuple[int, int]:
    """Write the aligned features of a manifest's cells; gives (cells, features). Labels are passed through unseen."""
    _check_out(out, tuple(FORMS))
    folder = pipeline_folder(run, source)
    section = parse(read_about(folder)["recipe"]).dataset
    dataset = load_dataset(DatasetSection(manifest=data, labels=section.labels), work)
    opened, pipeline, cells, _ = placed(folder, dataset, refit, work)
    vectors = pipeline.features(cells, opened.context)
    about: dict[str, Any] = {"features": ALIGNED, "run": str(run), "pipeline": folder.name}
    about |= {"recipe": pipeline.recipe.as_dict(), "refit": refit}
    return _finish(out, cells, dataset, ArrayColumn(vectors), about)


def predict(
    run: Path,
    images: Sequence[Path],
    out: Path,
    domain: str,
    source: str | None,
    refit: bool,
    work: Workplace,
    per_group: Path | None = None,
    wanted: Wanted = AS_EVER,
    labelled: Path | None = None,
    before: Path | None = None,
) -> tuple[Predictions, int]:
    """Write a CSV with a label and the probabilities of every image; gives what was predicted and the count.

    per_group: another CSV to write, with the shares of the classes in each group. wanted: what else is said of cells.
    labelled: a manifest of labelled cells to fit again with. before: a table of earlier answers, to tell what changed.
    """
    _check_out(out, (".csv",))
    earlier = None if before is None else read_answers(before)
    if per_group is not None:
        _check_shares(per_group, out)
    if not domain.strip():
        raise CellfeatError("--domain is empty; give the laboratory of these images a name")
    folder = pipeline_folder(run, source)
    wanted.check(folder)
    dataset = _images(images, domain, work)
    group = groups_of(dataset, _is_manifest(images))
    if per_group is not None and group is None:
        raise no_groups()
    opened, pipeline, cells, given = placed(folder, dataset, refit, work, labelled)
    context = opened.context
    found = judged(opened, pipeline, dataset, cells, wanted, given)
    quality = _quality(cells)
    _write_answers(out, dataset, cells, found, quality)
    for remark in found.novelty.remarks if found.novelty else ():
        context.note(remark)
    if dataset.skipped:
        datasets.write_skipped(_skipped_beside(out), dataset.skipped)
    if pipeline.untaught:
        context.note(
            f"not taught, so never answered: {', '.join(pipeline.untaught)} (no cell of the training data is one)"
        )
    counted = _counted(found, group, quality.get("mask_quality"), pipeline.untaught)
    if earlier is not None:
        now = dict(zip(cells.id.tolist(), found.labels(), strict=True))
        counted = replace(counted, changes=changes(earlier, now))
    if per_group is not None:
        write_shares(per_group, counted)
    return counted, len(dataset)


def _counted(
    found: Verdicts, group: np.ndarray | None, quality: np.ndarray | None, untaught: tuple[str, ...]
) -> Predictions:
    """What is counted of verdicts."""
    return Predictions(
        found.classes,
        found.chosen,
        found.proba,
        group,
        quality,
        untaught,
        None if found.wanted.abstain is None else found.answered,
        None if found.sets is None else found.sets.sum(axis=1),
        found.calibrated,
        novelty=found.novelty,
    )


def _write_answers(
    out: Path, dataset: datasets.Dataset, cells: Cells, found: Verdicts, quality: Mapping[str, np.ndarray]
) -> None:
    """The CSV of `predict`: a line per cell."""
    with atomic_file(out) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        said = found.columns()
        names = [f"p_{name}" for name in found.classes]
        writer.writerow(["id", "path", "label", "probability", *said, *quality, *names])
        for row, (path, label) in enumerate(zip(dataset.path, found.labels(), strict=True)):
            told = [plain(texts[row]) for texts in said.values()]  # names of classes among them
            told += [f"{value:.6g}" for value in (*(values[row] for values in quality.values()), *found.proba[row])]
            sure = f"{found.proba[row, found.chosen[row]]:.6g}"
            writer.writerow([plain(cells.id[row]), plain(str(path)), plain(label), sure, *told])


def _is_manifest(images: Sequence[Path]) -> bool:
    return len(images) == 1 and images[0].suffix.lower() == ".csv"


def _images(images: Sequence[Path], domain: str, work: Workplace) -> datasets.Dataset:
    if _is_manifest(images):
        found = datasets.read_manifest(images[0], skip_bad=work.skip_bad)
        found = replace(found, domain=np.full(len(found), domain), label=np.full(len(found), UNLABELED))
    else:
        found = unlabelled_images(images, domain)
    return checked(found, work)


def _check_engine(engine: str, address: str | None, encoders: int | None) -> None:
    if engine not in ENGINES:
        raise CellfeatError(unknown("engine", engine, ENGINES))
    if encoders is not None and encoders < 1:
        raise CellfeatError(f"--encoders {encoders}: at least one process must encode")
    if engine != "ray" and (address is not None or encoders is not None):
        raise CellfeatError("--address and --encoders belong to --engine ray")


def _check_out(out: Path, endings: Sequence[str]) -> None:
    if out.suffix.lower() not in endings:
        raise CellfeatError(f"--out {out}: the name must end in {' or '.join(endings)}")
    refuse_existing(out)
    refuse_existing(_skipped_beside(out))
    if out.suffix.lower() in FORMS:
        form_of(out).installed()  # before hours of encoding


def _check_shares(path: Path, out: Path) -> None:
    if path.suffix.lower() != ".csv":
        raise CellfeatError(f"--per-group {path}: the name must end in .csv")
    if path.absolute() == out.absolute():
        raise CellfeatError(f"--per-group and --out are both {out}; name two files")
    refuse_existing(path)


def _skipped_beside(out: Path) -> Path:
    return out.with_name(f"{out.stem}-skipped.csv")


def _finish(
    out: Path, cells: Cells, dataset: datasets.Dataset, vectors: Column, about: Mapping[str, Any]
) -> tuple[int, int]:
    about = {**about, "dataset": dataset.digest, "versions": provenance.versions()}
    rows = {"id": cells.id, "domain": cells.domain, "label": dataset.label_names, "group": cells.group}
    rows |= _quality(cells)
    if dataset.image_digest is not None:
        rows[DIGEST] = dataset.image_digest
    table = FeatureTable(rows, vectors, about)
    (table.sealed() if table.features == POOLED else table).write(out)
    if dataset.skipped:
        datasets.write_skipped(_skipped_beside(out), dataset.skipped)
    return vectors.shape[0], vectors.shape[1]


def _quality(cells: Cells) -> dict[str, np.ndarray]:
    """The predicted quality of the cells' masks as a column, where it is known."""
    return {"mask_quality": cells.read(QUALITY)} if QUALITY in cells.columns else {}
