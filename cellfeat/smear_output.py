"""What a reader opens of a differential count: the tables of cells and photographs, provenance, and the pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellfeat.decode import read_rgb
from cellfeat.scan import ProgressBar
from cellfeat.smear_folder import ABOUT, PICTURES, SHEETS, FoundCell, write_cells, write_fields, write_json
from cellfeat.smear_photographs import safe_name
from cellfeat.smear_pictures import Marked, Shown, annotate, sheet

if TYPE_CHECKING:
    from cellfeat.smear_detection import Found
    from cellfeat.verdicts import Verdicts

UNANSWERED = "not classified"


def write(
    folder: Path,
    found: Sequence[Found],
    cells: Sequence[FoundCell],
    verdicts: Verdicts,
    about: Mapping[str, Any],
    progress: ProgressBar,
) -> None:
    """Everything but the counts. cells: of all photographs, in the order of the verdicts."""
    write_cells(folder, cells, verdicts)
    write_fields(folder, [one.row() for one in found])
    write_json(folder / ABOUT, about)
    row_of = {cell.id: row for row, cell in enumerate(cells)}
    labels = verdicts.labels()
    with progress(len(found), "drawing pictures") as bar:
        for one in found:
            marked = [_marked(cell, number, row_of[cell.id], labels, verdicts) for number, cell in _numbered(one)]
            image = read_rgb(one.photograph.path)
            annotate(folder / PICTURES / f"{one.photograph.name}.jpg", image, marked, verdicts.classes)
            bar.advance(1)
    _sheets(folder, cells, labels, verdicts)


def _numbered(one: Found) -> Sequence[tuple[int, FoundCell]]:
    return list(enumerate(one.cells, 1))


def _marked(cell: FoundCell, number: int, row: int, labels: Sequence[str], verdicts: Verdicts) -> Marked:
    novel = verdicts.novelty is not None and bool(verdicts.novelty.novel[row])
    marks = {"?": not labels[row], "!": novel, "t": cell.touching, "c": cell.cut}
    return Marked(cell.box, labels[row], number, "".join(mark for mark, holds in marks.items() if holds))


def _sheets(folder: Path, cells: Sequence[FoundCell], labels: Sequence[str], verdicts: Verdicts) -> None:
    """A page of pictures for every class that was found, and for the cells without one."""
    taken: set[str] = set()
    for name in [*verdicts.classes, ""]:
        rows = [row for row, label in enumerate(labels) if label == name]
        if not rows:
            continue
        title = name or UNANSWERED
        file = safe_name(title)
        while file.casefold() in taken:
            file += "_"
        taken.add(file.casefold())
        shown = [
            Shown(folder / cells[row].crop, cells[row].id, float(verdicts.proba[row, verdicts.chosen[row]]))
            for row in rows
        ]
        sheet(folder / SHEETS / f"{file}.jpg", title, shown)
