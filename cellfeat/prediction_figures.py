"""Figures of a run's predictions: scores, confusion matrices, recall by class, reliability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cellfeat.figures import (
    BAD,
    GOOD,
    INK,
    ONE_COLUMN,
    Figure,
    Numbers,
    Panel,
    axis_title,
    legend,
    named_ticks,
    plain_axes,
)
from cellfeat.metrics import MINIMUM_CELLS, recalls
from cellfeat.report import interval, percent
from cellfeat.transfers import Scored, recall_intervals

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

MOST = 36  # transfers that are drawn
WEAKEST, STRONGEST = 0.1, 0.5  # opacity of an almost empty and a full cell: text on it stays readable in both themes


def _models(one: Scored) -> str:
    if one.transfer is None or one.transfer.models == 1:
        return ""
    return f" × {one.transfer.said_models}"


def scores(scored: Sequence[Scored]) -> Figure:
    """Balanced accuracy of every transfer with its interval, and what costs nothing beside it."""
    shown = scored[:MOST]
    rows = [_score_of(one) for one in shown]

    def draw(figure: FigureBase, points: float) -> None:
        axes = figure.add_subplot()
        plain_axes(axes, points, grid="x")
        for place, row in enumerate(rows):
            if row is None:
                continue
            mean, low, high, majority = (100 * value for value in row)
            axes.plot([low, high], [place, place], color=GOOD, linewidth=1.6)
            dot = axes.plot([mean], [place], "o", color=GOOD, markersize=4)[0]
            mark = axes.plot([majority], [place], "|", color=BAD, markersize=7, markeredgewidth=1.4)[0]
        named_ticks(axes, "y", [one.title for one in shown], points)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, 102)
        axis_title(axes, "x", "balanced accuracy (%)", points)
        if any(rows):
            legend(figure, [dot, mark], ["mean and 95 % interval", "majority class"], points)

    words = "; ".join(f"{one.title} {percent(row and row[0])} %" for one, row in zip(shown, rows, strict=True))
    panel = Panel("", draw, f"Balanced accuracy by transfer: {words}", ONE_COLUMN, 18 + 5 * len(rows))
    counts: dict[str, dict[str, None]] = {}  # a source's own cells are fewer where classes are left out of it
    for one in scored:
        counts.setdefault(one.records[0]["target"], {})[f"{one.cells:,}"] = None
    n = ", ".join(f"{name} {' or '.join(known)}" for name, known in counts.items())
    seeds = max(len(one.records) for one in scored)
    several = f" Of {seeds} seeds: the mean, with the lowest and highest bound of their intervals." if seeds > 1 else ""
    caption = (
        f"Balanced accuracy (mean recall of the classes with at least {MINIMUM_CELLS} cells) of every transfer, its "
        "95 % bootstrap interval, and what always answering the target's commonest class would score. n: "
        f"{n} cells.{several} The table of results has the numbers.{left_out(scored)}"
    )
    return Figure("scores", "Balanced accuracy", caption, [panel], columns=1)


def _score_of(one: Scored) -> tuple[float, float, float, float] | None:
    """Mean over seeds, lowest and highest bound of their intervals, the majority class; None where nobody can say."""
    known = [record for record in one.records if record["scores"]["balanced_accuracy"]["mean"] is not None]
    if not known:
        return None
    found = [record["scores"]["balanced_accuracy"] for record in known]
    mean = float(np.mean([score["mean"] for score in found]))
    majority = float(np.mean([record["majority"]["balanced_accuracy"] for record in known]))
    return mean, min(score["low"] for score in found), max(score["high"] for score in found), majority


def confusions(scored: Sequence[Scored]) -> Figure:
    """A row-normalised confusion matrix for each transfer."""
    panels = [_confusion_panel(one) for one in scored[:MOST]]
    rows = [
        [one.title, true, *(_count(value) for value in line.tolist())]
        for one in scored
        for true, line in zip(one.records[0]["classes"], one.confusion, strict=True)
        if sum(line)
    ]
    means = ", as the mean over seeds where these left different ones" if len(scored[0].records) > 1 else ""
    caption = (
        "Rows are true classes, columns predicted ones; each row adds up to 100 %. Below the percentage: cells, as the "
        "mean over the models (folds and seeds) that answered them, so that counts under 100 may be broken. Blue is "
        "right, orange wrong, the stronger the larger the share. n is the number of cells of each true "
        f"class{means}.{left_out(scored)}"
    )
    classes = scored[0].records[0]["classes"]
    numbers = Numbers(["transfer", "true class", *classes], rows, texts=2)
    return Figure("confusion", "Confusion matrices", caption, panels, numbers, apart=True)


def left_out(scored: Sequence[Scored]) -> str:
    """What a caption says where there are more transfers than are drawn."""
    return f" Drawn are {MOST} of {len(scored)} transfers; the table has all." if len(scored) > MOST else ""


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or abs(value - round(value)) < 0.05 else f"{value:,.1f}"


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
            part = float(share[row, column])
            corner, alpha = (column - 0.48, row - 0.48), (WEAKEST + (STRONGEST - WEAKEST) * part) * (part > 0)
            colour = GOOD if row == column else BAD
            axes.add_patch(Rectangle(corner, 0.96, 0.96, facecolor=colour, alpha=alpha, linewidth=0))
            if matrix[row, column] >= 0.05:
                text: dict[str, Any] = {"ha": "center", "fontsize": points}
                axes.text(column, row + 0.02, f"{100 * share[row, column]:.0f}", va="bottom", **text)
                small: dict[str, Any] = {"ha": "center", "fontsize": 0.86 * points, "color": INK}
                axes.text(column, row + 0.06, _count(float(matrix[row, column])), va="top", **small)
        axes.set_xlim(-0.5, len(classes) - 0.5)
        axes.set_ylim(len(classes) - 0.5, -0.5)
        axes.tick_params(length=0)
        named_ticks(axes, "x", classes, points, rotation=40, ha="right", rotation_mode="anchor")
        rows = [f"{name} (n = {total:,.0f})" for name, total in zip(classes, matrix.sum(axis=1), strict=True)]
        named_ticks(axes, "y", rows, points)
        axis_title(axes, "x", "predicted class (%, cells)", points)
        axis_title(axes, "y", "true class", points, pad=6)

    worst = _worst(share, classes)
    width = max(ONE_COLUMN, 38 + 11.0 * len(classes))
    height = 30 + 11.0 * len(classes)
    alt = f"{len(classes)} by {len(classes)} matrix, n = {one.cells:,} cells{_models(one)}; {worst}"
    return Panel(one.title, draw, alt, width, height)


def _worst(share: np.ndarray, classes: Sequence[str]) -> str:
    wrong = share - np.diag(np.diagonal(share))
    row, column = divmod(int(wrong.argmax()), len(classes))
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
        f"class's cells; an interval from few cells is wide, or misleadingly narrow at 0 and 100 %.{left_out(scored)}"
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
    means, counts = recalls(one.confusion), one.class_counts
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
