"""What every picture shares: its own style whatever the user's is, text that can be drawn and fits, the PNG.

matplotlib is loaded when a picture is drawn, and never pyplot: there is no display and no current figure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfeat.artifacts import atomic_file

if TYPE_CHECKING:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

DPI = 150
SMALL, LARGE = 7.0, 9.0  # points
MARGIN = 18  # px around the whole
BLUE, RED, INK, QUIET, FAINT = "#0072b2", "#cc3311", "#333333", "#767676", "#e4e4e4"

_LONGEST_TEXT = 160  # characters; more are never measured


@contextmanager
def own_style() -> Iterator[None]:
    """matplotlib's defaults while a picture is drawn, and the caller's settings again afterwards."""
    import matplotlib.style

    # A user's matplotlibrc may ask for LaTeX or for other sizes, and pictures of trainings are to be compared.
    with matplotlib.style.context(["default", {"text.color": INK, "agg.path.chunksize": 10_000}]):
        yield


def new_canvas(width: float, height: float) -> FigureCanvasAgg:
    """A white figure of so many inches, on a canvas that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    return FigureCanvasAgg(Figure(figsize=(width, height), dpi=DPI, facecolor="white"))


def drawn(canvas: FigureCanvasAgg) -> np.ndarray:
    """The figure as pixels, (H, W, 3) uint8 RGB."""
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def save_png(path: Path, pixels: np.ndarray) -> None:
    """(H, W, 3) uint8 RGB to a file that is replaced whole; equal pixels give equal bytes."""
    from PIL import Image

    with atomic_file(path) as partial:
        Image.fromarray(pixels).save(partial, format="PNG", dpi=(DPI, DPI), optimize=True)


def text_width(canvas: FigureCanvasAgg, points: float) -> Callable[[str], float]:
    """A function from a text to its width in px."""
    from matplotlib.font_manager import FontProperties

    renderer, font = canvas.get_renderer(), FontProperties(size=points)
    return lambda text: renderer.get_text_width_height_descent(text, font, ismath=False)[0]


def one_line(text: str) -> str:
    """A text that can be drawn: one line, no control characters, □ for what the font does not have."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(text) > _LONGEST_TEXT:
        text = text[: _LONGEST_TEXT // 2] + "…" + text[-_LONGEST_TEXT // 2 :]
    return "".join(c if font.get_char_index(ord(c)) else "□" for c in text)


def shortened(text: str, width: float, width_of: Callable[[str], float]) -> str:
    """The text in one line, or as much of its two ends as fits, with … between them."""
    text = one_line(text)
    if width_of(text) <= width:
        return text

    def with_gap(kept: int) -> str:
        return text[: (kept + 1) // 2].rstrip() + "…" + text[len(text) - kept // 2 :].lstrip()

    too_many = bisect_left(range(1, len(text)), True, key=lambda kept: width_of(with_gap(kept)) > width)
    return with_gap(too_many)
