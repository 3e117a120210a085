"""Records of a suite to rankings and comparisons. Reads records and predictions, never a model.

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

from cellfeat import answers
from cellfeat.bench import CELLS, read_failures, read_records
from cellfeat.comparison import Answers, Truth, compare, holm, interval
from cellfeat.errors import CellfeatError, unknown

SEEN, UNKNOWN = "†", "‡"
SHOWN = {
    "none": "adapt: none, no target cell was shown to any method",
    "heldout": "adapt: heldout, one half of the target without labels, the other scored",
    "test": "adapt: test, the scored cells themselves without labels",
}
Record = dict[str, Any]


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

    @property
    def title(self) -> str:
        return f"{self.protocol} · {SHOWN.get(self.adapt, self.adapt)}"

    @property
    def headings(self) -> list[str]:
        ranked = f"mean of {len(self.counted)}" if self.counted != self.transfers else f"mean of {len(self.transfers)}"
        overall = [] if self.counted == self.transfers else [f"of all {len(self.transfers)}"]
        return ["", "row", "classifier", ranked, *overall, *self.transfers, "seeds", "seconds"]

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
            found.append([rank, one.row, one.classifier, *figures])
        for name, bounds in (("majority class", self.majority), ("ceiling", self.ceiling)):
            blank = [""] * (1 if self.counted == self.transfers else 2)
            found.append(["", name, "", *blank, *(_percent(bounds.get(key)) for key in self.transfers), "", ""])
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
            table.add_column(heading, justify="left" if number in (1, 2) else "right", no_wrap=number < 5)
        for line in self.lines():
            table.add_row(*line)
        return table

    def markdown(self) -> str:
        ruler = ["---" if number in (1, 2) else "--:" for number in range(len(self.headings))]
        rows = [self.headings, ruler, *self.lines()]
        text = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
        return f"### {self.title}\n\n{text}\n\n{' '.join(self.notes())}\n"


def _percent(value: float | None) -> str:
    return "–" if value is None or value != value else f"{100 * value:.1f}"


def _with_interval(mean: tuple[float, float, float] | None) -> str:
    return "–" if mean is None else f"{_percent(mean[0])} [{_percent(mean[1])}, {_percent(mean[2])}]"


def _mark(marks: Iterable[str]) -> str:
    return "".join(sorted(set(marks)))


class Results:
    """A results folder: its records, and predictions read when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records = [record for record in read_records(folder) if not record["held_out_folds"]]
        if not self.records:
            raise CellfeatError(f"{folder} has no records of transfers; make some by `cellfeat bench run SUITE.yaml`")
        self.truth: Truth = answers.KnownCells(folder / CELLS).truth()

    def protocols(self) -> list[str]:
        return list(dict.fromkeys(record["protocol"] for record in self.records))

    def choose(self, protocol: str | None, classifier: str | None) -> list[Record]:
        for name, value, known in (
            ("protocol", protocol, self.protocols()),
            ("classifier", classifier, sorted({record["classifier"] for record in self.records})),
        ):
            if value is not None and value not in known:
                raise CellfeatError(unknown(name, value, known))
        return [
            record
            for record in self.records
            if protocol in (None, record["protocol"]) and classifier in (None, record["classifier"])
        ]

    def answers(self, found: Sequence[Record]) -> dict[str, Answers]:
        """{transfer: answers} of the records of one row, classifier and protocol, over all their seeds."""
        import pyarrow.compute as pc

        path = self.folder / found[0]["predictions"]["file"]
        table = answers.read(path, protocol=found[0]["protocol"], classifier=found[0]["classifier"])
        result = {}
        for source, target in dict.fromkeys((record["source"], record["target"]) for record in found):
            part = table.filter(pc.and_(pc.equal(table["source"], source), pc.equal(table["target"], target)))
            result[f"{source} → {target}"] = answers.shares_right(part, self.truth)
        return result


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


def _transfer(record: Record) -> str:
    return f"{record['source']} → {record['target']}"


def _ranking(results: Results, protocol: str, adapt: str, found: Sequence[Record]) -> Ranking:
    transfers = tuple(sorted({_transfer(record) for record in found}))
    marked = {_transfer(record) for record in found if record["weights_saw_target"] is not False}
    counted = tuple(name for name in transfers if name not in marked) if adapt == "none" else transfers
    methods: dict[tuple[str, str], list[Record]] = {}
    for record in found:
        methods.setdefault((record["row"], record["classifier"]), []).append(record)
    rows = [_ranked(results, *key, own, transfers, counted) for key, own in methods.items()]
    rows.sort(key=lambda one: (one.ranked is None, -(one.ranked or (0.0,))[0]))
    majority = {_transfer(record): record["majority"]["balanced_accuracy"] for record in found}
    ceiling = {_transfer(record): record["ceiling"]["balanced_accuracy"] for record in found}
    return Ranking(protocol, adapt, transfers, counted, tuple(rows), majority, ceiling)


def _ranked(
    results: Results,
    row: str,
    classifier: str,
    found: Sequence[Record],
    transfers: Sequence[str],
    counted: Sequence[str],
) -> Ranked:
    own = results.answers(found)
    values: dict[str, list[float]] = {}
    for record in found:
        value = record["scores"]["balanced_accuracy"]["mean"]  # null where no class has enough cells
        values.setdefault(_transfer(record), []).append(float("nan") if value is None else value)
    marks = {
        _transfer(record): SEEN if record["weights_saw_target"] else UNKNOWN
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
        mean(counted),
        mean(transfers),
        {name: sum(each) / len(each) for name, each in values.items()},
        marks,
        len({record["seed"] for record in found}),
        sum(fits.values()),
    )


def compared(
    folder: Path, rows: Sequence[str], protocol: str | None, classifier: str | None, targets: Sequence[str]
) -> Table:
    """The first row against each other one, on the same cells; p-values corrected for their number (Holm)."""
    if len(rows) < 2:
        raise CellfeatError("a comparison needs two rows or more: cellfeat bench compare RESULTS A B")
    results = Results(folder)
    protocol = protocol or results.protocols()[0]
    chosen = results.choose(protocol, None)
    methods = [_method(chosen, name, classifier, targets) for name in rows]
    own = [results.answers(found) for found in methods]
    found = []
    for other, name in zip(own[1:], rows[1:], strict=True):
        if not set(own[0]) & set(other):
            raise CellfeatError(f"{rows[0]} and {name} have no transfer in common in protocol {protocol}")
        try:
            found.append(compare(own[0], other, results.truth))
        except ValueError as error:
            raise CellfeatError(f"{rows[0]} and {name} in protocol {protocol}: {error}") from None
    corrected = holm([one.p for one in found])
    table = Table(
        title=f"{protocol}: {_shown(rows[0], methods[0])} less …", title_justify="left", caption_justify="left"
    )
    for heading in ("", "transfers", "difference", "p", "corrected", "by transfer"):
        table.add_column(heading, justify="left" if heading in ("", "by transfer") else "right")
    for name, records, one, p in zip(rows[1:], methods[1:], found, corrected, strict=True):
        each = ", ".join(f"{key} {100 * value:+.1f}" for key, value in one.transfers.items())
        gap = f"{100 * one.difference:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"
        table.add_row(_shown(name, records), str(len(one.transfers)), gap, f"{one.p:.4f}", f"{p:.4f}", each)
    table.caption = (
        "Points of balanced accuracy, mean over transfers, 95 % bootstrap over cells; p by random exchange of the two "
        f"methods' answers, corrected for {len(found)} comparisons (Holm)."
    )
    return table


def _method(records: Sequence[Record], name: str, classifier: str | None, targets: Sequence[str]) -> list[Record]:
    """The records of ROW or ROW/CLASSIFIER, in one classifier alone."""
    row, _, own = name.partition("/")
    wanted = own or classifier or ""
    found = [record for record in records if record["row"] == row]
    if not found:
        raise CellfeatError(unknown("row", row, {record["row"] for record in records}))
    known = list(dict.fromkeys(record["classifier"] for record in found))
    if wanted and wanted not in known:
        if len(known) > 1 or own:
            raise CellfeatError(unknown(f"classifier of row {row}", wanted, known))
        wanted = known[0]  # --clf svm-linear beside a row that has a head of its own
    wanted = wanted or known[0]
    for target in targets:
        if target not in {record["target"] for record in found}:
            raise CellfeatError(unknown("target", target, {record["target"] for record in found}))
    return [
        record for record in found if record["classifier"] == wanted and (not targets or record["target"] in targets)
    ]


def _shown(name: str, records: Sequence[Record]) -> str:
    """The method with its classifier, what it was shown, and a mark where weights have seen a target."""
    first = records[0]
    saw = any(record["weights_saw_target"] is not False for record in records)
    return f"{first['row']}/{first['classifier']} (adapt: {first['adapt']}{', ' + SEEN if saw else ''})"
