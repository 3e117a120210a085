"""Figures of a run's predictions: scores, confusion matrices, recall by class, reliability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cellfeat.figures import (
    BAD,
    COLOURS,
    GOOD,
    ONE_COLUMN,
    QUIET,
    Figure,
    Numbers,
    Panel,
    axis_title,
    legend,
    named_ticks,
    plain_axes,
)
from cellfeat.metrics import CALIBRATION_BINS, recalls
from cellfeat.report import interval, percent
from cellfeat.transfers import Bin, Transfer, recall_intervals, reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

MOST = 36  # transfers that are drawn
STRONGEST = 0.5  # opacity of a full cell: text on it stays readable in both themes


class Scored(NamedTuple):
    """One transfer with its records, one for each seed, and its predictions where they are known."""

    title: str
    records: Sequence[dict[str, Any]]
    transfer: Transfer | None

    @property
    def confusion(self) -> np.ndarray:
        """(K, K) mean over seeds of the mean over models."""
        return np.mean([record["confusion"] for record in self.records], axis=0)

    @property
    def cells(self) -> int:
        return int(self.records[0]["cells"])


def _models(one: Scored) -> str:
    if one.transfer is None or one.transfer.models == 1:
        return ""
    return f" × {one.transfer.models} models"


def scores(scored: Sequence[Scored]) -> Figure:
    """Balanced accuracy of every transfer with its interval, and what costs nothing beside it."""
    rows = [(one, record) for one in scored for record in one.records][:MOST]
    several = len({record["seed"] for _, record in rows}) > 1
    names = [one.title + (f" · seed {record['seed']}" if several else "") for one, record in rows]

    def draw(figure: FigureBase, points: float) -> None:
        axes = figure.add_subplot()
        plain_axes(axes, points, grid="x")
        for place, (_, record) in enumerate(rows):
            score, low = record["scores"]["balanced_accuracy"], record["majority"]["balanced_accuracy"]
            if score["mean"] is None:
                continue
            axes.plot([100 * score["low"], 100 * score["high"]], [place, place], color=GOOD, linewidth=1.6)
            dot = axes.plot([100 * score["mean"]], [place], "o", color=GOOD, markersize=4)[0]
            mark = axes.plot([100 * low], [place], "|", color=BAD, markersize=7, markeredgewidth=1.4)[0]
        named_ticks(axes, "y", names, points)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, 102)
        axis_title(axes, "x", "balanced accuracy (%)", points)
        if any(record["scores"]["balanced_accuracy"]["mean"] is not None for _, record in rows):
            legend(figure, [dot, mark], ["mean and 95 % interval", "majority class"], points, 2)

    words = "; ".join(
        f"{name} {percent(record['scores']['balanced_accuracy']['mean'])} %"
        for name, (_, record) in zip(names, rows, strict=True)
    )
    panel = Panel("", draw, f"Balanced accuracy by transfer: {words}", ONE_COLUMN, 18 + 5 * len(rows))
    caption = (
        "Balanced accuracy (mean recall of the classes with at least 10 cells) of every transfer, its 95 % bootstrap "
        "interval, and what always answering the target's commonest class would score. The table has the numbers."
    )
    return Figure("scores", "Balanced accuracy", caption, [panel], columns=1)


def confusions(scored: Sequence[Scored]) -> Figure:
    """A row-normalised confusion matrix for each transfer."""
    panels = [_confusion_panel(one) for one in scored[:MOST]]
    rows = [
        [one.title, true, *(_count(value) for value in line)]
        for one in scored
        for true, line in zip(one.records[0]["classes"], one.confusion, strict=True)
        if sum(line)
    ]
    caption = (
        "Rows are true classes, columns predicted ones; each row adds up to 100 %. Below the percentage: cells, as the "
        "mean over the models (folds and seeds) that answered them, so that counts may be broken. Blue is right, orange "
        f"wrong, the stronger the larger the share. n is the number of the target's cells.{_left_out(scored)}"
    )
    classes = scored[0].records[0]["classes"]
    numbers = Numbers(["transfer", "true class", *classes], rows, texts=2)
    return Figure("confusion", "Confusion matrices", caption, panels, numbers, apart=True)


def _left_out(scored: Sequence[Scored]) -> str:
    return f" Drawn are {MOST} of {len(scored)} transfers; the table has all." if len(scored) > MOST else ""


def _count(value: float) -> str:
    return f"{value:,.0f}" if abs(value - round(value)) < 0.05 else f"{value:,.1f}"


def _confusion_panel(one: Scored) -> Panel:
    matrix, classes = one.confusion, list(one.records[0]["classes"])
    used = [i for i in range(len(classes)) if matrix[i].sum() or matrix[:, i].sum()]
    matrix, classes = matrix[np.ix_(used, used)], [classes[i] for i in used]
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1e-12)

    def draw(figure: FigureBase, points: float) -> None:
        from matplotlib.patches import Rectangle

        axes = figure.add_subplot()
        plain_axes(axes, points)
        axes.spines["bottom"].set_visible(False)
        for row, column in np.ndindex(*matrix.shape):
            if not matrix[row].sum():
                continue
            corner, alpha = (column - 0.48, row - 0.48), STRONGEST * float(share[row, column])
            colour = GOOD if row == column else BAD
            axes.add_patch(Rectangle(corner, 0.96, 0.96, facecolor=colour, alpha=alpha, linewidth=0))
            if matrix[row, column] >= 0.05:
                text = {"ha": "center", "fontsize": points}
                axes.text(column, row + 0.02, f"{100 * share[row, column]:.0f}", va="bottom", **text)
                small = {"ha": "center", "fontsize": 0.82 * points, "color": QUIET}
                axes.text(column, row + 0.06, _count(matrix[row, column]), va="top", **small)
        axes.set_xlim(-0.5, len(classes) - 0.5)
        axes.set_ylim(len(classes) - 0.5, -0.5)
        axes.tick_params(length=0)
        named_ticks(axes, "x", classes, points, rotation=40, ha="right", rotation_mode="anchor")
        rows = [f"{name} (n = {total:,.0f})" for name, total in zip(classes, matrix.sum(axis=1), strict=True)]
        named_ticks(axes, "y", rows, points)
        axis_title(axes, "x", "predicted class (%, cells)", points)
        axis_title(axes, "y", "true class", points)

    worst = _worst(share, classes)
    size = max(11.0, 62 / max(len(classes), 1)) if len(classes) < 6 else 11.0
    width = max(ONE_COLUMN, 38 + 11.0 * len(classes))
    height = 30 + min(size, 11.0) * len(classes)
    alt = f"{len(classes)} by {len(classes)} matrix, n = {one.cells:,} cells{_models(one)}; {worst}"
    return Panel(one.title, draw, alt, width, height)


def _worst(share: np.ndarray, classes: Sequence[str]) -> str:
    wrong = share - np.diag(np.diagonal(share))
    row, column = np.unravel_index(wrong.argmax(), wrong.shape)
    if not wrong.max():
        return "no cell is misclassified"
    return f"the largest confusion: {100 * wrong.max():.0f} % of {classes[row]} called {classes[column]}"


Intervals = Mapping[tuple[str, str], Mapping[str, Sequence[float]]]


def recall(scored: Sequence[Scored], intervals: Intervals) -> Figure | None:
    """Recall of every class with its interval, a panel for each transfer. intervals: as the run kept them."""
    known = [(one, _recall_of(one, intervals)) for one in scored]
    known = [(one, values) for one, values in known if values]
    if not known:
        return None
    panels = [_recall_panel(one, values) for one, values in known[:MOST]]
    rows = [
        [one.title, name, f"{cells:,}", percent(mean), interval(low, high)]
        for one, values in known
        for name, (cells, mean, low, high) in values.items()
    ]
    grouped = "over the groups (patients, slides) that cells belong to, where these repeat" if intervals else ""
    caption = (
        "Share of each true class's cells that was recognised, as the mean over models, with its 95 % bootstrap "
        f"interval over cells{f', or {grouped}' if grouped else '; groups are not known here'}. n is the number of the "
        f"class's cells; an interval from few cells is wide, or misleadingly narrow at 0 and 100 %.{_left_out(scored)}"
    )
    numbers = Numbers(["transfer", "class", "cells", "recall (%)", "95 % interval"], rows, texts=2)
    return Figure("recall", "Recall by class", caption, panels, numbers, apart=True)


def _recall_of(one: Scored, intervals: Intervals) -> dict[str, tuple[int, float, float, float]]:
    """{class: (cells, recall, low, high)} of the classes that the target has."""
    classes = one.records[0]["classes"]
    kept = intervals.get((one.records[0]["source"], one.records[0]["target"]))
    if kept is None:
        if one.transfer is None:
            return {}
        found = recall_intervals(one.transfer.label, one.transfer.right)
        kept = {classes[label]: value for label, value in found.items()}
    means, counts = recalls(one.confusion), one.records[0]["class_counts"]
    return {
        name: (counts.get(name, 0), float(means[i]), *(float(v) for v in kept[name]))  # type: ignore[misc]
        for i, name in enumerate(classes)
        if name in kept
    }


def _recall_panel(one: Scored, values: Mapping[str, tuple[int, float, float, float]]) -> Panel:
    def draw(figure: FigureBase, points: float) -> None:
        axes = figure.add_subplot()
        plain_axes(axes, points, grid="x")
        for place, (_, mean, low, high) in enumerate(values.values()):
            axes.plot([100 * low, 100 * high], [place, place], color=GOOD, linewidth=1.6, clip_on=False)
            axes.plot([100 * mean], [place], "o", color=GOOD, markersize=4, clip_on=False)
        names = [f"{name} (n = {cells:,})" for name, (cells, *_) in values.items()]
        named_ticks(axes, "y", names, points)
        axes.set_ylim(len(values) - 0.4, -0.6)
        axes.set_xlim(-1, 101)
        axis_title(axes, "x", "recall (%)", points)

    words = "; ".join(f"{name} {percent(mean)} %" for name, (_, mean, *_) in values.items())
    return Panel(one.title, draw, words, ONE_COLUMN, 13 + 5 * len(values))


def calibration(scored: Sequence[Scored]) -> Figure | None:
    """How often an answer is right that the models are so sure of, a panel for each transfer."""
    known = [(one, reliability(one.transfer)) for one in scored if one.transfer is not None]
    if not known:
        return None
    panels = [_reliability_panel(one, bins) for one, bins in known[:MOST]]
    rows = [
        [
            one.title,
            f"{100 * b.low:.0f}–{100 * b.high:.0f}",
            f"{b.answers:,}",
            percent(b.confidence),
            percent(b.accuracy),
        ]
        for one, bins in known
        for b in bins
    ]
    caption = (
        f"Answers sorted into {CALIBRATION_BINS} bins of equal width by the probability of the predicted class: the "
        "share that was right against their mean probability. On the dashed line probabilities can be taken at their "
        "word; below it the models are too sure, above it not sure enough. Points are the larger the more answers "
        "they stand for; the bars below say how many. ECE, the expected calibration error, is the mean distance from "
        "the line weighted by answers (of each model by itself, then the mean; Guo et al., 2017). Answers of all "
        f"models (folds and seeds) are pooled, so that n counts a cell once for each model.{_left_out(scored)}"
    )
    headings = ["transfer", "probability (%)", "answers", "mean probability (%)", "right (%)"]
    return Figure("reliability", "Reliability", caption, panels, Numbers(headings, rows, texts=2), apart=True)


def expected_error(one: Scored) -> float | None:
    """Mean over seeds of the records' expected calibration error."""
    known = [record["calibration"]["expected_error"] for record in one.records if record.get("calibration")]
    return float(np.mean(known)) if known and None not in known else None


def _reliability_panel(one: Scored, bins: Sequence[Bin]) -> Panel:
    error, answers = expected_error(one), sum(b.answers for b in bins)
    text = f"ECE {percent(error)} %, n = {answers:,} answers on {one.cells:,} cells"

    def draw(figure: FigureBase, points: float) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        _curve(upper, bins, answers, points)
        plain_axes(lower, points)
        share = [100 * b.answers / answers for b in bins]
        lower.bar([100 * b.low for b in bins], share, 93 / CALIBRATION_BINS, align="edge", color=COLOURS[7], alpha=0.6)
        lower.set_xlim(-2, 102)
        lower.set_yticks([])
        axis_title(lower, "x", "probability of the predicted class (%)", points)
        axis_title(lower, "y", "answers", points)
        upper.set_title(text, fontsize=points, color=QUIET, loc="left", pad=3)

    return Panel(one.title, draw, f"{text}; {_verdict(bins)}", ONE_COLUMN, 74)


def _curve(axes: Axes, bins: Sequence[Bin], answers: int, points: float) -> None:
    plain_axes(axes, points, grid="y")
    axes.plot([0, 100], [0, 100], color=QUIET, linewidth=0.8, linestyle=(0, (3, 2)))
    x, y = [100 * b.confidence for b in bins], [100 * b.accuracy for b in bins]
    axes.plot(x, y, color=GOOD, linewidth=1.0)
    size = [8 + 60 * b.answers / answers for b in bins]
    axes.scatter(x, y, s=size, color=GOOD, linewidths=0, zorder=3, clip_on=False)
    axes.set_ylim(-2, 102)
    axes.set_yticks([0, 25, 50, 75, 100])
    axis_title(axes, "y", "answers that were right (%)", points)


def _verdict(bins: Sequence[Bin]) -> str:
    gap = sum(b.answers * (b.confidence - b.accuracy) for b in bins) / sum(b.answers for b in bins)
    if abs(gap) < 0.01:
        return "probabilities are right on average"
    return f"on average {100 * abs(gap):.0f} percentage points {'too sure' if gap > 0 else 'not sure enough'}"
