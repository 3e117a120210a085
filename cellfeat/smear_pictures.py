"""Pictures of a differential count: a photograph with every cell named, and sheets of the cells of a class."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cellfeat.artifacts import atomic_file
from cellfeat.decode import read_rgb
from cellfeat.drawing import INK, QUIET, one_line, own_style, shortened
from cellfeat.figures import COLOURS
from cellfeat.thumbnails import QUALITY, SIDE, reduced

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

UNANSWERED = "#000000"  # of a cell without a class
MARKS = {"?": "not classified", "!": "unlike the training cells", "t": "touches another", "c": "cut by the border"}
SHORT = 4  # letters of a class's name, or as many more as tell it from the others
COLUMNS, CAPTION, GAP = 10, 15, 6  # of a sheet: cells in a row; px below each, and between
MOST = 500  # cells of a sheet; a JPEG has an end, and nobody looks through more


class Marked(NamedTuple):
    """One cell of a photograph. box: (x1, y1, x2, y2) px. name: its class, "" for none. number: as its id ends. marks:
    some of `MARKS`."""

    box: Sequence[float]
    name: str
    number: int
    marks: str


class Shown(NamedTuple):
    """One cell of a sheet: the picture's file, its id, and how sure its class is, 0..1."""

    path: Path
    id: str
    probability: float


def colours_of(classes: Sequence[str]) -> dict[str, str]:
    """{class: colour} of the pages' palette, as the order of the classes has it; "" is a cell without a class."""
    return {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(classes)} | {"": UNANSWERED}


def short_names(classes: Sequence[str]) -> dict[str, str]:
    """{class: its first letters}, as few as tell it from all others, and four at least."""
    found = {}
    for name in classes:
        others = [other for other in classes if other != name]
        length = next(
            (n for n in range(SHORT, len(name)) if not any(one.startswith(name[:n]) for one in others)), len(name)
        )
        found[name] = name[:length]
    return found


def annotate(path: Path, image: np.ndarray, cells: Sequence[Marked], classes: Sequence[str]) -> None:
    """Write a JPEG of an (H, W, 3) uint8 RGB photograph, pixel for pixel, with a box, number, short class and marks on
    each cell, and below it what they mean. Lines and letters grow with the photograph."""
    from PIL import Image, ImageDraw

    longest = max(image.shape[:2])
    with own_style():
        font = _font(max(12, round(longest / 90)))
        colours, short = colours_of(classes), short_names(classes)
        lines = _legend(cells, classes, short, image.shape[1], font)
        high = _height(font)
        page = Image.new("RGB", (image.shape[1], image.shape[0] + high * len(lines) + high // 2 * bool(lines)), "white")
        page.paste(Image.fromarray(image))
        draw = ImageDraw.Draw(page)
        for cell in cells:
            _box(draw, cell.box, colours[cell.name], max(2, round(longest / 700)))
        for cell in cells:  # above all boxes
            words = (str(cell.number), short[cell.name] if cell.name else "", cell.marks)
            _label(
                draw,
                cell.box,
                one_line(" ".join(word for word in words if word)),
                colours[cell.name],
                font,
                image.shape[1],
                image.shape[0],
            )
        for row, line in enumerate(lines):
            _legend_line(draw, line, colours, font, image.shape[0] + high // 4 + row * high)
    _save(path, page)


def _box(draw: ImageDraw.ImageDraw, box: Sequence[float], colour: str, width: int) -> None:
    """A coloured line between two white ones, which stands out from violet and from pale ground."""
    x1, y1, x2, y2 = (round(at) for at in box)
    x2, y2, edge = max(x1, x2), max(y1, y2), max(1, width // 3)
    draw.rectangle((x1 - edge, y1 - edge, x2 + edge, y2 + edge), outline="white", width=width + 2 * edge)
    draw.rectangle((x1, y1, x2, y2), outline=colour, width=width)


def _label(
    draw: ImageDraw.ImageDraw, box: Sequence[float], text: str, colour: str, font: Any, width: int, height: int
) -> None:
    """White letters on the colour, above the box, or in it at the top of the picture."""
    wide, high = font.getlength(text) + 6, _height(font)
    left = min(max(0.0, box[0]), max(0.0, width - wide))
    top = box[1] - high if box[1] >= high else min(max(0.0, box[1]), height - high)
    draw.rectangle((left, top, left + wide, top + high), fill=colour)
    draw.text((left + 3, top + high / 2), text, fill="white", font=font, anchor="lm")


class _Word(NamedTuple):
    text: str
    name: str | None  # the class whose colour it has
    left: float


def _legend(
    cells: Sequence[Marked], classes: Sequence[str], short: Mapping[str, str], width: int, font: Any
) -> list[list[_Word]]:
    """Lines of what stands in the picture: each class with its cells, and the marks that are there."""
    counts = {name: sum(cell.name == name for cell in cells) for name in [*classes, ""]}
    said: list[tuple[str, str | None]] = []
    said += [(f"{short[name]} = {name}: {count}", name) for name, count in counts.items() if name and count]
    said += [(f"{mark} {text}", None) for mark, text in MARKS.items() if any(mark in cell.marks for cell in cells)]
    if not cells:
        said = [("no white cell was found", None)]
    lines: list[list[_Word]] = [[]]
    left, gap = 0.0, _height(font)
    for text, name in said:
        text = shortened(text, width - 2 * gap, font.getlength)
        wide = font.getlength(text) + gap + gap * (name is not None)
        if lines[-1] and left + wide > width:
            lines.append([])
            left = 0.0
        lines[-1].append(_Word(text, name, left + gap / 2))
        left += wide
    return lines


def _legend_line(
    draw: ImageDraw.ImageDraw, line: Sequence[_Word], colours: Mapping[str, str], font: Any, top: float
) -> None:
    high = _height(font)
    for word in line:
        left = word.left
        if word.name is not None:
            draw.rectangle((left, top + 0.15 * high, left + 0.7 * high, top + 0.85 * high), fill=colours[word.name])
            left += high
        draw.text((left, top + high / 2), word.text, fill=INK, font=font, anchor="lm")


def sheet(path: Path, title: str, cells: Sequence[Shown]) -> None:
    """Write a JPEG of the cells of a class, each with its id and probability, the least sure first; at most 500."""
    from PIL import Image, ImageDraw

    ordered = sorted(cells, key=lambda one: (one.probability, one.id))[:MOST]
    columns = min(COLUMNS, max(4, len(ordered)))  # as wide as the title, where there are few
    rows = -(-len(ordered) // columns)
    wide, high = SIDE + GAP, SIDE + 2 * CAPTION + GAP
    with own_style():
        small, large = _font(11), _font(14)
        page = Image.new("RGB", (GAP + columns * wide, 2 * GAP + 24 + rows * high), "white")
        draw = ImageDraw.Draw(page)
        more = f"the {MOST} least sure of {len(cells):,} cells" if len(cells) > MOST else f"{len(cells):,} cells"
        heading = f"{title}: {more}, the least sure first"
        draw.text((GAP, GAP + 12), shortened(heading, page.width - 2 * GAP, large.getlength), INK, large, "lm")
        for place, cell in enumerate(ordered):
            left, top = GAP + place % columns * wide, 2 * GAP + 24 + place // columns * high
            picture = _thumbnail(cell.path)
            page.paste(picture, (left + (SIDE - picture.width) // 2, top + (SIDE - picture.height) // 2))
            below = top + SIDE + CAPTION / 2
            draw.text((left, below), shortened(cell.id, SIDE, small.getlength), INK, small, "lm")
            draw.text((left, below + CAPTION), f"{100 * cell.probability:.0f} %", QUIET, small, "lm")
    _save(path, page)


def _thumbnail(path: Path) -> Any:
    """A picture of a longer side of `SIDE` px; smaller ones are enlarged, so that all cells are seen alike."""
    from PIL import Image

    pixels = reduced(read_rgb(path))
    found = Image.fromarray(pixels)
    factor = SIDE / max(found.size)
    size = (max(1, round(found.width * factor)), max(1, round(found.height * factor)))
    return found if factor == 1 else found.resize(size, Image.Resampling.BICUBIC)


def _font(points: int) -> ImageFont.FreeTypeFont:
    """Of that many px; the font that `one_line` knows the letters of."""
    from matplotlib.font_manager import FontProperties, findfont
    from PIL import ImageFont

    return ImageFont.truetype(findfont(FontProperties()), points)


def _height(font: Any) -> int:
    return round(1.35 * font.size)


def _save(path: Path, page: Any) -> None:
    file = io.BytesIO()
    page.save(file, format="JPEG", quality=QUALITY, subsampling=0)  # halved colour would blur lines and letters
    with atomic_file(path) as partial:
        partial.write_bytes(file.getvalue())
