"""What figures are made of: panels, numbers, a palette that every eye can use, quiet axes, names as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

ONE_COLUMN, TWO_COLUMNS = 89.0, 183.0  # mm, as journals set them
PAPER, INK, QUIET, LINE, FAINT = "#ffffff", "#1c1f22", "#5a6068", "#d5d9dd", "#e9ecef"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#aa4a8c", "#b07d00", "#3f97c9", "#6b5b95", "#555555")
# So ordered that the first five differ for every eye; two that some eyes confuse have different markers.
ORDER = (0, 1, 2, 3, 5, 7, 6, 4)
MARKERS = ("o", "s", "^", "D")  # with the colours, 32 kinds of point
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
GOOD, BAD = COLOURS[0], COLOURS[1]
FILE_POINTS, PAGE_POINTS = 7.0, 8.0

_LONGEST = 28  # characters of a name
_LETTER, _KEY = 0.62, 5  # width of a letter in ems; of the key before a name, in letters


@dataclass(frozen=True)
class Panel:
    """One part of a figure. draw: into a matplotlib (sub)figure, with text of so many points. width, height: mm.

    alt: what it shows, in words.
    """

    title: str
    draw: Callable[[FigureBase, float], None]
    alt: str
    width: float = ONE_COLUMN
    height: float = 60.0


@dataclass(frozen=True)
class Numbers:
    """A table: the first `texts` columns are names, the others numbers; both as they are to be read."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1


@dataclass(frozen=True)
class Figure:
    """Panels that are looked at together. name: of its file. apart: every panel is a file of its own."""

    name: str
    title: str
    caption: str
    panels: Sequence[Panel]
    numbers: Numbers | None = None
    columns: int = 2
    apart: bool = False


def slug(text: str) -> str:
    """A text as part of a file's name: letters, digits and hyphens."""
    return re.sub(r"[^0-9A-Za-z]+", "-", text).strip("-").lower()[:60] or "figure"


def free(name: str, taken: set[str]) -> str:
    """The name, numbered where it is taken (names that differ in signs alone have one slug); now it is taken too."""
    found, number = name, 2
    while found in taken:
        found, number = f"{name}-{number}", number + 1
    taken.add(found)
    return found


def printable(text: str, longest: int = _LONGEST) -> str:
    """A text in one line without control characters, cut in its middle where it is longer."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    if len(text) <= longest:
        return text
    return f"{text[: (longest - 1) // 2 + 1].rstrip()}…{text[len(text) - (longest - 1) // 2 :].lstrip()}"


def kind_of(number: int) -> dict[str, Any]:
    """Colour and marker of the kind of this number."""
    turn, place = divmod(number, len(COLOURS))
    return {"color": COLOURS[ORDER[place]], "marker": MARKERS[(place + turn) % len(MARKERS)]}


def plain_axes(axes: Axes, points: float, grid: str = "") -> None:
    """Quiet axes: small text, no frame but the lower line, a faint grid along `grid` ("x", "y" or nothing)."""
    axes.set_facecolor("none")
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.spines["bottom"].set(color=QUIET, linewidth=0.6)
    axes.tick_params(labelsize=points, labelcolor=INK, color=QUIET, length=2.5, width=0.6, pad=2.5)
    axes.tick_params(axis="y", length=0)
    if grid:
        axes.grid(axis=grid, color=FAINT, linewidth=0.6)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def named_ticks(axes: Axes, which: str, names: Sequence[str], points: float, **text: Any) -> None:
    """One tick per name, from 0; names are text of the data."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_ticks(range(len(names)), [printable(name) for name in names], parse_math=False, fontsize=points, **text)


def axis_title(axes: Axes, which: str, text: str, points: float, pad: float = 2) -> None:
    setter = axes.set_xlabel if which == "x" else axes.set_ylabel
    setter(text, fontsize=points, color=QUIET, labelpad=pad, parse_math=False)


def legend(figure: FigureBase, handles: Sequence[Any], names: Sequence[str], points: float) -> None:
    """Names below the drawing. Given afterwards, as matplotlib leaves out those that begin with an underscore."""
    names = [printable(name) for name in names]
    box = figure.legend(
        list(handles),
        [f"n{number}" for number in range(len(names))],
        loc="outside lower center",
        ncols=legend_columns(names, points),
        fontsize=points,
        frameon=False,
        handlelength=1.6,
        handletextpad=0.4,
        columnspacing=1.0,
        borderpad=0.1,
    )
    for text, name in zip(box.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)
        text.set_color(INK)


def legend_columns(names: Sequence[str], points: float = PAGE_POINTS) -> int:
    """How many names stand side by side in one column of a page or journal."""
    width = ONE_COLUMN / 25.4 * 72 / (_LETTER * points)  # in letters
    longest = max((len(printable(name)) for name in names), default=1)
    return max(1, min(len(names), int(width // (longest + _KEY))))
