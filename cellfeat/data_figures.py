"""Figures of a run's data: grey levels by domain, class counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cellfeat.figures import (
    COLOURS,
    DASHES,
    ONE_COLUMN,
    Figure,
    Numbers,
    Panel,
    axis_title,
    kind_of,
    legend,
    named_ticks,
    plain_axes,
)

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

STEP = 4  # grey levels drawn as one
MOST_DOMAINS = len(COLOURS)  # told apart in one drawing
UNLABELLED = "without a label"


def grey_levels(summary: Mapping[str, Any]) -> Figure | None:
    """Distributions of the pixels' grey levels, a line for each domain: of whole images, and of the cells alone."""
    observed = summary["grey_levels"]
    if observed is None:
        return None
    parts = [("Whole images", observed["frame"]), ("Cells, inside their masks", observed["cell"])]
    order = list(observed["frame"])[:MOST_DOMAINS]
    panels = [_grey_panel(title, domains, order) for title, domains in parts if domains]
    if not panels:
        return None
    drawn = ", ".join(f"{name} {one['images']}" for name, one in observed["frame"].items())
    masks = ""
    if observed["cell"]:
        counts = ", ".join(f"{name} {one['images']}" for name, one in observed["cell"].items())
        masks = f" Cells are cut out by the masks of {observed['masks']} ({counts})."
        if any(one["images"] < observed["frame"][name]["images"] for name, one in observed["cell"].items()):
            masks = f"{masks[:-1]}: these alone have masks at hand."
        if observed.get("cells_are_examples"):
            masks += " They are the examples below, as many of every class as of any other, and no random sample."
    caption = (
        "How bright the pixels of each laboratory's images are, 0 black to 255 white (luma of the original files, "
        f"before any resizing). Images looked at, drawn at random: {drawn}; each weighs the same.{masks} Where the "
        "lines lie apart, a method that reads brightness sees the laboratory before it sees the cell."
    )
    if len(observed["frame"]) > MOST_DOMAINS:
        caption += f" Drawn are the first {MOST_DOMAINS} laboratories by name; the table has all."
    rows = [
        [name, title, f"{one['images']:,}", *_summary_of(np.array(one["millionths"], float))]
        for title, domains in parts
        for name, one in domains.items()
    ]
    headings = ["laboratory", "pixels of", "images", "mean", "SD", "5th percentile", "median", "95th percentile"]
    return Figure("grey-levels", "Grey levels", caption, panels, Numbers(headings, rows, texts=2))


def _grey_panel(title: str, domains: Mapping[str, Any], order: list[str]) -> Panel:
    shown = {name: domains[name] for name in order if name in domains}

    def draw(figure: FigureBase, points: float) -> None:
        axes = figure.add_subplot()
        plain_axes(axes, points, grid="y")
        lines = []
        for name, one in shown.items():
            number = order.index(name)
            share = np.array(one["millionths"], float).reshape(-1, STEP).sum(axis=1) / 1e4
            middle = np.arange(0, 256, STEP) + (STEP - 1) / 2
            style = {"color": kind_of(number)["color"], "linestyle": DASHES[number % len(DASHES)]}
            lines += axes.plot(middle, share, linewidth=1.2, **style)
        axes.set_xlim(0, 255)
        axes.set_ylim(bottom=0)
        axes.set_xticks([0, 64, 128, 192, 255])
        axis_title(axes, "x", "grey level", points)
        axis_title(axes, "y", f"pixels per {STEP} levels (%)", points)
        legend(figure, lines, [f"{name} (n = {one['images']})" for name, one in shown.items()], points)

    words = ", ".join(
        f"{name} mean {np.average(np.arange(256), weights=one['millionths']):.0f}" for name, one in shown.items()
    )
    height = 52 + 4 * -(-len(shown) // 2)
    return Panel(title, draw, f"lines of the share of pixels by grey level; {words}", height=height)


def _summary_of(counts: np.ndarray) -> list[str]:
    levels, whole = np.arange(256), counts.sum()
    mean = (levels * counts).sum() / whole
    spread = np.sqrt((counts * (levels - mean) ** 2).sum() / whole)
    at = np.searchsorted(np.cumsum(counts) / whole, [0.05, 0.5, 0.95])
    return [f"{mean:.1f}", f"{spread:.1f}", *(f"{level}" for level in at)]


def class_counts(summary: Mapping[str, Any]) -> Figure:
    """Cells of every class, a bar for each domain."""
    domains = summary["domains"]
    classes = [*summary["classes"]]
    counts = {name: [one["classes"][label] for label in classes] for name, one in domains.items()}
    if any(one["unlabelled"] for one in domains.values()):
        classes.append(UNLABELLED)
        counts = {name: [*values, domains[name]["unlabelled"]] for name, values in counts.items()}
    shown = dict(list(counts.items())[:MOST_DOMAINS])
    whole = sum(sum(values) for values in counts.values())
    caption = f"Cells by class and laboratory, n = {whole:,} in all."
    if len(counts) > MOST_DOMAINS:
        caption += f" Drawn are the first {MOST_DOMAINS} laboratories by name; the table has all."
    absent = [f"{label} in {name}" for name, one in domains.items() for label, n in one["classes"].items() if not n]
    if absent:
        more = f" and {len(absent) - 6} more" if len(absent) > 6 else ""
        caption += f" Without any cell: {', '.join(absent[:6])}{more}."
    rows = [[label, *(f"{values[i]:,}" for values in counts.values())] for i, label in enumerate(classes)]
    rows.append(["all", *(f"{sum(values):,}" for values in counts.values())])
    numbers = Numbers(["class", *counts], rows)
    return Figure("class-counts", "Class counts", caption, [_count_panel(classes, shown)], numbers, columns=1)


def _count_panel(classes: list[str], counts: dict[str, list[int]]) -> Panel:
    thick = 0.8 / max(len(counts), 1)

    def draw(figure: FigureBase, points: float) -> None:
        axes = figure.add_subplot()
        plain_axes(axes, points, grid="x")
        bars = []
        for number, values in enumerate(counts.values()):
            places = np.arange(len(classes)) - 0.4 + thick * (number + 0.5)
            bars.append(axes.barh(places, values, height=0.86 * thick, color=kind_of(number)["color"]))
            for place, value in zip(places, values, strict=True):
                axes.annotate(
                    f"{value:,}",
                    (value, float(place)),
                    xytext=(2, 0),
                    textcoords="offset points",
                    va="center_baseline",
                    fontsize=0.9 * points if len(counts) > 4 else points,
                )
        named_ticks(axes, "y", classes, points)
        axes.invert_yaxis()
        axes.margins(x=0.14, y=0.01)
        axes.xaxis.set_major_locator(_few_ticks())
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axis_title(axes, "x", "cells", points)
        legend(figure, bars, list(counts), points)

    words = "; ".join(f"{name}: {sum(values):,} cells" for name, values in counts.items())
    height = 16 + 3.6 * len(classes) * max(len(counts), 1.4) + 4 * -(-len(counts) // 3)
    return Panel("", draw, f"Bars of the number of cells by class and laboratory; {words}", ONE_COLUMN, height)


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=4, integer=True)
