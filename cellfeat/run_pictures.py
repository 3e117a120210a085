"""Pictures of cells in a report: examples with masks and reconstructions, the surest mistakes, the largest doubts."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cellfeat.depicted import RECONSTRUCTED, WRITTEN
from cellfeat.figures import TWO_COLUMNS, Figure, Panel, printable
from cellfeat.observation_files import Observations, after
from cellfeat.observations import DATA_SET, notable_count
from cellfeat.thumbnails import CROP, ORIGINAL, OUTLINE, Thumbnail
from cellfeat.transfers import Scored, Transfer

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

PER_LINE = 8  # pictures in a line of a figure's file


class Picture(NamedTuple):
    """One small picture on the page. src: a data URI, "" where there is none; lines: what stands below it."""

    src: str
    alt: str
    width: int
    height: int
    lines: tuple[str, ...]
    jpeg: bytes


@dataclass(frozen=True)
class CellTable:
    """Examples of one domain: a column per cell, a row per kind of picture."""

    domain: str
    classes: list[str]  # of the columns
    ids: list[str]
    rows: list[tuple[str, list[Picture | None]]]
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Cells of one transfer: the surest mistakes, and those with the largest doubt."""

    title: str
    mistakes: list[Picture]
    doubts: list[Picture]
    said_of_mistakes: str
    said_of_doubts: str
    has_pictures: bool


def cell_tables(observed: Observations) -> list[CellTable]:
    """Examples of every domain, by class."""
    known = {name: (domain, label) for name, domain, label in observed.summary["shown"]}
    kinds = _kinds(observed)
    tables = []
    for domain in dict.fromkeys(domain for domain, _ in known.values()):
        order = {label: i for i, label in enumerate([*observed.summary["classes"], ""])}
        ids = sorted((name for name in known if known[name][0] == domain), key=lambda one: (order[known[one][1]], one))
        classes = [known[name][1] or "no label" for name in ids]
        rows = []
        for title, kind, source in kinds:
            found = [observed.pictures.get((name, kind, source)) for name in ids]
            if any(found):
                pictures = [
                    one and _picture(one, f"{title} of {one.id}, {label}", ())
                    for one, label in zip(found, classes, strict=True)
                ]
                rows.append((title, pictures))
        if rows:
            tables.append(CellTable(domain, classes, ids, rows, _said_of(observed, domain, len(ids))))
    return tables


def _kinds(observed: Observations) -> list[tuple[str, str, str]]:
    """(title, kind, source) of the pictures that there may be of a cell."""
    sources = list(observed.summary["depicted"])
    made = [
        (f"{'reconstruction' if kind == RECONSTRUCTED else 'as written'}, pipeline of {source}", kind, source)
        for source in sources
        for kind in (RECONSTRUCTED, WRITTEN)
    ]
    return [("original", ORIGINAL, ""), ("mask", OUTLINE, ""), ("crop", CROP, ""), *made]


def _said_of(observed: Observations, domain: str, count: int) -> str:
    masks, depicted = observed.summary["masks"], observed.summary["depicted"]
    text = f"{count} cells of {domain}, drawn at random, at most 3 of each class."
    text += f" The orange line is the edge of the mask by {masks}." if masks else " There are no masks of them."
    kinds = {kind for _, kind, _ in observed.pictures}
    empty = observed.summary["empty_masks"].get(domain, 0)
    if empty:
        text += f" Empty masks, without a line: {empty}."
    if observed.summary["masks_of_originals"] and masks != DATA_SET:
        text += " These are masks of the originals; features come from masks of the images as written."
    if lacking := observed.summary["examples_left_out"].get(domain):
        text += f" Not among them for want of room: {', '.join(name or 'cells without a class' for name in lacking)}."
    if CROP in kinds:
        text += " Crop: the cell alone, grey outside it, as the autoencoder is to draw it."
    pipelines = sum(name.startswith(after("")) for name in observed.summary["features"])
    if 0 < len(depicted) < pipelines:
        text += f" Drawn is what {len(depicted)} of the {pipelines} pipelines made of them."
    for said in dict.fromkeys(depicted.values()):
        what, _, method = said.partition(" by ")
        if what == RECONSTRUCTED:
            text += f" Reconstruction: what {method}, as it was fitted for the pipeline of a source, draws of the cell."
        else:
            text += f" As written: the image that {method} made of it, which the backbone then saw."
    return text


def galleries(scored: Sequence[Scored], observed: Observations | None) -> list[Gallery]:
    """Mistakes and doubts of every transfer that has predictions."""
    known = [(one, one.transfer) for one in scored if one.transfer is not None]
    most = notable_count(len(known))
    pictures = observed.pictures if observed else {}
    return [_gallery(one, transfer, most, pictures) for one, transfer in known if most]


def _gallery(one: Scored, transfer: Transfer, most: int, pictures: dict[tuple[str, str, str], Thumbnail]) -> Gallery:
    classes = one.records[0]["classes"]
    wrong, unsure = transfer.mistakes(most), transfer.doubts(most)
    mistakes, doubts = (
        [_notable(transfer, row, classes, pictures) for row in rows.tolist()] for rows in (wrong, unsure)
    )
    count = int((transfer.predicted != transfer.label).sum())
    models = f"the mean over {transfer.said_models}" if transfer.models > 1 else "that of the one model that answered"
    of = f"{count:,} of {len(transfer.id):,} cells are wrong by their largest mean probability"
    shown = "all of them are shown" if count == len(mistakes) else f"the {len(mistakes)} surest are shown"
    return Gallery(
        one.title,
        mistakes,
        doubts,
        f"{of}; {shown}. The probability is that of the wrong class, {models}." if count else "No cell is wrong.",
        f"The {len(doubts)} of {len(transfer.id):,} cells whose largest probability is lowest, right or wrong; it is "
        f"{models}.",
        any(picture.src for picture in [*mistakes, *doubts]),
    )


def _notable(
    transfer: Transfer, row: int, classes: Sequence[str], pictures: dict[tuple[str, str, str], Thumbnail]
) -> Picture:
    name, true, called = str(transfer.id[row]), classes[transfer.label[row]], classes[transfer.predicted[row]]
    sure = f"{transfer.proba[row].max():.2f}"
    said = f"true {true}, predicted {called}, probability {sure}, cell {name}"
    lines = (true if true == called else f"{true} → {called}", sure, name)
    small = pictures.get((name, ORIGINAL, ""))
    return _picture(small, said, lines) if small else Picture("", said, 0, 0, lines, b"")


def _picture(one: Thumbnail, alt: str, lines: tuple[str, ...]) -> Picture:
    src = f"data:image/jpeg;base64,{base64.b64encode(one.jpeg).decode()}"
    return Picture(src, alt, one.width, one.height, lines, one.jpeg)


def picture_figures(tables: Sequence[CellTable], found: Sequence[Gallery]) -> list[Figure]:
    """The same as figures, for files."""
    panels = [_table_panel(one) for one in tables]
    made = [Figure("cells", "Cells", "", panels, apart=True)] if panels else []
    for name, kind in (("mistakes", "mistakes"), ("doubts", "doubts")):
        grids = [
            _grid_panel(one.title, pictures) for one in found if (pictures := [p for p in getattr(one, kind) if p.src])
        ]
        if grids:
            made.append(Figure(name, name, "", grids, apart=True))
    return made


def _pixels(picture: Picture) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(picture.jpeg)).convert("RGB"))


def _table_panel(table: CellTable) -> Panel:
    def draw(figure: FigureBase, points: float) -> None:
        axes = figure.subplots(len(table.rows), len(table.ids), squeeze=False)
        for row, (title, pictures) in enumerate(table.rows):
            for column, picture in enumerate(pictures):
                place = axes[row, column]
                place.set_axis_off()
                if picture is not None:
                    place.imshow(_pixels(picture), interpolation="none")
                if row == 0:
                    place.set_title(
                        printable(table.classes[column], 14), fontsize=0.75 * points, parse_math=False, pad=2
                    )
                if column == 0:
                    place.text(
                        -0.08, 0.5, printable(title, 20), fontsize=0.75 * points, ha="right", va="center",
                        transform=place.transAxes, rotation=90, parse_math=False,
                    )  # fmt: skip

    side = (TWO_COLUMNS - 8) / len(table.ids)
    return Panel(table.domain, draw, table.caption, TWO_COLUMNS, max(22.0, 8 + (side + 1) * len(table.rows)))


def _grid_panel(title: str, pictures: list[Picture]) -> Panel:
    rows = -(-len(pictures) // PER_LINE)

    def draw(figure: FigureBase, points: float) -> None:
        axes = figure.subplots(rows, PER_LINE, squeeze=False).ravel()
        for place in axes:
            place.set_axis_off()
        for place, picture in zip(axes, pictures, strict=False):
            place.imshow(_pixels(picture), interpolation="none")
            text = f"{printable(picture.lines[0], 30)}\n{picture.lines[1]}"
            place.set_title(text, fontsize=0.7 * points, parse_math=False, pad=2)

    return Panel(title, draw, f"{len(pictures)} cells", TWO_COLUMNS, 8 + 30 * rows)
