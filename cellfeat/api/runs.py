"""Runs and their use: the commands `run`, its `--dry-run`, `extract`, `transform`, `predict` and `report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellfeat.api.working import Sets, assignments, bar, workplace

if TYPE_CHECKING:
    from cellfeat.plan import Plan
    from cellfeat.recipe import Recipe


def run(
    data: str | Path | None = None,
    *,
    labels: str | None = None,
    backbone: str | None = None,
    segmenter: str | None = None,
    align: str | list[str] | None = None,
    clf: str | None = None,
    recipe: str | None = None,
    sets: Sets = (),
    source: Sequence[str] = (),
    target: Sequence[str] = (),
    adapt: str | None = None,
    folds: int | None = None,
    seed: int | None = None,
    device: str = "auto",
    precision: str = "fp32",
    compile: bool = False,
    batch: int | None = None,
    half_maps: bool = False,
    pictures: bool = True,
    skip_bad: bool = False,
    out: str | Path | None = None,
    verbose: bool = False,
) -> tuple[Path, list[dict[str, Any]]]:
    """Fit on each source laboratory, test on every other, save the pipelines; gives the run folder and its records.

    data: a manifest; None, without a recipe: the demo. align: a method, or a chain as a list or "cae,coral". clf: None
    is the method's own head, or svm-linear. sets: {"align.epochs": 50}. out: None is runs/<time>-<method>. The others
    as of `cellfeat run`.

    Raises: CellfeatError for what does not fit together, for bad images, and where `out` exists.
    """
    from cellfeat import run as runs

    protocol = _protocol(source, target, adapt, folds, seed)
    composed = _composed(data, labels, backbone, segmenter, align, clf, recipe, protocol, sets)
    folder = runs.default_out(composed) if out is None else Path(out)
    work = workplace(verbose, device, precision, skip_bad, batch, half_maps, compile)
    return runs.run(composed, folder, work, pictures)


def plan(
    data: str | Path | None = None,
    *,
    labels: str | None = None,
    backbone: str | None = None,
    segmenter: str | None = None,
    align: str | list[str] | None = None,
    clf: str | None = None,
    recipe: str | None = None,
    sets: Sets = (),
    source: Sequence[str] = (),
    target: Sequence[str] = (),
    adapt: str | None = None,
    folds: int | None = None,
    seed: int | None = None,
    device: str = "auto",
    precision: str = "fp32",
    compile: bool = False,
    batch: int | None = None,
    half_maps: bool = False,
    skip_bad: bool = False,
    verbose: bool = False,
) -> Plan:
    """What `run` with these arguments would do, as `cellfeat run --dry-run` says it; nothing is run.

    Raises: CellfeatError as `run` does, before any work.
    """
    from cellfeat.plan import Planner

    protocol = _protocol(source, target, adapt, folds, seed)
    composed = _composed(data, labels, backbone, segmenter, align, clf, recipe, protocol, sets)
    return Planner(workplace(verbose, device, precision, skip_bad, batch, half_maps, compile))(composed)


def _protocol(
    source: Sequence[str], target: Sequence[str], adapt: str | None, folds: int | None, seed: int | None
) -> dict[str, Any]:
    seeds = None if seed is None else [seed]
    return {"source": list(source), "target": list(target), "adapt": adapt, "folds": folds, "seeds": seeds}


def _composed(
    data: str | Path | None,
    labels: str | None,
    backbone: str | None,
    segmenter: str | None,
    align: str | list[str] | None,
    clf: str | None,
    recipe: str | None,
    protocol: dict[str, Any],
    sets: Sets,
) -> Recipe:
    from cellfeat import compose

    return compose.recipe(
        recipe=recipe,
        data=None if data is None else str(data),
        labels=labels,
        backbone=backbone,
        segmenter=segmenter,
        align=",".join(align) if isinstance(align, (list, tuple)) else align,
        classifier=clf,
        protocol=protocol,
        sets=assignments(sets),
    )


def extract(
    data: str | Path,
    out: str | Path,
    *,
    labels: str | None = None,
    backbone: str | None = None,
    segmenter: str | None = None,
    sets: Sets = (),
    device: str = "auto",
    precision: str = "fp32",
    compile: bool = False,
    batch: int | None = None,
    skip_bad: bool = False,
    engine: str = "local",
    address: str | None = None,
    encoders: int | None = None,
    verbose: bool = False,
) -> tuple[int, int]:
    """Write the pooled features of every cell of a manifest, before any alignment; gives (cells, features).

    out: a name that ends as one of the formats that `cellfeat extract` writes. engine: "local", or "ray", whose cluster
    is at `address` and encodes in `encoders` processes. For an array instead of a file: `cellfeat.CellFeatures`.

    Raises: CellfeatError for bad images, and where `out` exists.
    """
    from cellfeat import compose, use

    composed = compose.recipe(
        data=str(data),
        labels=labels,
        backbone=backbone,
        segmenter=segmenter,
        sets=assignments(sets),
        sections=compose.ENCODING,
    )
    work = workplace(verbose, device, precision, skip_bad, batch, compile=compile)
    return use.extract(composed, Path(out), work, engine, address, encoders)


def transform(
    run: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    source: str | None = None,
    refit: bool = False,
    device: str = "auto",
    precision: str = "fp32",
    skip_bad: bool = False,
    verbose: bool = False,
) -> tuple[int, int]:
    """Write the aligned features of a manifest's cells, by a finished run's pipeline; gives (cells, features).

    source: whose pipeline, where the run has several. refit: fit again with these cells among those adapted to. For an
    array instead of a file: `cellfeat.load`.

    Raises: CellfeatError, an `UnseenDomainError` for a laboratory that the method cannot place; where `out` exists.
    """
    from cellfeat import use

    work = workplace(verbose, device, precision, skip_bad)
    return use.transform(Path(run), str(data), Path(out), source, refit, work)


def predict(
    run: str | Path,
    images: str | Path | Sequence[str | Path],
    out: str | Path = "predictions.csv",
    *,
    domain: str = "new",
    source: str | None = None,
    refit: bool = False,
    device: str = "auto",
    precision: str = "fp32",
    skip_bad: bool = False,
    per_group: str | Path | None = None,
    labelled: str | Path | None = None,
    before: str | Path | None = None,
    verbose: bool = False,
) -> int:
    """Write labels and probabilities of new images, which are one new laboratory; gives their number.

    images: files, folders of them, or one manifest. domain: the laboratory's name. per_group: another CSV to write, the
    classes' shares in each group of the manifest or folder. labelled: a manifest of labelled cells to fit again with.
    before: earlier answers, checked here; what changed is told by `cellfeat predict`. For arrays instead of a file:
    `cellfeat.load`.

    Raises: CellfeatError, an `UnseenDomainError` for a laboratory that the method cannot place; where `out` exists.
    """
    from cellfeat import use

    named = [images] if isinstance(images, (str, Path)) else list(images)
    work = workplace(verbose, device, precision, skip_bad)
    shares = None if per_group is None else Path(per_group)
    return use.predict(
        Path(run),
        [Path(one) for one in named],
        Path(out),
        domain,
        source,
        refit,
        work,
        shares,
        labelled=None if labelled is None else Path(labelled),
        before=None if before is None else Path(before),
    )[1]


def report(
    run: str | Path,
    out: str | Path | None = None,
    *,
    figures: str | None = None,
    embedding: str = "tsne",
    verbose: bool = False,
) -> tuple[Path, list[Path]]:
    """Write one page about a finished run; gives its path and those of its figures.

    out: None is RUN/report.html. figures: "svg", "pdf" or "png" for files in RUN/figures too. embedding: "tsne" or
    "umap".

    Raises: CellfeatError for a folder that is no run's.
    """
    from cellfeat.run_report import write_report

    return write_report(Path(run), None if out is None else Path(out), figures, embedding, bar(verbose))
