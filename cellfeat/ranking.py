"""Records of a suite to rankings. Reads records and predictions, never a model.

Rows that were shown different things of the target are never ranked together. `adapt: none` ranks a row only by
targets that no pretrained weights in that table have seen; a target that they have seen is marked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from cellfeat.comparison import interval
from cellfeat.results_folder import read_failures
from cellfeat.suite_results import SEEN, UNKNOWN, Record, Results, check_alike, transfer_of

SHOWN = {
    "none": "adapt: none, no target cell shown to any method",
    "heldout": "adapt: heldout, target cells shown without labels, other ones scored",
    "test": "adapt: test, target cells shown without labels, the very ones that are scored",
}


@dataclass(frozen=True)
class Ranked:
    """A method with one classifier. means: over the ranking's transfers, and over all; each mean, low, high."""

    row: str
    classifier: str
    ranked: tuple[float, float, float] | None
    overall: tuple[float, float, float] | None
    transfers: dict[str, float]
    marks: dict[str, str]  # of transfers whose target weights have seen
    seeds: int
    seconds: float


@dataclass(frozen=True)
class Ranking:
    """One table: a protocol, one thing shown of the target."""

    protocol: str
    adapt: str
    transfers: tuple[str, ...]
    counted: tuple[str, ...]  # transfers that the rank goes by
    rows: tuple[Ranked, ...]
    majority: dict[str, float]
    ceiling: dict[str, float]
    shots: int = 0  # most labelled target cells that were given

    @property
    def title(self) -> str:
        if self.shots:
            return f"{self.protocol} · {SHOWN[self.adapt]} beside up to {self.shots} labelled ones, which were given"
        return f"{self.protocol} · {SHOWN[self.adapt]}"

    @property
    def headings(self) -> list[str]:
        ranked = f"mean of {len(self.counted)}" if self.counted != self.transfers else f"mean of {len(self.transfers)}"
        overall = [] if self.counted == self.transfers else [f"of all {len(self.transfers)}"]
        return ["", "row/classifier", ranked, *overall, *self.transfers, "seeds", "s"]

    def lines(self) -> list[list[str]]:
        """The table's cells, best first; then majority and ceiling."""
        found = []
        for place, one in enumerate(self.rows, 1):
            overall = (
                [] if self.counted == self.transfers else [_with_interval(one.overall) + _mark(one.marks.values())]
            )
            values = [_percent(one.transfers.get(name)) + one.marks.get(name, "") for name in self.transfers]
            rank = str(place) if one.ranked is not None else ""
            figures = [_with_interval(one.ranked), *overall, *values, str(one.seeds), f"{one.seconds:.0f}"]
            found.append([rank, f"{one.row}/{one.classifier}", *figures])
        for name, bounds in (("majority class", self.majority), ("ceiling", self.ceiling)):
            blank = [""] * (1 if self.counted == self.transfers else 2)
            found.append(["", name, *blank, *(_percent(bounds.get(key)) for key in self.transfers), "", ""])
        return found

    def notes(self) -> list[str]:
        marks = {mark for one in self.rows for mark in one.marks.values()}
        texts = ["Balanced accuracy in percent over classes with at least 10 target cells; 95 % bootstrap over cells."]
        if SEEN in marks:
            texts.append(f"{SEEN} pretrained weights in this row have seen images of the target.")
        if UNKNOWN in marks:
            texts.append(f"{UNKNOWN} nobody knows whether pretrained weights in this row have seen the target.")
        if self.counted != self.transfers:
            texts.append(f"Ranked by {', '.join(self.counted) or 'nothing: every target was seen'}.")
        return texts

    def table(self) -> Table:
        table = Table(title=self.title, title_justify="left", caption="\n".join(self.notes()), caption_justify="left")
        for number, heading in enumerate(self.headings):
            figures = number >= 2  # these stand in one line each, and the name takes what is left
            shown = heading.replace(" → ", "\n→ ")
            table.add_column(shown, justify="right" if figures else "left", no_wrap=figures, overflow="fold")
        for line in self.lines():
            table.add_row(*line)
        return table

    def markdown(self) -> str:
        ruler = ["---" if number == 1 else "--:" for number in range(len(self.headings))]
        rows = [self.headings, ruler, *self.lines()]
        text = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
        return f"### {self.title}\n\n{text}\n\n{' '.join(self.notes())}\n"


def _percent(value: float | None) -> str:
    return "–" if value is None or value != value else f"{100 * value:.1f}"


def _with_interval(mean: tuple[float, float, float] | None) -> str:
    return "–" if mean is None else f"{_percent(mean[0])} [{_percent(mean[1])}, {_percent(mean[2])}]"


def _mark(marks: Iterable[str]) -> str:
    return "".join(sorted(set(marks)))


def read_rankings(
    folder: Path, protocol: str | None = None, classifier: str | None = None
) -> tuple[list[Ranking], list[dict[str, Any]]]:
    """Every table of a results folder, and the fits that failed."""
    results = Results(folder)
    chosen = results.choose(protocol, classifier)
    tables: dict[tuple[str, str], list[Record]] = {}
    for record in chosen:
        tables.setdefault((record["protocol"], record["adapt"]), []).append(record)
    order = list(SHOWN)
    keys = sorted(tables, key=lambda key: (results.protocols().index(key[0]), order.index(key[1])))
    return [_ranking(results, *key, tables[key]) for key in keys], read_failures(folder)


def _ranking(results: Results, protocol: str, adapt: str, found: Sequence[Record]) -> Ranking:
    check_alike(found, "data set")
    transfers = tuple(sorted({transfer_of(record) for record in found}))
    marked = {transfer_of(record) for record in found if record["weights_saw_target"]}
    counted = tuple(name for name in transfers if name not in marked) if adapt == "none" else transfers
    methods: dict[tuple[str, str], list[Record]] = {}
    for record in found:
        methods.setdefault((record["row"], record["classifier"]), []).append(record)
    rows = [_ranked(results, *key, own, adapt, transfers, counted) for key, own in methods.items()]
    rows.sort(key=lambda one: (one.ranked is None, -(one.ranked or (0.0,))[0]))
    majority = {transfer_of(record): record["majority"]["balanced_accuracy"] for record in found}
    ceiling = {transfer_of(record): record["ceiling"]["balanced_accuracy"] for record in found}
    few = max(record["shots"] for record in found)
    return Ranking(protocol, adapt, transfers, counted, tuple(rows), majority, ceiling, few)


def _ranked(
    results: Results,
    row: str,
    classifier: str,
    found: Sequence[Record],
    adapt: str,
    transfers: Sequence[str],
    counted: Sequence[str],
) -> Ranked:
    own = results.answers(found)
    values: dict[str, list[float]] = {}
    for record in found:
        value = record["scores"]["balanced_accuracy"]["mean"]  # null where no class has enough cells
        values.setdefault(transfer_of(record), []).append(float("nan") if value is None else value)
    marks = {
        transfer_of(record): SEEN if record["weights_saw_target"] else UNKNOWN
        for record in found
        if record["weights_saw_target"] is not False
    }

    def mean(names: Sequence[str]) -> tuple[float, float, float] | None:
        # A mean over some of the transfers would not compare with the others' means.
        if not names or not set(names) <= set(own):
            return None
        found = interval({name: own[name] for name in names}, results.truth)
        return None if np.isnan(found[0]) else found

    fits = {(record["seed"], record["source"]): record["seconds"] for record in found}
    return Ranked(
        row,
        classifier,
        None if adapt == "none" and UNKNOWN in marks.values() else mean(counted),
        mean(transfers),
        {name: sum(each) / len(each) for name, each in values.items()},
        marks,
        len({record["seed"] for record in found}),
        sum(fits.values()),
    )
