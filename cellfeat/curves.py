"""Curves of a training's losses as PNG, a panel for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cellfeat.drawing import (
    BLUE,
    FAINT,
    INK,
    LARGE,
    MARGIN,
    QUIET,
    RED,
    SMALL,
    drawn,
    new_canvas,
    one_line,
    own_style,
    save_png,
    shortened,
    text_width,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg

_PANEL_INCHES = (3.0, 2.0)
_FEW_EPOCHS = 40  # each of them gets a point on the line
_LARGEST = 1e150  # beyond it, or below its inverse on a logarithmic axis, matplotlib itself would overflow
_SAME = 1e-6  # values that differ relatively by less are one value


class Panel(NamedTuple):
    """One curve: values (E,) float64 of the epochs 1 to E."""

    name: str
    values: np.ndarray
    is_rate: bool = False


class Scale(NamedTuple):
    """What a y axis shows, and the numbers that stand beside it."""

    low: float
    high: float
    ticks: list[float]
    labels: list[str]


def loss_curves(
    path: Path,
    curves: Mapping[str, Sequence[float]],
    title: str,
    *,
    rate: Sequence[float] | None = None,
    unit: str = "epoch",
) -> None:
    """Write a PNG with one panel per curve, each with its own scale; value i belongs to epoch i + 1.

    A curve of positive values that span more than a decade has a logarithmic axis. Where a value is NaN or infinite
    (or beyond ±1e150) there is a red cross on the axis, and their number stands above the panel. The last value is
    written at the curve's end. Equal input gives equal bytes with the same versions of matplotlib and Pillow.

    Args:
        path: the PNG; replaced whole.
        curves: {name: one value per epoch}, for example the total loss and each of its terms.
        title: one line, cut in its middle when too long, as the names are.
        rate: the learning rate per epoch, drawn as the last panel, on a linear axis.
        unit: what is counted along the axis.

    Raises:
        ValueError: no curve, or one that is empty or no sequence of numbers.
    """
    panels = _checked(curves, rate)
    columns = {1: 1, 2: 2, 4: 2}.get(len(panels), 3)
    rows = -(-len(panels) // columns)
    length = max(len(panel.values) for panel in panels)
    with own_style():
        canvas = new_canvas(columns * _PANEL_INCHES[0], rows * _PANEL_INCHES[1] + (0.35 if title else 0.05))
        canvas.figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.06, wspace=0.02, hspace=0.03)
        grid = canvas.figure.add_gridspec(rows, columns)
        all_axes = [canvas.figure.add_subplot(grid[place]) for place in range(len(panels))]
        for place, (axes, panel) in enumerate(zip(all_axes, panels, strict=True)):
            _draw_panel(axes, panel)
            _draw_epochs(axes, length, unit if place + columns >= len(panels) else "")
        _write_titles(canvas, all_axes, panels, title)
        save_png(path, drawn(canvas))


def _checked(curves: Mapping[str, Sequence[float]], rate: Sequence[float] | None) -> list[Panel]:
    if not curves:
        raise ValueError("there is no curve to draw; give at least one, as {name: values}")
    panels = [Panel(name, _numbers(name, values)) for name, values in curves.items()]
    if rate is not None:
        panels.append(Panel("learning rate", _numbers("learning rate", rate), is_rate=True))
    return panels


def _numbers(name: str, values: Sequence[float]) -> np.ndarray:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"curve {name!r} is no sequence of numbers: {error}") from error
    if array.ndim != 1 or not array.size:
        raise ValueError(f"curve {name!r} has values of shape {array.shape}; a curve needs one value per epoch")
    return array


def _draw_panel(axes: Axes, panel: Panel) -> None:
    values, colour = panel.values, QUIET if panel.is_rate else BLUE
    epochs, fine = np.arange(1, len(values) + 1), np.abs(values) < _LARGEST
    _draw_scale(axes, values[fine], may_be_log=not panel.is_rate)
    axes.plot(epochs, np.where(fine, values, np.nan), color=colour, linewidth=1.2, solid_joinstyle="round")
    # A point between two gaps has no line to be seen by.
    lonely = fine & ~np.r_[False, fine[:-1]] & ~np.r_[fine[1:], False]
    pointed = fine if len(values) <= _FEW_EPOCHS else lonely
    axes.plot(epochs[pointed], values[pointed], "o", color=colour, markersize=3, markeredgewidth=0)
    if not fine.all():
        on_axis, zeros = axes.get_xaxis_transform(), np.zeros(np.count_nonzero(~fine))
        axes.plot(epochs[~fine], zeros, "x", color=RED, markersize=4.5, transform=on_axis, clip_on=False, zorder=5)
        axes.set_title(f"{len(zeros)} not finite", loc="right", fontsize=SMALL, color=RED)
    _write_last(axes, values, fine, colour)


def _write_last(axes: Axes, values: np.ndarray, fine: np.ndarray, colour: str) -> None:
    span = np.ptp(values[fine]) if fine[-1] else 0.0
    axes.annotate(
        _number(values[-1], digits=_digits(values[-1], span)),
        (len(values), values[-1] if fine[-1] else 0),
        xycoords="data" if fine[-1] else axes.get_xaxis_transform(),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=SMALL,
        color=colour if fine[-1] else RED,
        annotation_clip=False,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
    )


def _digits(value: float, span: float) -> int:
    """Significant digits that show a hundredth of what a curve spans, 4 to 9."""
    if not value or not span > _SAME * abs(value):  # NaN and infinity too
        return 4
    return min(9, max(4, 3 + int(np.ceil(np.log10(abs(value) / span)))))


def _draw_scale(axes: Axes, values: np.ndarray, may_be_log: bool) -> None:
    """Limits, numbers and quiet lines of the y axis for the finite values."""
    if not values.size:
        scale = Scale(0.0, 1.0, [], [])
    elif may_be_log and values.min() > 1 / _LARGEST and values.max() > 10 * values.min():
        axes.set_yscale("log")
        scale = _log_scale(values.min(), values.max())
    else:
        scale = _linear_scale(values.min(), values.max())
    axes.set_ylim(scale.low, scale.high)
    axes.set_yticks(scale.ticks, scale.labels)
    axes.set_yticks([], minor=True)
    axes.tick_params(axis="y", labelsize=SMALL, labelcolor=INK, length=0, pad=4)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.spines["bottom"].set(color=QUIET, linewidth=0.6)


def _log_scale(low: float, high: float) -> Scale:
    pad = 0.06 * np.log10(high / low)
    bottom, top = 10.0 ** (np.log10(low) - pad), 10.0 ** (np.log10(high) + pad)
    decades = np.arange(np.floor(np.log10(bottom)), np.log10(top) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [factor * 10.0**decade for decade in decades for factor in factors]
        ticks = [tick for tick in ticks if bottom <= tick <= top]
        if len(ticks) <= 5:
            break
    ticks = ticks[:: -(-len(ticks) // 5)]
    return Scale(bottom, top, ticks, [_number(tick) for tick in ticks])


def _linear_scale(low: float, high: float) -> Scale:
    from matplotlib.ticker import MaxNLocator

    if high - low <= _SAME * max(abs(low), abs(high)):  # one value: a flat line in the middle
        room = abs(high) / 2 or 1.0
        return Scale(high - room, high + room, [high], [_number(high)])
    pad = 0.06 * (high - low)
    ticks = MaxNLocator(nbins=4, steps=[1, 2, 5, 10]).tick_values(low, high)
    ticks = [tick for tick in ticks if low - pad <= tick <= high + pad]
    return Scale(low - pad, high + pad, ticks, _aligned_numbers(ticks))


def _aligned_numbers(ticks: list[float]) -> list[str]:
    """Evenly spaced numbers with as many decimals as tell them apart."""
    largest, step = max(map(abs, ticks)), ticks[-1] - ticks[-2]
    power = 0 if 1e-3 <= largest < 1e5 else int(np.floor(np.log10(largest)))
    decimals = max(0, power - int(np.floor(np.log10(step) + 1e-9)))
    numbers = [f"{tick / 10.0**power:.{decimals}f}" for tick in ticks]
    ends = f"e{power}" if power else ""
    return [_minus(number + ends) if float(number) else "0" for number in numbers]


def _number(value: float, digits: int = 4) -> str:
    mantissa, _, power = f"{value + 0.0:.{digits}g}".partition("e")  # + 0.0 takes the sign from −0
    return _minus(f"{mantissa}e{int(power)}" if power else mantissa)


def _minus(number: str) -> str:
    return number.replace("-", "−")


def _draw_epochs(axes: Axes, length: int, unit: str) -> None:
    from matplotlib.ticker import MaxNLocator

    room = 0.03 * (length - 1) or 0.5
    axes.set_xlim(1 - room, length + room)
    grid = MaxNLocator(nbins=5, steps=[1, 2, 5, 10], integer=True).tick_values(1, max(length, 2))
    step = max(1, round(grid[1] - grid[0]))
    ticks = list(range(1, length + 1, step)) if step <= 2 else [1, *range(step, length + 1, step)]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.tick_params(axis="x", labelsize=SMALL, labelcolor=INK, color=QUIET, length=3, width=0.6, pad=3)
    axes.set_xlabel(one_line(unit)[:40], fontsize=SMALL, color=QUIET, labelpad=2, parse_math=False)


def _write_titles(canvas: FigureCanvasAgg, all_axes: list[Axes], panels: list[Panel], title: str) -> None:
    """The figure's title and the panels' names, cut to the width that the layout leaves them."""
    small, width = text_width(canvas, SMALL), canvas.figure.bbox.width
    if title:
        title = shortened(title, width - 2 * MARGIN, text_width(canvas, LARGE))
        canvas.figure.suptitle(title, x=MARGIN / width, ha="left", fontsize=LARGE, parse_math=False)
    for axes in all_axes:  # a line is kept free while the layout is computed
        axes.set_title(" ", loc="left", fontsize=SMALL)
    canvas.figure.draw_without_rendering()
    canvas.figure.set_layout_engine("none")  # it stands; computing it again would take as long as drawing
    for axes, panel in zip(all_axes, panels, strict=True):
        count = axes.get_title("right")
        name = shortened(panel.name, axes.bbox.width - small(f"{count}  ") * bool(count), small)
        axes.set_title(name, loc="left", fontsize=SMALL, parse_math=False)
