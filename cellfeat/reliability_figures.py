"""Reliability curves: how often an answer is right that the models are so sure of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cellfeat.figures import (
    COLOURS,
    GOOD,
    ONE_COLUMN,
    PAPER,
    QUIET,
    Figure,
    Numbers,
    Panel,
    axis_title,
    plain_axes,
)
from cellfeat.metrics import CALIBRATION_BINS
from cellfeat.prediction_figures import MOST, left_out
from cellfeat.report import percent
from cellfeat.transfers import Bin, Scored, reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

FEW = 10  # answers of a bin


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
        f"they stand for, and hollow where these are fewer than {FEW}, which says little; the bars below are "
        "the shares of all answers in percent. ECE, the expected calibration error, is the mean distance from "
        "the line weighted by answers (of each model by itself, then the mean; Guo et al., 2017). Answers of all "
        "models (folds and seeds) are pooled, so that n counts a cell once for each model that "
        f"answered it.{left_out(scored)}"
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
        top = float(f"{max(share):.1g}")  # of the scale: the longest bar's share, as a round number
        lower.set_yticks([0, top], ["0", f"{top:g}"])
        axis_title(lower, "x", "probability of the predicted class (%)", points)
        axis_title(lower, "y", "of all (%)", points)
        upper.set_title(text, fontsize=points, color=QUIET, loc="left", pad=3)

    return Panel(one.title, draw, f"{text}; {_verdict(bins)}", ONE_COLUMN, 74)


def _curve(axes: Axes, bins: Sequence[Bin], answers: int, points: float) -> None:
    plain_axes(axes, points, grid="y")
    axes.plot([0, 100], [0, 100], color=QUIET, linewidth=0.8, linestyle=(0, (3, 2)))
    x, y = [100 * b.confidence for b in bins], [100 * b.accuracy for b in bins]
    many = [b.answers >= FEW for b in bins]
    axes.plot(x, np.where(many, y, np.nan), color=GOOD, linewidth=1.0)
    style: dict[str, Any] = {"linewidths": 0.8, "edgecolors": GOOD, "clip_on": False, "zorder": 3}
    for place, b in enumerate(bins):
        inside = GOOD if many[place] else PAPER
        axes.scatter(x[place], y[place], s=8 + 60 * b.answers / answers, facecolors=inside, **style)
    axes.set_ylim(-2, 102)
    axes.set_yticks([0, 25, 50, 75, 100])
    axis_title(axes, "y", "answers that were right (%)", points)


def _verdict(bins: Sequence[Bin]) -> str:
    gap = sum(b.answers * (b.confidence - b.accuracy) for b in bins) / sum(b.answers for b in bins)
    if abs(gap) < 0.01:
        return "probabilities are right on average"
    return f"on average {100 * abs(gap):.0f} percentage points {'too sure' if gap > 0 else 'not sure enough'}"
