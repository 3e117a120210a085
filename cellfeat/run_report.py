"""The report of a run, built from what lies in its folder alone: one page, and its figures as files."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

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
from cellfeat.figures import Figure, free, slug
from cellfeat.invariance import domain_classifiers
from cellfeat.observation_files import BEFORE, Observations, Sample
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

    out: RUN/report.html by default. figures_as: "svg", "pdf" or "png", into RUN/figures. What an earlier report wrote
    is replaced, nothing else.

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
        show, taken = progress or _silent, set[str]()
        with show(len(files), "writing figures") as bar:
            for figure in files:
                written += rendering.save(figure, run / FIGURES, figures_as, taken)
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
    """The domain classifiers' numbers, and a map of every kind of features."""
    observed = folder.observed
    if observed is None or not observed.features:
        return []
    seed, classes, kinds = observed.summary["seed"], observed.summary["classes"], _kinds(folder.records, observed)
    sides: dict[str, Side] = {}
    made = []
    with progress(len(kinds), f"{feature_figures.METHODS[embedding]} of features") as bar:
        for kind in kinds:
            sample = kind.sample
            number = domain_classifiers(sample.values, sample.domain, sample.group, seed)
            side = sides[kind.name] = Side(kind.name, embed(sample, embedding, seed), number, kind.about)
            before = sides.get(kind.before)
            made.append(feature_figures.embeddings(side, classes, embedding, kind.shown, before))
            _advance(bar)
    numbers = feature_figures.invariance({name: side.invariance for name, side in sides.items() if side.invariance})
    return [*([numbers] if numbers else []), *made]


class Kind(NamedTuple):
    """Features to be looked at. shown: what the alignment was shown; before: name of those that they are made of."""

    name: str
    sample: Sample
    about: Mapping[str, Any]
    shown: str = ""
    before: str = ""


def _kinds(found: Sequence[dict[str, Any]], observed: Observations) -> list[Kind]:
    """Features before alignment, of the same cells as those that each pipeline gave, once for pipelines of the same
    laboratories; then these. A single kind where nothing is aligned."""
    about = observed.summary["features"]
    sources = list(dict.fromkeys(record["source"] for record in found))
    after = {source: observation_files.after(source) for source in sources}
    after = {source: name for source, name in after.items() if name in observed.features}
    if all(part["name"] == "none" for part in found[0]["recipe"]["align"]):
        name = next((one for one in (BEFORE, *after.values()) if one in observed.features), None)
        return [Kind("features", observed.features[name], about.get(name, {}))] if name else []
    domains = {source: tuple(np.unique(observed.features[name].domain)) for source, name in after.items()}
    several = len(set(domains.values())) > 1
    adaptable, kinds = observed.summary.get("adaptable", {}), list[Kind]()
    for place, (source, name) in enumerate(after.items()):
        before = f"before alignment ({', '.join(domains[source])})" if several else "before alignment"
        if BEFORE in observed.features and domains[source] not in list(domains.values())[:place]:
            kinds.append(_before(observed, before, domains[source]))
        shown = run_facts.was_shown(found, source, adaptable.get(source, ()))
        kinds.append(Kind(f"after, pipeline of {source}", observed.features[name], about.get(name, {}), shown, before))
    if not after:
        kinds = [_before(observed, "before alignment", tuple(np.unique(observed.features[BEFORE].domain)))]
    return kinds


def _before(observed: Observations, name: str, domains: Sequence[str]) -> Kind:
    sample, about = observed.features[BEFORE], observed.summary["features"].get(BEFORE, {})
    inside = np.isin(sample.domain, domains)
    part = Sample(*(column[inside] for column in sample))
    return Kind(name, part, about if inside.all() else {"width": about.get("width")})


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
    """A figure on the page: its id, and every panel as (title, SVG, whether it is wider than a phone)."""

    figure: Figure
    id: str
    panels: list[tuple[str, Any, bool]]


def _on_page(drawn: Sequence[Figure], prefix: str) -> list[Shown]:
    from markupsafe import Markup

    taken: set[str] = set()

    return [
        Shown(
            figure,
            free(f"figure-{slug(figure.name)}", taken),
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
    """Digest of what a report is built from: the run folder's inputs, and the programs that draw. By its first word
    `rendering.refuse_foreign` knows a report's page from other pages."""
    digest = hashlib.sha256(f"{page.sources_digest([TEMPLATE, STYLE, SCRIPT])}|{embedding}".encode())
    for path in inputs(run):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    for module in (*DRAWING, *TELLING, sys.modules[__name__]):
        digest.update(hashlib.sha256(Path(str(module.__file__)).read_bytes()).digest())
    return f"report-{digest.hexdigest()[:32]}"
