"""What changed since an earlier count of the same photographs: its cells are found again by where they lie."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cellfeat.changes import Changes
from cellfeat.detection import overlaps
from cellfeat.edited_tables import Line, read_lines
from cellfeat.errors import CellfeatError
from cellfeat.smear_folder import CELLS, FIELDS, FoundCell
from cellfeat.smear_photographs import Photograph
from cellfeat.spreadsheets import unprotected

SAME = 0.5  # intersection over union from which two boxes are of one cell
BOX = ("x1", "y1", "x2", "y2")
OPTION = "--before"


class _Field(NamedTuple):
    """boxes: (K, 4) px. labels: their classes, "" for none."""

    boxes: np.ndarray
    labels: list[str]


NOTHING = _Field(np.zeros((0, 4)), [])


@dataclass(frozen=True)
class Earlier:
    """An earlier count. fields: its photographs by name. names: {sha256 of a photograph: its name}, empty where the
    table came alone."""

    said: str
    fields: dict[str, _Field]
    names: dict[str, str]

    @classmethod
    def read(cls, given: Path) -> Earlier:
        """From the folder of a count, or its `cells.csv`.

        Cells have running numbers for names, which are other cells' as soon as one box more is found: what tells them
        is the photograph, by its content where the folder has `fields.csv`, and the box.

        Raises: CellfeatError where it is none.
        """
        table = given / CELLS if given.is_dir() else given
        if given.is_dir() and not table.is_file():
            raise CellfeatError(f"{OPTION} {given}: no folder of a smear, it has no {CELLS}")
        lines = read_lines(table, OPTION)
        there = lines[0].values if lines else {}
        lacking = [name for name in ("field", *BOX, "label") if name not in there]
        if lacking:
            raise CellfeatError(
                f"{OPTION} {table}: no table of a smear's cells, it has no column {', '.join(lacking)}; name the "
                f"folder of an earlier count, or its {CELLS}"
            )
        boxes: dict[str, list[list[float]]] = defaultdict(list)
        labels: dict[str, list[str]] = defaultdict(list)
        for line in lines:
            name = unprotected(line.values["field"])
            boxes[name].append(_box(table, line))
            labels[name].append(unprotected(line.values["label"]))
        fields = {name: _Field(np.array(found), labels[name]) for name, found in boxes.items()}
        return cls(f"{OPTION} {given}", fields, _names(table.parent / FIELDS))

    def check(self, photographs: Sequence[Photograph]) -> None:
        """Raises: CellfeatError where it is a count of none of these photographs."""
        if not any(self._counted(one) for one in photographs):
            raise CellfeatError(f"{self.said}: it counted none of these photographs, so that nothing can be compared")

    def _counted(self, one: Photograph) -> bool:
        return one.sha256 in self.names if self.names else one.name in self.fields

    def _of(self, one: Photograph) -> _Field:
        name = self.names.get(one.sha256, "") if self.names else one.name
        return self.fields.get(name, NOTHING)

    def changes(self, photographs: Sequence[Photograph], cells: Sequence[FoundCell], labels: Sequence[str]) -> Changes:
        """Of the cells that both counts have a box around, in the photographs of both; labels: of the cells now.

        `lost` and `new` are boxes that only the earlier, or only this count has in them.
        """
        rows: dict[str, list[int]] = defaultdict(list)
        for row, cell in enumerate(cells):
            rows[cell.field].append(row)
        moves: Counter[tuple[str, str]] = Counter()
        both = lost = new = 0
        for one in filter(self._counted, photographs):
            was, now = self._of(one), rows[one.name]
            made = paired(was.boxes, np.array([cells[row].box for row in now]).reshape(-1, 4))
            both, lost, new = both + len(made), lost + len(was.labels) - len(made), new + len(now) - len(made)
            moves.update((was.labels[old], labels[now[place]]) for old, place in made)
        return Changes(Counter({move: count for move, count in moves.items() if len(set(move)) > 1}), both, lost, new)


def paired(boxes: np.ndarray, others: np.ndarray) -> list[tuple[int, int]]:
    """Rows of (M, 4) and (K, 4) boxes of one cell each, the most alike first; no box is in two pairs."""
    overlap = overlaps(boxes, others)
    rows, columns = np.nonzero(overlap >= SAME)
    free_rows, free_columns, found = set(rows.tolist()), set(columns.tolist()), []
    for at in np.argsort(-overlap[rows, columns], kind="stable").tolist():
        row, column = int(rows[at]), int(columns[at])
        if row in free_rows and column in free_columns:
            free_rows.discard(row)
            free_columns.discard(column)
            found.append((row, column))
    return found


def _box(table: Path, line: Line) -> list[float]:
    try:
        return [float(line.values[name].replace(",", ".")) for name in BOX]  # as spreadsheets of some countries save it
    except (KeyError, ValueError):
        raise CellfeatError(f"{OPTION} {table}: line {line.number}: {', '.join(BOX)} are not all numbers") from None


def _names(table: Path) -> dict[str, str]:
    if not table.is_file():
        return {}
    lines = read_lines(table, OPTION)
    if not lines or not {"field", "sha256"} <= set(lines[0].values):
        return {}
    return {line.values["sha256"]: unprotected(line.values.get("field", "")) for line in lines}
