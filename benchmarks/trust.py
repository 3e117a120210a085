"""How far probabilities, prediction sets and abstaining of finished runs can be trusted, inside a source and elsewhere.

python benchmarks/trust.py RUN RUN --json trust.jsonl --picture trust.png
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import common
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer

from cellfeat import CellfeatError, Confidence, metrics

LEVELS = (0.8, 0.9, 0.95)  # of coverage
KEPT = (1.0, 0.9, 0.8, 0.7, 0.5)  # shares of the cells that are answered, the surest ones
SHARES = np.linspace(0.05, 1, 20)  # of a drawn curve
SURE = 0.8  # as in `--abstain 0.8`
SCORES = {"ECE": "expected_error", "Brier": "brier", "log loss": "log_loss"}


@dataclass(frozen=True)
class Answers:
    """What was said of n cells that no model had seen that answered them.

    label: (n,) int64. raw, proba: (n, K) float64, as the method gave them and calibrated. sets: by level (n, K) bool.
    """

    label: np.ndarray
    raw: np.ndarray
    proba: np.ndarray
    sets: dict[float, np.ndarray]

    @classmethod
    def of(cls, label: np.ndarray, raw: np.ndarray, confidence: Confidence) -> Answers:
        proba = confidence.calibrated(raw)
        return cls(label, raw, proba, {level: confidence.sets(proba, level) for level in LEVELS})

    @classmethod
    def joined(cls, parts: list[Answers]) -> Answers:
        label, raw, proba = (np.concatenate([getattr(one, key) for one in parts]) for key in ("label", "raw", "proba"))
        return cls(label, raw, proba, {level: np.concatenate([one.sets[level] for one in parts]) for level in LEVELS})


def main(
    run: Annotated[list[Path], typer.Argument(help="Run folders of `cellfeat run`")],
    json: Annotated[Path | None, typer.Option(help="Append a JSON line per run, source and target here")] = None,
    labelled: Annotated[
        int | None, typer.Option(min=1, help="Learn elsewhere from so many labelled cells of the target instead")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Accuracy by the share of cells answered, of every run, as .png or .svg")
    ] = None,
) -> None:
    """Calibration, coverage and accuracy against the share answered, of every source and target.

    Inside the source all held-out cells are judged together, each with temperature and scores of the other folds'
    cells; elsewhere each fold's model, with those of all the source's held-out cells, and the mean is told. Cells of
    classes that the source lacks count: as wrong, and in no set.
    """
    if picture is not None and picture.exists():
        raise CellfeatError(f"{picture} exists and is never overwritten; name another with --picture")
    records = [record for folder in run for record in measured(folder, labelled)]
    common.append_json(json, "trust", records)
    for table in (calibrations(records), coverages(records), abstentions(records)):
        common.show(table)
    if picture is not None:
        draw(records, picture)


def measured(folder: Path, labelled: int | None = None) -> Iterator[dict[str, Any]]:
    """A record for each source and target of a run, the source itself by its held-out folds first, if at all."""
    path = folder / "predictions.parquet"
    if not path.is_file():
        raise CellfeatError(f"{folder} is no finished run: it has no predictions.parquet")
    table = pq.read_table(path)
    for source in pc.unique(table["source"]).to_pylist():
        own = table.filter(pc.equal(table["source"], source))
        confidence = Confidence.read(folder / "pipelines" / source)
        if confidence is None:
            raise CellfeatError(f"{folder}: source {source} has no confidence.json; run again with this cellfeat")
        for target in sorted(pc.unique(own["target"]).to_pylist(), key=lambda name: (name != source, name)):
            rows = own.filter(pc.equal(own["target"], target))
            rows = rows.filter(pc.equal(rows["seed"], rows["seed"][0]))  # whose models the run has kept
            if labelled is not None and target == source:
                continue
            answers = inside(rows, confidence) if target == source else elsewhere(rows, confidence, labelled)
            about = {"run": folder.name, "source": source, "target": target, "labelled": labelled}
            about["temperature"] = None if labelled else confidence.temperature
            yield about | counted(answers[0].label, confidence) | figures(answers, confidence.classes)


def arrays(rows: Any, classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(labels, probabilities, folds)."""
    place = {name: number for number, name in enumerate(classes)}
    label = np.array([place[name] for name in rows["label"].to_pylist()])
    proba = np.stack([rows[f"p_{name}"].to_numpy() for name in classes], axis=1).astype(float)
    return label, proba, rows["fold"].to_numpy()


def inside(rows: Any, confidence: Confidence) -> list[Answers]:
    """Each fold's held-out cells, with what the other folds' answers tell; their models, though, were fitted on it."""
    label, proba, fold = arrays(rows, confidence.classes)
    taught, parts = np.array(confidence.taught), []
    for one in np.unique(fold):
        own = fold == one
        cells = np.arange(np.sum(~own))  # a predictions file does not tell groups: each cell is one
        others = Confidence.of(proba[~own], label[~own], fold[~own], cells, confidence.classes, taught)
        parts.append(Answers.of(label[own], proba[own], others))
    return [Answers.joined(parts)]


def elsewhere(rows: Any, confidence: Confidence, labelled: int | None = None) -> list[Answers]:
    """The answers of each fold's model; of the cells that were not drawn to be learnt from, where any are."""
    label, proba, fold = arrays(rows, confidence.classes)
    found = []
    for one in np.unique(fold):
        own, told = fold == one, confidence
        answers = label[own], proba[own]
        if labelled is not None:
            order = np.random.default_rng(common.SEED).permutation(int(own.sum()))
            told = learnt(answers[0][order[:labelled]], answers[1][order[:labelled]], confidence)
            answers = answers[0][order[labelled:]], answers[1][order[labelled:]]
        found.append(Answers.of(*answers, told))
    return found


def learnt(label: np.ndarray, proba: np.ndarray, confidence: Confidence) -> Confidence:
    """What labelled cells of a target tell of a model that saw none of their labels; classes as the source has them."""
    cells = np.arange(len(label))
    return Confidence.of(proba, label, cells % 2, cells, confidence.classes, np.array(confidence.taught))


def counted(label: np.ndarray, confidence: Confidence) -> dict[str, Any]:
    """How many cells there are of each class, and which classes the source has none of."""
    counts = np.bincount(label, minlength=len(confidence.classes)).tolist()
    untaught = [name for name, taught in zip(confidence.classes, confidence.taught, strict=True) if not taught]
    return {"cells": len(label), "of": dict(zip(confidence.classes, counts, strict=True)), "untaught": untaught}


def figures(models: list[Answers], classes: tuple[str, ...]) -> dict[str, Any]:
    """Means over models. coverage: by level and class, of all cells as `all`, and `size`, classes in a set."""
    before = [metrics.calibration(one.label, one.raw) for one in models]
    after = [metrics.calibration(one.label, one.proba) for one in models]
    curves = [curve(one) for one in models]
    sure = np.concatenate([one.proba.max(axis=1) >= SURE for one in models])
    right = np.concatenate([one.proba.argmax(axis=1) == one.label for one in models])
    return {
        "before": {name: mean(one[name] for one in before) for name in SCORES.values()},
        "after": {name: mean(one[name] for one in after) for name in SCORES.values()},
        "coverage": {str(level): covered(models, level, classes) for level in LEVELS},
        "accuracy_at": {str(share): mean(at(one, share) for one in curves) for share in KEPT},
        "curve": [mean(at(one, share) for one in curves) for share in SHARES],
        "aurc": mean(float((1 - one).mean()) for one in curves),
        "answered": float(sure.mean()),
        "right_of_answered": float(right[sure].mean()) if sure.any() else None,
    }


def mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def covered(models: list[Answers], level: float, classes: tuple[str, ...]) -> dict[str, float]:
    label = np.concatenate([one.label for one in models])
    sets = np.concatenate([one.sets[level] for one in models])
    hit = sets[np.arange(len(label)), label]
    found = {name: float(hit[label == number].mean()) for number, name in enumerate(classes) if (label == number).any()}
    return {**found, "all": float(hit.mean()), "size": float(sets.sum(axis=1).mean())}


def curve(one: Answers) -> np.ndarray:
    """(n,) accuracy of the k surest cells, k = 1..n; of equally sure ones in the order of the rows. One minus its mean
    is the area under the curve of risk and coverage (AURC; Geifman et al., ICLR 2019)."""
    order = np.argsort(-one.proba.max(axis=1), kind="stable")
    return np.cumsum((one.proba.argmax(axis=1) == one.label)[order]) / np.arange(1, len(order) + 1)


def at(accuracy: np.ndarray, share: float) -> float:
    return float(accuracy[max(round(share * len(accuracy)), 1) - 1])


def named(record: dict[str, Any]) -> list[str]:
    inside = record["source"] == record["target"]
    return [record["run"], record["source"], "held-out folds" if inside else record["target"], f"{record['cells']:,}"]


def calibrations(records: list[dict[str, Any]]) -> Any:
    headings = [f"{name} {when}" for name in SCORES for when in ("raw", "calibrated")]
    table = common.new_table("Calibration", "run", "source", "target", "cells", "T", *headings, left=3)
    for one in records:
        values = [f"{one[when][key]:.3f}" for key in SCORES.values() for when in ("before", "after")]
        table.add_row(*named(one), "–" if one["labelled"] else f"{one['temperature']:.2f}", *values)
    return table


def coverages(records: list[dict[str, Any]]) -> Any:
    headings = [f"{100 * level:g} %: all, least class, size" for level in LEVELS]
    title = f"Prediction sets; of the taught classes with {metrics.MINIMUM_CELLS} cells the one that is covered least"
    table = common.new_table(title, "run", "source", "target", "cells", *headings, left=3)
    for one in records:
        told = []
        for level in LEVELS:
            found = one["coverage"][str(level)]
            classes = {name: found[name] for name, n in one["of"].items() if told_of(one, name, n)}
            least = min(classes, key=lambda name: classes[name])
            told.append(f"{percent(found['all'])}, {least} {percent(classes[least])}, {found['size']:.2f}")
        table.add_row(*named(one), *told)
    return table


def told_of(record: dict[str, Any], name: str, cells: int) -> bool:
    return cells >= metrics.MINIMUM_CELLS and name not in record["untaught"]


def abstentions(records: list[dict[str, Any]]) -> Any:
    headings = [f"{100 * share:g} %" for share in KEPT]
    last = (f"answered from {SURE:g}", "right of these")
    table = common.new_table(
        "Accuracy of the surest, per cent", "run", "source", "target", "cells", *headings, "AURC", *last, left=3
    )
    for one in records:
        values = [percent(one["accuracy_at"][str(share)]) for share in KEPT]
        right = "–" if one["right_of_answered"] is None else percent(one["right_of_answered"])
        table.add_row(*named(one), *values, f"{one['aurc']:.3f}", percent(one["answered"]), right)
    return table


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """A row of panels for each run, a panel for each source: accuracy against the share of cells answered."""
    from matplotlib.figure import Figure

    runs = list(dict.fromkeys(one["run"] for one in records))
    sources = list(dict.fromkeys(one["source"] for one in records))
    figure = Figure(figsize=(3.2 * len(sources), 2.6 * len(runs)), layout="constrained")
    panels = figure.subplots(len(runs), len(sources), squeeze=False, sharex=True, sharey=True)
    for one in records:
        panel = panels[runs.index(one["run"])][sources.index(one["source"])]
        panel.plot(100 * SHARES, 100 * np.array(one["curve"]), label=named(one)[2])
        panel.set_title(f"{one['run']}, {one['source']}", fontsize=8)
        panel.legend(fontsize=7)
    figure.supxlabel("cells answered, the surest first (%)", fontsize=8)
    figure.supylabel("of these right (%)", fontsize=8)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    common.start(main)
