"""Pictures of a training as PNG: curves of its losses, grids of small images, a mask's outline.

The caller's matplotlib settings are neither used nor changed, and importing this module loads no matplotlib.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cellfeat.curves import loss_curves
from cellfeat.drawing import DPI, LARGE, MARGIN, SMALL, drawn, new_canvas, own_style, save_png, shortened, text_width

__all__ = ["MAX_PICTURES", "OUTLINE", "image_grid", "loss_curves", "mask_outline"]

MAX_PICTURES = 16  # in one row of a grid
OUTLINE = (213, 94, 0)  # Okabe and Ito's dark orange: seen on yellow, pink and violet stains, and by every eye

_EDGE = 208  # grey of the line around a picture, which may be as white as the page
_GAP, _LINE_HEIGHT = 8, 26  # px
_WIDEST_LABEL, _WIDEST_ROW, _LONGEST_BAND = 240, 1320, 8  # px, px, pictures
_SIDE, _LARGE_SIDE = 128, 256  # px that pictures are enlarged to when they are many and small, or few or large


class _Text(NamedTuple):
    x: float  # px from the left
    y: float  # px from the top to the middle
    text: str
    points: float = SMALL
    align: str = "left"


class _Placed(NamedTuple):
    x: int
    y: int
    picture: np.ndarray


def image_grid(
    path: Path,
    rows: Mapping[str, Sequence[np.ndarray] | np.ndarray],
    columns: Sequence[str] | None = None,
    title: str = "",
) -> None:
    """Write a PNG of labelled rows of small pictures, pixel for pixel.

    A picture is enlarged by a whole factor, each pixel becoming a square; one over 256 px is reduced by a whole
    factor, to the mean of each block. Rows that would be too wide are continued below. Equal input gives equal bytes
    with the same versions of matplotlib and Pillow.

    Args:
        path: the PNG; replaced whole.
        rows: {label: pictures}, each (H, W, 3) uint8 RGB, or a mask (H, W) bool or integer, white where it is not 0;
            the same number of pictures in every row, 1 to 16.
        columns: a caption for each picture of a row, written above it; cut in its middle when too long.
        title: one line above everything.

    Raises:
        ValueError: no row, an empty one, too many pictures, rows or captions of different number, no such picture.
    """
    pictures = {label: [_as_rgb(label, picture) for picture in row] for label, row in rows.items()}
    count = _checked_count(pictures, columns)
    longest = max(max(picture.shape[:2]) for row in pictures.values() for picture in row)
    side = _LARGE_SIDE if count <= 4 or longest > _SIDE else _SIDE
    shown = {label: [_fitted(picture, side) for picture in row] for label, row in pictures.items()}
    with own_style():
        save_png(path, _page(shown, list(columns or ()), title))


def mask_outline(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image with the mask's outermost pixels in orange: (H, W, 3) uint8 RGB and (H, W) bool to (H, W, 3) uint8.

    A mask that reaches the image's edge is outlined there too. The image that is given is not changed.

    Raises:
        ValueError: image or mask is not of this shape and type.
    """
    image, mask = np.asarray(image), np.asarray(mask)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"the image is {_described(image)}; an outline is drawn on (H, W, 3) uint8 RGB")
    if mask.shape != image.shape[:2] or mask.dtype != bool:
        raise ValueError(f"the mask is {_described(mask)}; this image needs {image.shape[:2]} bool")
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    outlined = image.copy()
    outlined[mask & ~inside] = OUTLINE
    return outlined


def _described(array: np.ndarray) -> str:
    return f"{array.shape} {array.dtype}"


def _as_rgb(label: str, picture: np.ndarray) -> np.ndarray:
    picture = np.asarray(picture)
    if picture.size and picture.ndim == 3 and picture.shape[2] == 3 and picture.dtype == np.uint8:
        return picture
    if picture.size and picture.ndim == 2 and picture.dtype.kind in "biu":
        return np.repeat(np.where(picture != 0, np.uint8(255), np.uint8(0))[..., None], 3, axis=2)
    raise ValueError(
        f"row {label!r} has a picture that is {_described(picture)}; a picture is (H, W, 3) uint8 RGB, "
        "and a mask (H, W) bool or integer"
    )


def _checked_count(pictures: Mapping[str, list[np.ndarray]], columns: Sequence[str] | None) -> int:
    """How many pictures every row has."""
    if not pictures:
        raise ValueError("there is no row to draw; give at least one, as {label: pictures}")
    counts = {label: len(row) for label, row in pictures.items()}
    for label, count in counts.items():
        if not 1 <= count <= MAX_PICTURES:
            raise ValueError(f"row {label!r} has {count} pictures; a row has 1 to {MAX_PICTURES}")
    if len(set(counts.values())) > 1:
        listing = ", ".join(f"{label!r} has {count}" for label, count in counts.items())
        raise ValueError(f"rows must have the same number of pictures, but {listing}")
    if columns is not None and len(columns) != count:
        raise ValueError(f"there are {len(columns)} captions for {count} pictures in a row")
    return count


def _fitted(picture: np.ndarray, side: int) -> np.ndarray:
    """Enlarged or reduced by the whole factor that brings the longer side nearest to `side` from below."""
    longest = max(picture.shape[:2])
    if longest <= side:
        return picture.repeat(side // longest, axis=0).repeat(side // longest, axis=1)
    factor = -(-longest // side)
    height, width = (-(-length // factor) for length in picture.shape[:2])
    room = [(0, height * factor - picture.shape[0]), (0, width * factor - picture.shape[1]), (0, 0)]
    blocks = np.pad(picture, room, mode="edge").reshape(height, factor, width, factor, 3)
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


def _page(shown: Mapping[str, list[np.ndarray]], captions: list[str], title: str) -> np.ndarray:
    """The whole grid, (H, W, 3) uint8: what stands where, in px from the top left, then drawn."""
    ruler = new_canvas(1, 1)
    small, large = text_width(ruler, SMALL), text_width(ruler, LARGE)
    labels = {label: shortened(label, _WIDEST_LABEL, small) for label in shown}
    left = MARGIN + round(max(map(small, labels.values()))) + 14
    cell = max(picture.shape[1] for row in shown.values() for picture in row)
    bands = _bands(len(next(iter(shown.values()))), cell)
    width, top = left + len(bands[0]) * (cell + _GAP) - _GAP + MARGIN, MARGIN
    texts: list[_Text] = []
    placed: list[_Placed] = []
    if title:
        whole = shortened(title, _WIDEST_ROW // 2, large)
        width = max(width, round(large(whole)) + 2 * MARGIN)
        texts.append(_Text(MARGIN, top + 8, shortened(title, width - 2 * MARGIN, large), LARGE))
        top += _LINE_HEIGHT + 6
    for band in bands:
        if captions:
            for x, column in zip(range(left, width, cell + _GAP), band, strict=False):
                texts.append(_Text(x + cell / 2, top + 8, shortened(captions[column], cell, small), align="center"))
            top += _LINE_HEIGHT
        for label, row in shown.items():
            height = max(picture.shape[0] for picture in row)
            texts.append(_Text(MARGIN, top + height / 2, labels[label]))
            placed += _row_of([row[column] for column in band], left, top, cell, height)
            top += height + _GAP
        top += MARGIN - _GAP
    return _composed(width, top, texts, placed)


def _bands(count: int, cell: int) -> list[range]:
    """The columns of each band: as few bands as keep a row narrow, of nearly equal length."""
    fit = min(_LONGEST_BAND, max(1, _WIDEST_ROW // (cell + _GAP)))
    length = -(-count // -(-count // fit))
    return [range(start, min(start + length, count)) for start in range(0, count, length)]


def _row_of(row: list[np.ndarray], left: int, top: int, cell: int, height: int) -> list[_Placed]:
    """Pictures side by side, each in the middle of its cell."""
    return [
        _Placed(
            left + place * (cell + _GAP) + (cell - picture.shape[1]) // 2,
            top + (height - picture.shape[0]) // 2,
            picture,
        )
        for place, picture in enumerate(row)
    ]


def _composed(width: int, height: int, texts: list[_Text], placed: list[_Placed]) -> np.ndarray:
    canvas = new_canvas((width + 0.5) / DPI, (height + 0.5) / DPI)  # + 0.5 as the canvas cuts to whole pixels
    for x, y, text, points, align in texts:
        canvas.figure.text(
            x / width, 1 - y / height, text, fontsize=points, ha=align, va="center_baseline", parse_math=False
        )
    page = drawn(canvas)
    for x, y, picture in placed:  # past matplotlib, so that no pixel is interpolated
        page[y - 1 : y + picture.shape[0] + 1, x - 1 : x + picture.shape[1] + 1] = _EDGE
        page[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return page
