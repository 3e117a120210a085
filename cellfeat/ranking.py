"""Boards as tables for a terminal or a document."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from cellfeat.boards import DEFAULT_METRIC, Board, Method, boards
from cellfeat.report import percent
from cellfeat.results_folder import read_failures
from cellfeat.standings import Standing
from cellfeat.suite_results import SEEN, UNKNOWN


@dataclass(frozen=True)
class Ranking:
    """A board by balanced accuracy."""

    board: Board

    @property
    def some_are_seen(self) -> bool:
        return self.board.counted(self.board.transfers) != self.board.transfers

    @property
    def headings(self) -> list[str]:
        transfers = self.board.transfers
        ranked = f"mean of {len(self.board.counted(transfers))}"
        overall = [f"of all {len(transfers)}"] if self.some_are_seen else []
        return ["", "row/classifier", ranked, *overall, *transfers, "seeds", "s"]

    def lines(self) -> list[list[str]]:
        """The table's cells, best first; then majority and ceiling."""
        board = self.board
        overall = {}
        if self.some_are_seen:
            every = board.standings.table(board.transfers, DEFAULT_METRIC, board.ranked(()))
            overall = {one.method: one for one in every}
        found = []
        for one in board.table(board.transfers):
            method = board.methods[one.method]
            wider = [_with_interval(overall[one.method]) + _mark(method.marks.values())] if overall else []
            rank = "" if one.group is None else str(one.group)
            found.append([rank, method.name, _with_interval(one), *wider, *self._values(one.method, method)])
        for name, kind in (("majority class", "majority"), ("ceiling", "ceiling")):
            bounds, blank = board.bound(kind), [""] * (2 if overall else 1)
            found.append(["", name, *blank, *(percent(bounds.get(key)) for key in board.transfers), "", ""])
        return found

    def _values(self, number: int, method: Method) -> list[str]:
        means = (float(self.board.standings.mean(name, DEFAULT_METRIC)[number]) for name in self.board.transfers)
        values = [
            percent(mean) + (method.marks.get(name, "") if mean == mean else "")
            for name, mean in zip(self.board.transfers, means, strict=True)
        ]
        return [*values, str(len(method.seeds)), f"{method.seconds:.0f}"]

    def as_dict(self) -> dict[str, Any]:
        """The table as JSON values, shares from 0 to 1: methods best first, majority class and ceiling by transfer."""
        board = self.board
        rows = [self._row(one) for one in board.table(board.transfers)]
        bounds = {kind: board.bound(kind) for kind in ("majority", "ceiling")}
        about = {"title": board.title, "protocol": board.protocol, "adapt": board.adapt}
        return {**about, "ranked_by": [*board.counted(board.transfers)], "rows": rows, **bounds, "notes": self.notes()}

    def _row(self, one: Standing) -> dict[str, Any]:
        board, method = self.board, self.board.methods[one.method]
        means = {name: float(board.standings.mean(name, DEFAULT_METRIC)[one.method]) for name in board.transfers}
        names = {"row": method.row, "classifier": method.classifier, "group": one.group}
        interval = {"mean": float(one.mean), "low": float(one.low), "high": float(one.high)}
        return {
            **names,
            **interval,
            "transfers": means,
            "marks": method.marks,
            "seeds": method.seeds,
            "s": method.seconds,
        }

    def notes(self) -> list[str]:
        marks = {mark for method in self.board.methods for mark in method.marks.values()}
        texts = [
            "Balanced accuracy in percent over classes with at least 10 target cells; 95 % bootstrap over cells. "
            "Rows of one number cannot be told apart from the first of them (paired exchange test, 5 % for the table)."
        ]
        if SEEN in marks:
            texts.append(f"{SEEN} pretrained weights in this row have seen images of the target.")
        if UNKNOWN in marks:
            texts.append(f"{UNKNOWN} nobody knows whether pretrained weights in this row have seen the target.")
        if self.some_are_seen:
            texts.append(f"Ranked by {', '.join(self.board.counted(self.board.transfers))}.")
        for number, remarks in self.board.remarks.items():
            told = "; ".join(f"{name}: {remark}" for name, remark in remarks.items())
            texts.append(f"{self.board.methods[number].name} is not ranked ({told}).")
        return texts

    def table(self) -> Table:
        lines = self.lines()  # remarks come of it
        table = Table(
            title=self.board.title, title_justify="left", caption="\n".join(self.notes()), caption_justify="left"
        )
        for number, heading in enumerate(self.headings):
            figures = number >= 2  # these stand in one line each, and the name takes what is left
            shown = heading.replace(" → ", "\n→ ")
            table.add_column(shown, justify="right" if figures else "left", no_wrap=figures, overflow="fold")
        for line in lines:
            table.add_row(*line)
        return table

    def markdown(self) -> str:
        ruler = ["---" if number == 1 else "--:" for number in range(len(self.headings))]
        rows = [self.headings, ruler, *self.lines()]
        text = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
        return f"### {self.board.title}\n\n{text}\n\n{' '.join(self.notes())}\n"


def _with_interval(one: Standing) -> str:
    if one.mean != one.mean:
        return "–"
    return f"{percent(one.mean)} [{percent(one.low)}, {percent(one.high)}]"


def _mark(marks: Iterable[str]) -> str:
    return "".join(sorted(set(marks)))


def read_rankings(
    folder: Path, protocol: str | None = None, classifier: str | None = None
) -> tuple[list[Ranking], list[dict[str, Any]]]:
    """Every table of a results folder, and the fits that failed."""
    return [Ranking(board) for board in boards([folder], protocol, classifier)], read_failures(folder)
