"""The report of a run, built from what lies in its folder alone: one page, and its figures as files."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from cellfeat import (
    data_figures,
    drawing,
    feature_figures,
    figures,
    invariance,
    observation_files,
    page,
    prediction_figures,
    reliability_figures,
    rendering,
    report,
    run_facts,
    run_folder,
    run_pictures,
    transfers,
)
from cellfeat.errors import CellfeatError
from cellfeat.feature_figures import Side, embed
from cellfeat.figures import Figure
from cellfeat.invariance import Invariance, Untold, domain_classifiers
from cellfeat.observation_files import BEFORE
from cellfeat.report import caption, method_of
from cellfeat.run import SKIPPED
from cellfeat.run_folder import RunFolder, inputs
from cellfeat.run_pictures import CellTable, Gallery, cell_tables, galleries, picture_figures

REPORT, FIGURES = "report.html", "figures"
TEMPLATE, STYLE, SCRIPT = "report.html", "report.css", "report.js"
DRAWING = (data_figures, feature_figures, figures, prediction_figures, reliability_figures, rendering)
TELLING = (drawing, invariance, report, run_facts, run_folder, run_pictures, transfers)

Progress = Callable[[int | None, str], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Drawn:
    """All that a report shows but for its tables of facts."""

    data: list[Figure]
    features: list[Figure]
    predictions: list[Figure]
    cells: list[CellTable]
    galleries: list[Gallery]

    @property
    def figures(self) -> list[Figure]:
        return [*self.data, *self.features, *self.predictions]


def write_report(
    run: Path,
    out: Path | None = None,
    figures_as: str | None = None,
    embedding: str = "tsne",
    progress: Progress | None = None,
) -> tuple[Path, list[Path]]:
    """Write the page of a run, and its figures as files where a format is named; gives their paths.

    out: RUN/report.html by default. figures_as: "svg", "pdf" or "png", into RUN/figures. What cellfeat itself wrote is
    replaced, nothing else.

    Raises: CellfeatError for a folder that is no run's, an unknown format or embedding, a file in the way.
    """
    target = out or run / REPORT
    _check(target, figures_as, embedding)
    folder = RunFolder.read(run)
    drawn = draw(folder, embedding, progress)
    rendering.refuse_foreign(target)
    page.write(target, rendered(folder, drawn, embedding))
    written: list[Path] = []
    if figures_as:
        files = [*drawn.figures, *picture_figures(drawn.cells, drawn.galleries)]
        show = progress or _silent
        with show(len(files), "writing figures") as bar:
            for figure in files:
                written += rendering.save(figure, run / FIGURES, figures_as)
                _advance(bar)
    return target, written


def _check(out: Path, figures_as: str | None, embedding: str) -> None:
    if out.suffix.lower() not in (".html", ".htm"):
        raise CellfeatError(f"--out {out}: the name must end in .html")
    if figures_as is not None and figures_as not in rendering.FORMATS:
        raise CellfeatError(f"--figures {figures_as!r}: possible are {', '.join(rendering.FORMATS)}")
    feature_figures.check_method(embedding)
    rendering.refuse_foreign(out)


def _silent(total: int | None, text: str) -> AbstractContextManager[Any]:
    return nullcontext()


def _advance(bar: Any) -> None:
    if bar is not None:
        bar.advance()


def draw(folder: RunFolder, embedding: str = "tsne", progress: Progress | None = None) -> Drawn:
    """Every figure of a run that its folder has the material for."""
    observed, scored = folder.observed, folder.scored
    data = []
    if observed is not None:
        grey = data_figures.grey_levels(observed.summary)
        data = [*([grey] if grey else []), data_figures.class_counts(observed.summary)]
    intervals = {
        (one["source"], one["target"]): one["intervals"] for one in (observed.summary["recall"] if observed else [])
    }
    found = [
        prediction_figures.scores(scored),
        prediction_figures.confusions(scored),
        prediction_figures.recall(scored, intervals),
        reliability_figures.calibration(scored),
    ]
    return Drawn(
        data,
        _of_features(folder, embedding, progress or _silent),
        [figure for figure in found if figure],
        cell_tables(observed) if observed else [],
        galleries(folder.scored, observed) if folder.transfers else [],
    )


def _of_features(folder: RunFolder, embedding: str, progress: Progress) -> list[Figure]:
    """The domain classifier's numbers, and a map for each source."""
    observed = folder.observed
    if observed is None or not observed.features:
        return []
    seed, found, made = observed.summary["seed"], dict[str, Invariance | Untold](), []
    sources = list(dict.fromkeys(record["source"] for record in folder.records))
    wanted = [source for source in sources if observation_files.after(source) in observed.features]
    names = [*([BEFORE] if BEFORE in observed.features else []), *map(observation_files.after, wanted)]
    sides: dict[str, Side] = {}
    with progress(len(names), f"{feature_figures.METHODS[embedding]} of features") as bar:
        for name in names:
            sample = observed.features[name]
            number = domain_classifiers(sample.values, sample.domain, sample.group, seed)
            title = "before alignment" if name == BEFORE else f"after, pipeline of {name.removeprefix('after ')}"
            found[title] = number
            sides[name] = Side("after alignment" if name != BEFORE else title, embed(sample, embedding, seed), number)
            _advance(bar)
    classes = observed.summary["classes"]
    for source in wanted:
        both = [sides[name] for name in (BEFORE, observation_files.after(source)) if name in sides]
        made.append(feature_figures.embeddings(source, both, classes, embedding, _was_shown(folder.records, source)))
    numbers = feature_figures.invariance(found)
    return [*([numbers] if numbers else []), *made]


def _was_shown(found: Sequence[dict[str, Any]], source: str) -> str:
    """Which cells the pipeline that gave the features was fitted on, as a sentence."""
    some = [record for record in found if record["source"] == source]
    first, others = some[0], sorted({name for record in some for name in record["adapted_to"]})
    if not first.get("uses_target", True) and not first.get("uses_labels", True):
        return f"The alignment was fitted on all cells of {source}, without labels; no other cell was shown to it."
    labels = "with" if first.get("uses_labels") else "without"
    shown = f"The alignment of this pipeline was shown all cells of {source} {labels} labels"
    if not others:
        return f"{shown}, and no cell of another laboratory."
    return f"{shown}, and all cells of {', '.join(others)} without labels (adapt: {first['adapt']})."


def rendered(folder: RunFolder, drawn: Drawn, embedding: str = "tsne") -> str:
    """The page as text."""
    first = folder.records[0]
    return page.render(
        TEMPLATE,
        [STYLE],
        [SCRIPT],
        version=version("cellfeat"),
        built_from=built_from(folder.path, embedding),
        title=f"Run report: {method_of(first)}",
        lead=run_facts.lead(folder),
        results=run_facts.results(folder.records),
        captions=caption(folder.records).split("\n"),
        facts=run_facts.facts(folder.records),
        versions=first.get("versions", {}),
        plugins=first.get("plugins", {}),
        recipe=run_facts.recipe_text(first),
        notices=run_facts.notices(folder),
        sections=[
            ("data", "Data", _on_page(drawn.data, "d")),
            ("features", "Features", _on_page(drawn.features, "f")),
            ("predictions", "Predictions", _on_page(drawn.predictions, "p")),
        ],
        cells=drawn.cells,
        galleries=drawn.galleries,
        skipped=folder.skipped,
        skipped_file=SKIPPED,
    )


class Shown(NamedTuple):
    """A figure on the page: every panel as (title, SVG, whether it is wider than a phone)."""

    figure: Figure
    panels: list[tuple[str, Any, bool]]


def _on_page(drawn: Sequence[Figure], prefix: str) -> list[Shown]:
    from markupsafe import Markup

    return [
        Shown(
            figure,
            [
                (
                    panel.title,
                    Markup(rendering.for_page(panel, f"{prefix}{number}-{place}")),
                    panel.width > figures.ONE_COLUMN,
                )
                for place, panel in enumerate(figure.panels)
            ],
        )
        for number, figure in enumerate(drawn)
    ]


def built_from(run: Path, embedding: str = "tsne") -> str:
    """Digest of what a report is built from: the run folder's inputs, and the programs that draw."""
    digest = hashlib.sha256(f"{page.sources_digest([TEMPLATE, STYLE, SCRIPT])}|{embedding}".encode())
    for path in inputs(run):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    for module in (*DRAWING, *TELLING, sys.modules[__name__]):
        digest.update(hashlib.sha256(Path(str(module.__file__)).read_bytes()).digest())
    return digest.hexdigest()[:32]
