"""The folder of one differential count: lines of cells and photographs, counts, crops, pictures, provenance.

`cellfeat smear` writes it; the review page and `cellfeat data correct` read it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cellfeat.artifacts import atomic_file
from cellfeat.errors import CellfeatError
from cellfeat.spreadsheets import plain, unprotected

if TYPE_CHECKING:
    from cellfeat.differential import Count
    from cellfeat.verdicts import Verdicts

CELLS, FIELDS, ABOUT = "cells.csv", "fields.csv", "smear.json"
COUNTS_CSV, COUNTS_JSON = "differential.csv", "differential.json"
CROPS, PICTURES, SHEETS = "crops", "fields", "classes"  # folders in it
PLACE = ("id", "patient", "field", "x1", "y1", "x2", "y2", "crop", "path")  # columns before what was predicted
FLAGS = ("touching", "cut")
NAMES = ("id", "patient", "field", "label", "best_label", "set")  # columns of names, which `plain` may have changed
COUNT_COLUMNS = (
    *("patient", "class", "cells", "n", "share", "low", "high", "probability"),
    *("estimate", "estimate_low", "estimate_high"),
)


class FoundCell(NamedTuple):
    """One box of a photograph. box: (x1, y1, x2, y2) in px of the photograph. touching: its outline reaches another
    cell's. cut: the photograph's border cuts it."""

    id: str
    patient: str
    field: str
    box: tuple[float, float, float, float]
    touching: bool
    cut: bool

    @property
    def crop(self) -> str:
        """Its picture as it was classified, relative to the folder."""
        return f"{CROPS}/{self.id}.png"


def write_cells(folder: Path, cells: Sequence[FoundCell], verdicts: Verdicts) -> None:
    """`cells.csv`: where each cell is, its class ("" where the method abstains), how sure, flags, each class's
    probability."""
    said, labels = verdicts.columns(), verdicts.labels()
    with atomic_file(folder / CELLS) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        names = [f"p_{name}" for name in verdicts.classes]
        writer.writerow([*PLACE, "label", "probability", *said, *FLAGS, *names])
        for row, cell in enumerate(cells):
            place = [plain(cell.id), plain(cell.patient), plain(cell.field), *(f"{at:.1f}" for at in cell.box)]
            sure = f"{verdicts.proba[row, verdicts.chosen[row]]:.6g}"
            told = [plain(texts[row]) for texts in said.values()]
            flags = ["yes" if one else "no" for one in (cell.touching, cell.cut)]
            values = [f"{value:.6g}" for value in verdicts.proba[row]]
            writer.writerow([*place, cell.crop, cell.crop, plain(labels[row]), sure, *told, *flags, *values])


def write_counts(folder: Path, counts: Sequence[Count], summary: Mapping[str, Any]) -> None:
    """`differential.csv` and `differential.json`, as `count_texts` has them."""
    for name, text in count_texts(counts, summary).items():
        with atomic_file(folder / name) as partial:
            partial.write_text(text, encoding="utf-8", newline="")


def count_texts(counts: Sequence[Count], summary: Mapping[str, Any]) -> dict[str, str]:
    """{name: text} of `differential.csv`, a line per patient and class, and `differential.json`, the summary.

    `patient` is empty in the lines of all patients together, which no patient's name can be. Numbers are empty of a
    class that was not taught: it was not looked for.
    """
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(COUNT_COLUMNS)
    for one in counts:
        for line in one.lines:
            values = ["" if value is None else f"{value:.6g}" for value in line[1:]]
            writer.writerow([plain(one.patient or ""), plain(line.name), values[0], one.cells, *values[1:]])
    return {COUNTS_CSV: file.getvalue(), COUNTS_JSON: _json_text(summary)}


def write_fields(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """`fields.csv`: a line per photograph, the columns as the first row has them."""
    with atomic_file(folder / FIELDS) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({key: plain(str(value)) for key, value in row.items()} for row in rows)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """JSON in UTF-8, replaced whole."""
    with atomic_file(path) as partial:
        partial.write_text(_json_text(value), encoding="utf-8")


def _json_text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)


def read_cells(folder: Path) -> list[dict[str, str]]:
    """The lines of `cells.csv`, names as they were before `plain`; `path` and `crop` are relative to the folder.

    Raises: CellfeatError for a folder that `cellfeat smear` did not write.
    """
    about(folder)
    try:
        with (folder / CELLS).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CellfeatError(f"{folder / CELLS} cannot be read: {error}") from None
    lacking = sorted({*PLACE, *FLAGS, "label", "probability"} - set(rows[0] if rows else ()))
    if lacking:
        raise CellfeatError(f"{folder / CELLS} has no column {', '.join(lacking)}; it was changed since it was written")
    return [row | {name: unprotected(row[name]) for name in NAMES if row.get(name)} for row in rows]


def about(folder: Path) -> dict[str, Any]:
    """`smear.json`. Raises: CellfeatError for a folder without, and for a damaged file."""
    path = folder / ABOUT
    if not path.is_file():
        raise CellfeatError(f"{folder} is no folder of a smear (it has no {ABOUT}); cellfeat smear writes one")
    return read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of such a folder. Raises: CellfeatError for a damaged file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CellfeatError(f"{path} is damaged: {error}") from None
    if not isinstance(found, dict):
        raise CellfeatError(f"{path} is damaged: not a JSON object")
    return found
