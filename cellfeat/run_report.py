"""The report of a run, built from what lies in its folder alone: one page, and its figures as files."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from cellfeat import data_figures, feature_figures, figures, observations, page, prediction_figures, records, transfers
from cellfeat.errors import CellfeatError
from cellfeat.feature_figures import Side, embed
from cellfeat.figures import Figure
from cellfeat.invariance import Invariance, domain_classifier
from cellfeat.observations import BEFORE, Observations
from cellfeat.prediction_figures import Scored
from cellfeat.recipe import parse
from cellfeat.report import caption, interval, method_of, one_per_target, percent
from cellfeat.results_folder import published
from cellfeat.run import PREDICTIONS, RECIPE, RECORDS, SKIPPED
from cellfeat.run_pictures import CellTable, Gallery, cell_tables, galleries, picture_figures

REPORT, FIGURES = "report.html", "figures"
TEMPLATE, STYLE, SCRIPT = "report.html", "report.css", "report.js"
SKIPPED_SHOWN = 200
DRAWING = (data_figures, feature_figures, figures, prediction_figures)

Progress = Callable[[int | None, str], AbstractContextManager[Any]]


class Skipped(NamedTuple):
    """Rows (id, path, reason) of a run's skipped.csv: how many in all, and the first of them."""

    count: int
    rows: list[tuple[str, str, str]]


@dataclass(frozen=True)
class RunFolder:
    """What a run left, read."""

    path: Path
    records: list[dict[str, Any]]
    transfers: list[transfers.Transfer]
    observed: Observations | None
    skipped: Skipped

    @classmethod
    def read(cls, path: Path) -> RunFolder:
        """Raises: CellfeatError where this is no run folder."""
        if not (path / RECORDS).is_file():
            raise CellfeatError(
                f"{path} is no run folder: it has no {RECORDS}. A report is made of what `cellfeat run` left, as in "
                "`cellfeat report runs/NAME`"
            )
        found = records.read(path / RECORDS)
        if not found or "recipe" not in found[0]:
            raise CellfeatError(f"{path / RECORDS} has no record of a run")
        known = transfers.read(path / PREDICTIONS, found[0]["classes"]) if (path / PREDICTIONS).is_file() else []
        return cls(path, found, known, observations.read(path), _skipped(path / SKIPPED))

    @property
    def scored(self) -> list[Scored]:
        """The records by transfer, each with its predictions."""
        by_pair = {(one.source, one.target): one for one in self.transfers}
        pairs: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for record in self.records:
            pairs.setdefault((record["source"], record["target"]), []).append(record)
        return [Scored(_title(some[0]), some, by_pair.get(pair)) for pair, some in pairs.items()]


def _title(record: dict[str, Any]) -> str:
    if record["held_out_folds"]:
        return f"{record['source']} (held-out folds)"
    return f"{record['source']} → {record['target']}"


def _skipped(path: Path) -> Skipped:
    if not path.is_file():
        return Skipped(0, [])
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file)
        shown = [(row["id"], row["path"], row["reason"]) for row in islice(lines, SKIPPED_SHOWN)]
        return Skipped(len(shown) + sum(1 for _ in lines), shown)


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
    figures.refuse_foreign(target)
    page.write(target, rendered(folder, drawn, embedding))
    written: list[Path] = []
    if figures_as:
        files = [*drawn.figures, *picture_figures(drawn.cells, drawn.galleries)]
        show = progress or _silent
        with show(len(files), "writing figures") as bar:
            for figure in files:
                written += figures.save(figure, run / FIGURES, figures_as)
                _advance(bar)
    return target, written


def _check(out: Path, figures_as: str | None, embedding: str) -> None:
    if out.suffix.lower() not in (".html", ".htm"):
        raise CellfeatError(f"--out {out}: the name must end in .html")
    if figures_as is not None and figures_as not in figures.FORMATS:
        raise CellfeatError(f"--figures {figures_as!r}: possible are {', '.join(figures.FORMATS)}")
    feature_figures.check_method(embedding)
    figures.refuse_foreign(out)


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
        prediction_figures.calibration(scored),
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
    seed, found, made = observed.summary["seed"], dict[str, Invariance](), []
    sources = list(dict.fromkeys(record["source"] for record in folder.records))
    wanted = [source for source in sources if observations.after(source) in observed.features]
    names = [*([BEFORE] if BEFORE in observed.features else []), *map(observations.after, wanted)]
    sides: dict[str, Side] = {}
    with progress(len(names), f"{feature_figures.METHODS[embedding]} of features") as bar:
        for name in names:
            sample = observed.features[name]
            number = domain_classifier(sample.values, sample.domain, sample.group, seed)
            title = "before alignment" if name == BEFORE else f"after, pipeline of {name.removeprefix('after ')}"
            if number is not None:
                found[title] = number
            sides[name] = Side("after alignment" if name != BEFORE else title, embed(sample, embedding, seed), number)
            _advance(bar)
    classes = observed.summary["classes"]
    for source in wanted:
        both = [sides[name] for name in (BEFORE, observations.after(source)) if name in sides]
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
        lead=_lead(folder),
        results=_results(folder.records),
        captions=caption(folder.records).split("\n"),
        facts=_facts(folder.records),
        versions=first.get("versions", {}),
        plugins=first.get("plugins", {}),
        recipe=_recipe(first),
        notices=_notices(folder),
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
                    Markup(figures.for_page(panel, f"{prefix}{number}-{place}")),  # noqa: S704 - escaped by its writer
                    panel.width > figures.ONE_COLUMN,
                )
                for place, panel in enumerate(figure.panels)
            ],
        )
        for number, figure in enumerate(drawn)
    ]


def _lead(folder: RunFolder) -> str:
    first = folder.records[0]
    domains = sorted({record["target"] for record in folder.records})
    cells = first["dataset"]["cells"]
    return f"{cells:,} cells of {', '.join(domains)}; {first.get('created', 'no date')}"


def _results(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The result table's rows: transfers by source, then what always answering the commonest class scores."""
    several = len({record["seed"] for record in found}) > 1
    rows = []
    for record in found:
        seed = f" · seed {record['seed']}" if several else ""
        scores = [record["scores"][name] for name in ("accuracy", "balanced_accuracy", "macro_f1")]
        values = [(percent(score["mean"]), interval(score["low"], score["high"])) for score in scores]
        ceiling = percent((record.get("ceiling") or {}).get("balanced_accuracy"))
        majority = percent(record["majority"]["balanced_accuracy"])
        rows.append((f"{_title(record)}{seed}", f"{record['cells']:,}", values, majority, ceiling, record["source"]))
    floors = [
        (record["target"], f"{record['cells']:,}", [percent(record["majority"][name]) for name in _SCORES])
        for record in one_per_target(found)
    ]
    return {"rows": rows, "floors": floors}


_SCORES = ("accuracy", "balanced_accuracy", "macro_f1")


def _facts(found: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """What was run with what, by name."""
    first, data = found[0], found[0]["dataset"]
    hardware = first.get("hardware", {})
    fits = {(record["source"], record["seed"]): record["seconds"] for record in found}
    saw = first["weights_saw"]
    counts = f"{data['cells']:,} cells"
    if data.get("skipped"):
        counts += f", {data['skipped']:,} files or rows skipped"
    if data.get("dropped"):
        dropped = ", ".join(f"{name} {n:,}" for name, n in data["dropped"].items())
        counts += f", {sum(data['dropped'].values()):,} whose label has no class ({dropped})"
    facts = [
        ("Method", method_of(first)),
        ("Data", f"{Path(str(data['manifest'])).name}: {counts}"),
        ("Digest of the data", str(data["digest"])),
        ("Digest of the recipe", str(first.get("recipe_digest", "not recorded"))),
        ("Protocol", f"{first['recipe']['protocol'].get('name')}, adapt: {first['adapt']}"),
        ("Seeds", ", ".join(str(seed) for seed in dict.fromkeys(record["seed"] for record in found))),
        ("Weights", str(first["backbone"].get("weights_sha256") or "none, or without a digest")),
        ("Weights saw", "not known" if saw is None else ", ".join(saw) or "no data named"),
        ("Time of fits and answers", f"{sum(fits.values()):,.0f} s, encoding not counted"),
        ("Hardware", _hardware(hardware)),
        ("Made", str(first.get("created", "not recorded"))),
    ]
    memory = [record["peak_memory_mb"] for record in found if record.get("peak_memory_mb")]
    if memory:
        facts.insert(-1, ("Most memory", f"{max(memory):,} MB"))
    return facts


def _hardware(found: dict[str, Any]) -> str:
    if not found:
        return "not recorded"
    parts = [found.get("gpu"), found.get("cpu"), f"{found.get('threads')} threads on {found.get('cores')} cores"]
    return ", ".join(str(part) for part in [*parts, found.get("system")] if part)


def _recipe(record: dict[str, Any]) -> str:
    """The recipe as YAML, files by their names alone."""
    import yaml

    try:
        return published(parse(record["recipe"])).as_yaml()
    except CellfeatError:  # of another version, with sections that this one does not know
        return yaml.safe_dump(record["recipe"], sort_keys=False, allow_unicode=True)


def _notices(folder: RunFolder) -> list[str]:
    """What the page lacks, why, and which command makes it."""
    again = f"cellfeat run --recipe {folder.path.name}/{RECIPE} --out NEW"
    found = []
    if not folder.transfers:
        found.append(
            f"There is no {PREDICTIONS} in this folder, so that reliability, mistakes and uncertain cells are missing. "
            f"Copy it too, or run again: {again}"
        )
    if folder.observed is None:
        return [
            *found,
            "This run was made before runs kept grey levels, features and pictures for a report, or its folder was "
            f"copied without {observations.FOLDER}/: the sections on data and features are missing. To have them, run "
            f"again: {again}",
        ]
    summary = folder.observed.summary
    if not summary["pictures"]:
        found.append(f"The run kept no pictures of cells (--no-pictures). To have them, run again: {again}")
    return [*found, *(f"Missing: {what} ({reason})." for what, reason in summary["missing"].items())]


def built_from(run: Path, embedding: str = "tsne") -> str:
    """Digest of what a report is built from: the run folder's inputs, and the programs that draw."""
    digest = hashlib.sha256(f"{page.sources_digest([TEMPLATE, STYLE, SCRIPT])}|{embedding}".encode())
    for path in _inputs(run):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    for module in (*DRAWING, *_own_modules()):
        digest.update(hashlib.sha256(Path(str(module.__file__)).read_bytes()).digest())
    return digest.hexdigest()[:32]


def _inputs(run: Path) -> Iterator[Path]:
    folder = run / observations.FOLDER
    names = [run / name for name in (RECORDS, PREDICTIONS, SKIPPED, RECIPE)]
    names += [folder / name for name in (observations.SUMMARY, observations.FEATURES, observations.PICTURES)]
    return (path for path in names if path.is_file())


def _own_modules() -> tuple[Any, ...]:
    import sys

    from cellfeat import drawing, invariance, report, run_pictures

    return drawing, invariance, report, run_pictures, transfers, sys.modules[__name__]
