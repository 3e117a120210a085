"""Using methods on data: features of a manifest, and a finished run's pipelines on new cells."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellfeat import datasets, provenance
from cellfeat.artifacts import atomic_file
from cellfeat.errors import CellfeatError, unknown
from cellfeat.extras import import_extra
from cellfeat.manifest import refuse_existing
from cellfeat.pipeline import Pipeline, columns_read, read_about, resolve
from cellfeat.recipe import DatasetSection, Recipe, parse
from cellfeat.run import read_run, saved_recipe
from cellfeat.store import QUALITY
from cellfeat.types import UNLABELED, ArrayColumn, Cells, Column
from cellfeat.unlabelled import unlabelled_images
from cellfeat.workplace import Workplace, checked, load_dataset, make_encoder

if TYPE_CHECKING:
    from rich.table import Table

ENGINES = ("local", "ray")
FORMATS = (".parquet", ".h5ad")
ROWS_PER_GROUP = 2048  # of a Parquet file: 10 MB of 1,152 features


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
    _check_out(out, FORMATS)
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
    _check_out(out, FORMATS)
    folder = pipeline_folder(run, source)
    section = parse(read_about(folder)["recipe"]).dataset
    dataset = load_dataset(DatasetSection(manifest=data, labels=section.labels), work)
    pipeline, cells, context = _placed(folder, dataset, refit, work)
    vectors = pipeline.features(cells, context)
    about = {"run": str(run), "pipeline": folder.name, "recipe": pipeline.recipe.as_dict(), "refit": refit}
    return _finish(out, cells, dataset, ArrayColumn(vectors), about)


def predict(
    run: Path, images: Sequence[Path], out: Path, domain: str, source: str | None, refit: bool, work: Workplace
) -> tuple[Table, int]:
    """Write a CSV with a label and the probabilities of every image; gives a summary table and the count."""
    _check_out(out, (".csv",))
    if not domain.strip():
        raise CellfeatError("--domain is empty; give the laboratory of these images a name")
    folder = pipeline_folder(run, source)
    dataset = _images(images, domain, work)
    pipeline, cells, context = _placed(folder, dataset, refit, work)
    chosen, proba = pipeline.predict(cells, context)
    with atomic_file(out) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        quality = _quality(cells)
        writer.writerow(["id", "path", "label", "probability", *quality, *(f"p_{name}" for name in pipeline.classes)])
        for row, path in enumerate(dataset.path):
            told = [values[row] for values in quality.values()]
            values = [f"{value:.6g}" for value in (proba[row, chosen[row]], *told, *proba[row])]
            writer.writerow([_plain(cells.id[row]), _plain(str(path)), pipeline.classes[chosen[row]], *values])
    if dataset.skipped:
        datasets.write_skipped(_skipped_beside(out), dataset.skipped)
    return _counts(pipeline.classes, chosen, proba), len(dataset)


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


def _images(images: Sequence[Path], domain: str, work: Workplace) -> datasets.Dataset:
    if len(images) == 1 and images[0].suffix.lower() == ".csv":
        found = datasets.read_manifest(images[0], skip_bad=work.skip_bad)
        found = replace(found, domain=np.full(len(found), domain), label=np.full(len(found), UNLABELED))
    else:
        found = unlabelled_images(images, domain)
    return checked(found, work)


def _placed(folder: Path, dataset: datasets.Dataset, refit: bool, work: Workplace) -> tuple[Pipeline, Cells, Any]:
    """The pipeline, loaded or fitted again with these cells as targets, and the encoded cells."""
    about = read_about(folder)
    recipe = saved_recipe(folder, parse(about["recipe"], f"the recipe in {folder}"))
    if refit and about["facts"].get("shared"):
        raise CellfeatError(
            f"{folder} was shared without the cells that it was trained on, so that --refit cannot be done; leave it "
            f"out, and name with --domain a laboratory that it knows: {', '.join(about['domains'])}"
        )
    seed = about["facts"]["seed"]
    context = work.context(seed, "use")
    encoder = make_encoder(recipe, work, context)
    was, now = about["facts"]["weights_sha256"], encoder.description["weights_sha256"]
    if was != now:
        raise CellfeatError(
            f"{folder} was fitted on features of weights with sha256 {was}, but {recipe.backbone.name} now has weights "
            f"with {now}; put the old weights back or run again"
        )
    pipeline = Pipeline.load(folder, work.registry, context, encoder)
    columns = columns_read(pipeline.aligners)
    if not refit:
        return pipeline, encoder.encode(dataset, columns), context
    original = load_dataset(recipe.dataset, work)
    if original.digest != about["facts"]["dataset"]["digest"]:
        raise CellfeatError(
            f"{recipe.dataset.manifest} has changed since {folder} was made: run again instead of --refit"
        )
    kept = np.isin(original.domain, about["facts"]["source"]) & np.isin(original.label, pipeline.fitted_classes)
    source, target = encoder.encode(original.select(kept), columns), encoder.encode(dataset, columns)
    both = source.joined(target.hide_labels())
    new = np.arange(len(source), len(both))
    fresh = Pipeline.build(recipe, work.registry, pipeline.classes, context, encoder)
    # Checkpoints belong to exactly this source, these images and this method.
    key = [original.digest, dataset.digest, recipe.digest, about["facts"]["source"], encoder.description]
    fitting = work.context(seed, "refit", key)
    vectors = fresh.fit_align(both.with_target(new), fitting)
    fresh.fit_classifier(work.registry, source, vectors[: len(source)], fitting)
    fresh.fit_adjust(target.hide_labels(), fitting, vectors[len(source) :])
    shutil.rmtree(fitting.scratch, ignore_errors=True)
    return fresh, target, context


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


def _skipped_beside(out: Path) -> Path:
    return out.with_name(f"{out.stem}-skipped.csv")


def _finish(
    out: Path, cells: Cells, dataset: datasets.Dataset, vectors: Column, about: Mapping[str, Any]
) -> tuple[int, int]:
    labels = ["" if label == UNLABELED else dataset.classes[label] for label in cells.label]
    about = {**about, "dataset": dataset.digest, "versions": provenance.versions()}
    rows = {"id": cells.id, "domain": cells.domain, "label": np.array(labels, dtype=str), "group": cells.group}
    rows |= _quality(cells)
    with atomic_file(out) as partial:
        (_write_anndata if out.suffix.lower() == ".h5ad" else _write_parquet)(partial, rows, vectors, about)
    if dataset.skipped:
        datasets.write_skipped(_skipped_beside(out), dataset.skipped)
    return vectors.shape[0], vectors.shape[1]


def _quality(cells: Cells) -> dict[str, np.ndarray]:
    """The predicted quality of the cells' masks as a column, where it is known."""
    return {"mask_quality": cells.read(QUALITY)} if QUALITY in cells.columns else {}


def _write_parquet(path: Path, rows: Mapping[str, np.ndarray], vectors: Column, about: Mapping[str, Any]) -> None:
    """`rows`, then a column per feature (f0, f1, …); provenance as JSON under `cellfeat` in the schema's metadata.

    Written group by group, so that the features of many cells are never in memory together.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    def table(some: np.ndarray) -> Any:
        features = vectors.read(some)
        columns = {name: pa.array(values[some]) for name, values in rows.items()}
        columns |= {f"f{i}": pa.array(features[:, i]) for i in range(features.shape[1])}
        return pa.table(columns).replace_schema_metadata({"cellfeat": json.dumps(about)})

    every = np.arange(vectors.shape[0])
    with pq.ParquetWriter(path, table(every[:0]).schema, compression="zstd") as writer:
        for start in range(0, len(every), ROWS_PER_GROUP):
            writer.write_table(table(every[start : start + ROWS_PER_GROUP]))


def _write_anndata(path: Path, rows: Mapping[str, np.ndarray], vectors: Column, about: Mapping[str, Any]) -> None:
    """X = features, obs = `rows`, uns["cellfeat"] = provenance as JSON."""
    anndata = import_extra("anndata", ".h5ad", "a .parquet file needs nothing")
    import pandas as pd

    obs = pd.DataFrame({name: values for name, values in rows.items() if name != "id"}, index=rows["id"].astype(object))
    names = pd.DataFrame(index=[f"f{i}" for i in range(vectors.shape[1])])
    anndata.AnnData(
        X=vectors.read(np.arange(vectors.shape[0])), obs=obs, var=names, uns={"cellfeat": json.dumps(about)}
    ).write_h5ad(path)


def _plain(text: str) -> str:
    """A file name that a spreadsheet would take for a formula is kept text by a leading apostrophe."""
    return f"'{text}" if text[:1] in "=+-@\t\r" else text


def _counts(classes: Sequence[str], chosen: np.ndarray, proba: np.ndarray) -> Table:
    from rich.table import Table

    table = Table(title="Predicted classes", title_justify="left")
    for heading in ("class", "images", "share", "median probability"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for index, name in enumerate(classes):
        rows = chosen == index
        if rows.any():
            middle = np.median(proba[rows, index])
            table.add_row(name, f"{rows.sum():,}", f"{100 * rows.mean():.1f} %", f"{middle:.2f}")
    return table
