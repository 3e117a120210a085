"""What changed between two answers for the same cells: before and after a correction, say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellfeat import cell_tables

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = 12  # kinds of changes that are printed


@dataclass(frozen=True)
class Changes:
    """moves: how many cells went from one class to another. cells: those that both answers know. lost, new: those that
    only the earlier, or only the later one knows."""

    moves: Counter[tuple[str, str]]
    cells: int
    lost: int
    new: int

    @property
    def changed(self) -> int:
        return sum(self.moves.values())

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        moves = [{"from": old, "to": new, "cells": count} for (old, new), count in self.moves.most_common()]
        return {"cells": self.cells, "changed": self.changed, "only_before": self.lost, "only_now": self.new} | {
            "moves": moves
        }

    def table(self) -> Table:
        """The most frequent changes."""
        from rich.table import Table
        from rich.text import Text

        title = f"{self.changed:,} of {self.cells:,} cells have another class than before"
        table = Table("before", "now", "cells", title=title, title_justify="left")
        table.columns[2].justify = "right"
        for (old, new), count in self.moves.most_common(SHOWN):
            table.add_row(Text(old or "no answer"), Text(new or "no answer"), f"{count:,}")
        rest = self.changed - sum(count for _, count in self.moves.most_common(SHOWN))
        if rest:
            table.add_row("others", "", f"{rest:,}")
        return table


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> Changes:
    """{id: class} of two answers."""
    both = before.keys() & now.keys()
    moves = Counter((before[name], now[name]) for name in sorted(both) if before[name] != now[name])
    return Changes(moves, len(both), len(before) - len(both), len(now) - len(both))


def read_answers(table: Path) -> dict[str, str]:
    """{id: class} of a table that `cellfeat predict` or `smear` wrote.

    Raises: CellfeatError where it is none.
    """
    lines = cell_tables.read(table, ("id", "label"), "--before").values()
    return {line["id"]: line["label"] for line in lines}
