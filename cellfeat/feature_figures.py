"""Figures of features before and after alignment: maps of the cells, and what a domain classifier finds in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cellfeat.errors import CellfeatError, unknown
from cellfeat.figures import BAD, GOOD, ONE_COLUMN, Figure, Numbers, Panel, axis_title, kind_of, legend
from cellfeat.figures import named_ticks, plain_axes, printable
from cellfeat.invariance import Invariance
from cellfeat.observations import Sample
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
    try:
        import umap
    except ImportError:
        raise CellfeatError(
            "--embedding umap needs the package umap-learn: pip install umap-learn (tsne needs nothing)"
        ) from None
    return umap


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
    """Features before or after: their map, what the domain classifier scored on all of the sample."""

    name: str
    embedded: Embedded
    invariance: Invariance | None


def embeddings(source: str, sides: Sequence[Side], classes: Sequence[str], method: str, shown: str) -> Figure:
    """By class and by domain, a row each; a column each before and after. shown: what the alignment was shown."""
    domains = sorted({name for side in sides for name in side.embedded.sample.domain.tolist()})
    names = [*classes, HIDDEN]
    kinds: list[tuple[str, list[str], Callable[[Sample], np.ndarray]]] = [
        ("class", names, lambda sample: np.array([name or HIDDEN for name in sample.label.tolist()])),
        ("laboratory", domains, lambda sample: sample.domain),
    ]
    panels = [
        _scatter(f"{side.name}, by {what}", side, kind(side.embedded.sample), known, what)
        for what, known, kind in kinds
        for side in sides
    ]
    points, of = len(sides[-1].embedded.sample.id), sides[-1].embedded.of
    drawn = f"{points:,} cells" if points == of else f"{points:,} cells, drawn from a sample of {of:,},"
    caption = (
        f"Each point is a cell: {drawn} as many of each class and laboratory as there are. {METHODS[method]} of up to "
        "50 principal components of the features; near points are alike, while distances between groups, sizes of "
        f"groups and the axes mean nothing. {shown} {_told(sides)}"
    )
    return Figure(f"embedding-{source}", f"Features of the pipeline of {source}", caption.strip(), panels, columns=2)


def _told(sides: Sequence[Side]) -> str:
    known = [(side.name, side.invariance) for side in sides if side.invariance is not None]
    if not known:
        return ""
    said = ", ".join(f"{name} {percent(one.accuracy)} %" for name, one in known)
    return f"A linear classifier finds the laboratory with a balanced accuracy of {said} (chance {percent(known[0][1].chance)} %)."


def _scatter(title: str, side: Side, values: np.ndarray, names: Sequence[str], what: str) -> Panel:
    places = side.embedded.places
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
        legend(figure, handles, counted, points, 2 if max(map(len, counted), default=0) > 16 else 3)

    words = ", ".join(f"{name} {(values == name).sum()}" for name in present)
    return Panel(title, draw, f"points coloured by {what}; {words}", ONE_COLUMN, 74 + 3.6 * -(-len(present) // 3))


def invariance(found: Mapping[str, Invariance]) -> Figure | None:
    """The domain classifier's balanced accuracy on each kind of features."""
    if not found:
        return None
    names = list(found)
    chances = sorted({one.chance for one in found.values()})

    def draw(figure: FigureBase, points: float) -> None:
        axes = figure.add_subplot()
        plain_axes(axes, points, grid="x")
        for place, one in enumerate(found.values()):
            axes.plot([100 * one.low, 100 * one.high], [place, place], color=GOOD, linewidth=1.6)
            dot = axes.plot([100 * one.accuracy], [place], "o", color=GOOD, markersize=4)[0]
            mark = axes.plot([100 * one.chance], [place], "|", color=BAD, markersize=9, markeredgewidth=1.4)[0]
        named_ticks(axes, "y", names, points)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(0, 102)
        axis_title(axes, "x", "balanced accuracy of the laboratory (%)", points)
        legend(figure, [dot, mark], ["mean and 95 % interval", "chance"], points, 2)

    words = "; ".join(f"{name} {percent(one.accuracy)} %" for name, one in found.items())
    panel = Panel("", draw, f"Balanced accuracy of the domain classifier: {words}", ONE_COLUMN, 18 + 5 * len(names))
    caption = (
        "Can the laboratory still be told from the features? Balanced accuracy of a logistic regression on their "
        "standardised principal components, each cell answered by a model of 5 that was not trained on it, with a "
        "95 % bootstrap interval over cells. At chance "
        f"({', '.join(f'{percent(chance)} %' for chance in chances)}) a linear classifier finds nothing of the "
        "laboratory; another kind of classifier still may. Classes are represented alike in the sample where a "
        "laboratory has them, so that their shares give away little."
    )
    rows = [
        [name, f"{one.cells:,}", str(len(one.domains)), percent(one.accuracy), interval(one.low, one.high)]
        + [percent(one.chance)]
        for name, one in found.items()
    ]
    headings = ["features", "cells", "laboratories", "balanced accuracy (%)", "95 % interval", "chance (%)"]
    return Figure("invariance", "Domain classifier", caption, [panel], Numbers(headings, rows), columns=1)
