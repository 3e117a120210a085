"""Figures of features before and after alignment: maps of the cells, and what a domain classifier finds in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cellfeat.errors import CellfeatError, unknown
from cellfeat.extras import import_extra
from cellfeat.figures import (
    BAD,
    ONE_COLUMN,
    Figure,
    Numbers,
    Panel,
    axis_title,
    kind_of,
    legend,
    legend_columns,
    named_ticks,
    plain_axes,
    printable,
)
from cellfeat.invariance import NEIGHBOURS, Invariance, Untold
from cellfeat.observation_files import Sample
from cellfeat.report import interval, percent
from cellfeat.sampling import balanced

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

METHODS = {"tsne": "t-SNE", "umap": "UMAP"}
MOST_POINTS = 1_000  # of one drawing
HIDDEN = "without a label"


class Embedded(NamedTuple):
    """Sampled cells and their places (n, 2) in a drawing; how many were sampled in all."""

    sample: Sample
    places: np.ndarray
    of: int


def embed(sample: Sample, method: str, seed: int, most: int = MOST_POINTS) -> Embedded:
    """Places of at most `most` of the sampled cells in two dimensions, the same for the same input."""
    strata = np.array([f"{d}\0{c}" for d, c in zip(sample.domain, sample.label, strict=True)])
    rows = balanced(strata, most, seed)
    part = Sample(*(column[rows] for column in sample))
    return Embedded(part, _places(part.values, method, seed), len(sample.id))


def check_method(method: str) -> None:
    """Raises: CellfeatError for a method that there is not, or whose package is not installed."""
    if method not in METHODS:
        raise CellfeatError(unknown("embedding", method, METHODS))
    if method == "umap":
        _umap()


def _umap() -> Any:
    return import_extra("umap", "--embedding umap", "tsne needs nothing")


def _places(values: np.ndarray, method: str, seed: int) -> np.ndarray:
    if len(values) < 5 or not np.ptp(values, axis=0).any():
        padded = np.pad(values, ((0, 0), (0, 2)))
        return padded[:, :2].astype(float)
    if method == "umap":
        near = min(15, len(values) - 1)
        return np.asarray(_umap().UMAP(n_neighbors=near, random_state=seed, n_jobs=1).fit_transform(values), float)
    from sklearn.manifold import TSNE

    width = min(30.0, (len(values) - 1) / 3)
    start = "pca" if values.shape[1] > 1 else "random"
    return np.asarray(TSNE(perplexity=width, init=start, random_state=seed).fit_transform(values), float)


class Side(NamedTuple):
    """One kind of features: their name, their map, what the domain classifiers scored on all of the sample.

    about: `width` of the features, and `explained`, the share of their variance that the components hold.
    """

    name: str
    embedded: Embedded
    invariance: Invariance | Untold | None
    about: Mapping[str, Any] = MappingProxyType({})


def embeddings(side: Side, classes: Sequence[str], method: str, shown: str = "", before: Side | None = None) -> Figure:
    """Maps by class and by laboratory. shown: what the alignment was shown; before: the same cells before it."""
    sample = side.embedded.sample
    kinds = [
        ("class", [*classes, HIDDEN], np.array([name or HIDDEN for name in sample.label.tolist()])),
        ("laboratory", np.unique(sample.domain).tolist(), sample.domain),
    ]
    panels = [_scatter(f"by {what}", side.embedded.places, values, known, what) for what, known, values in kinds]
    points, of = len(sample.id), side.embedded.of
    drawn = f"{points:,}" if points == of else f"{points:,} of a sample of {of:,}"
    parts = [
        f"Each point is a cell, n = {drawn}; every class of every laboratory gives as many as any other, or all it "
        "has.",
        f"{METHODS[method]} of {_components(side)}; near points are alike, while distances between groups, sizes of "
        "groups and the axes mean nothing.",
        shown,
        _told(side, before),
    ]
    title = "Features" if side.name == "features" else f"Features {side.name}"
    title = title.replace("Features after,", "Features after alignment,")
    return Figure(f"embedding-{side.name}", title, " ".join(part for part in parts if part), panels)


def _components(side: Side) -> str:
    """What is mapped, in words."""
    width, explained = side.about.get("width"), side.about.get("explained")
    features = "the features" if width is None else f"the {width:,} features"
    text = f"{side.embedded.sample.values.shape[1]} principal components of {features}"
    return text if explained is None else f"{text}, which hold {percent(explained)} % of their variance"


def _told(side: Side, before: Side | None) -> str:
    """What the domain classifiers found in these features, and in the same cells' features before alignment."""
    one = side.invariance
    if isinstance(one, Untold):
        return f"How well the laboratory is found in them is not told: {one.reason}."
    if one is None:
        return ""
    text = (
        f"In all {one.cells:,} sampled cells the laboratory, one of {len(one.domains)}, is found with a balanced "
        f"accuracy of {percent(one.linear.accuracy)} % by a linear classifier and of "
        f"{percent(one.neighbours.accuracy)} % by the {NEIGHBOURS} nearest neighbours"
    )
    earlier = before.invariance if before else None
    if isinstance(earlier, Invariance):
        linear, near = percent(earlier.linear.accuracy), percent(earlier.neighbours.accuracy)
        text += f"; before alignment, in the same cells, {linear} % and {near} %"
    return f"{text} (chance {percent(one.chance)} %)."


def _scatter(title: str, places: np.ndarray, values: np.ndarray, names: Sequence[str], what: str) -> Panel:
    present = [name for name in names if (values == name).any()]
    numbers = {name: number for number, name in enumerate(names)}

    def draw(figure: FigureBase, points: float) -> None:
        axes = figure.add_subplot()
        axes.set_facecolor("none")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.set_aspect("equal", adjustable="datalim")
        size, handles = 2.2 if len(places) > 400 else 3.0, []
        for name in present:
            inside = values == name
            style = {
                "linestyle": "none",
                "markersize": size,
                "markeredgewidth": 0,
                "alpha": 0.75,
                **kind_of(numbers[name]),
            }
            axes.plot(*places[inside].T, **style)
            handles.append(axes.plot([], [], **{**style, "markersize": 4.5, "alpha": 1})[0])
        counted = [f"{printable(name, 20)} ({(values == name).sum():,})" for name in present]
        legend(figure, handles, counted, points)

    words = ", ".join(f"{name} {(values == name).sum()}" for name in present)
    lines = -(-len(present) // legend_columns([f"{printable(name, 20)} (1,000)" for name in present]))
    return Panel(title, draw, f"points coloured by {what}; {words}", ONE_COLUMN, 72 + 3.8 * lines)


def invariance(observed: Mapping[str, Invariance | Untold]) -> Figure | None:
    """The domain classifiers' balanced accuracies on each kind of features; None where there is no number."""
    found = {name: one for name, one in observed.items() if isinstance(one, Invariance)}
    untold = {name: one.reason for name, one in observed.items() if isinstance(one, Untold)}
    if not found:
        return None
    names = list(found)

    def draw(figure: FigureBase, points: float) -> None:
        axes = figure.add_subplot()
        plain_axes(axes, points, grid="x")
        for place, one in enumerate(found.values()):
            for share, kind, shift in ((one.linear, kind_of(0), -0.15), (one.neighbours, kind_of(3), 0.15)):
                span, at = [100 * share.low, 100 * share.high], place + shift
                axes.plot(span, [at, at], color=kind["color"], linewidth=1.4)
                axes.plot([100 * share.accuracy], [at], markersize=4, **kind)
            axes.plot([100 * one.chance], [place], "|", color=BAD, markersize=12, markeredgewidth=1.4)
        named_ticks(axes, "y", names, points)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(0, 102)
        axis_title(axes, "x", "balanced accuracy (%)", points)
        bare: dict[str, Any] = {"linestyle": "none", "markersize": 5}
        marks = [kind_of(0), kind_of(3), {"color": BAD, "marker": "|", "markeredgewidth": 1.4}]
        handles = [axes.plot([], [], **bare, **mark)[0] for mark in marks]
        legend(figure, handles, ["linear", f"{NEIGHBOURS} neighbours", "chance"], points)

    words = "; ".join(
        f"{name}: linear {percent(one.linear.accuracy)} %, neighbours {percent(one.neighbours.accuracy)} %"
        for name, one in found.items()
    )
    panel = Panel("", draw, f"Balanced accuracy of domain classifiers: {words}", ONE_COLUMN, 20 + 7 * len(names))
    rows = [
        (
            *(name, f"{one.cells:,}", str(len(one.domains)), percent(one.linear.accuracy)),
            *(interval(one.linear.low, one.linear.high), percent(one.neighbours.accuracy)),
            *(interval(one.neighbours.low, one.neighbours.high), percent(one.chance)),
        )
        for name, one in found.items()
    ]
    headings = ["features", "cells", "laboratories", "linear (%)", "95 % interval", "neighbours (%)", "95 % interval"]
    numbers = Numbers([*headings, "chance (%)"], rows)
    return Figure("invariance", "Domain classifiers", _said_of(found, untold), [panel], numbers, columns=1)


def _said_of(found: Mapping[str, Invariance], untold: Mapping[str, str]) -> str:
    chances = ", ".join(f"{percent(chance)} %" for chance in sorted({one.chance for one in found.values()}))
    counts = dict.fromkeys(f"{one.cells:,} cells of {len(one.domains)} laboratories" for one in found.values())
    which = "; the table says which" if len(counts) > 1 else ""
    text = (
        "Can the laboratory still be told from the features? Balanced accuracy of a logistic regression on "
        f"standardised principal components and of the {NEIGHBOURS} nearest neighbours on these as they are "
        f"(n = {' or '.join(counts)}{which}). "
        "Each cell is answered by a model that was trained neither on it nor on another cell of its group (patient, "
        "slide), with 95 % bootstrap intervals over groups where these repeat, and over cells where they do not. At "
        f"chance ({chances}) features say nothing of the laboratory to such a classifier. The linear one sees "
        "differences of means; laboratories that lie apart around a common mean are seen by the neighbours alone. "
        "Every class of every laboratory gives as many cells as any other, or all it has; a class that one laboratory "
        "lacks gives laboratories away."
    )
    if any(one.linear.high < one.chance for one in found.values()):
        text += (
            " Below chance means no more than chance: where an alignment made the laboratories' means equal on these "
            "very cells, the part of them that is left out lies on the other side of the mean than the rest."
        )
    return text + "".join(f" There is no number for {name}: {reason}." for name, reason in untold.items())
