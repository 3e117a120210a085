"""One row of a suite against others, on the same cells. Reads records and predictions, never a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from cellfeat.comparison import Comparison, compare, holm
from cellfeat.errors import CellfeatError, unknown
from cellfeat.suite_results import SEEN, UNKNOWN, Record, Results, check_alike


@dataclass(frozen=True)
class Compared:
    """The first row against each other one, on the same cells; p-values corrected for their number (Holm)."""

    protocol: str
    names: list[str]  # of the first row and of the others, with classifier, what they were shown, and marks
    found: list[Comparison]
    corrected: list[float]

    def as_dict(self) -> dict[str, Any]:
        """As JSON values; differences of balanced accuracies from -1 to 1, with 95 % bootstrap intervals."""
        rows = zip(self.names[1:], self.found, self.corrected, strict=True)
        others = [{"less": name, **asdict(one), "corrected_p": p} for name, one, p in rows]
        return {"protocol": self.protocol, "row": self.names[0], "comparisons": others}

    def table(self) -> Table:
        """In points of balanced accuracy."""
        table = Table(title=f"{self.protocol}: {self.names[0]} less …", title_justify="left", caption_justify="left")
        for heading in ("", "transfers", "difference", "p", "corrected", "by transfer"):
            table.add_column(heading, justify="left" if heading in ("", "by transfer") else "right")
        for name, one, p in zip(self.names[1:], self.found, self.corrected, strict=True):
            each = ", ".join(f"{key} {100 * value:+.1f}" for key, value in one.transfers.items())
            gap = f"{100 * one.difference:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"
            table.add_row(name, str(len(one.transfers)), gap, f"{one.p:.4f}", f"{p:.4f}", each)
        table.caption = self._caption()
        return table

    def _caption(self) -> str:
        classes = {name: ", ".join(names) for one in self.found for name, names in one.classes.items()}
        by_classes: dict[str, list[str]] = {}
        for name, names in classes.items():
            by_classes.setdefault(names, []).append(name)
        averaged = "; ".join(f"{', '.join(transfers)}: {names}" for names, transfers in by_classes.items())
        return (
            "Points of balanced accuracy, mean over transfers, 95 % bootstrap over cells; p by random exchange of the "
            f"two methods' answers, corrected for {len(self.found)} comparisons (Holm).\nClasses averaged: {averaged}."
        )


def compared(
    folder: Path, rows: Sequence[str], protocol: str | None, classifier: str | None, targets: Sequence[str]
) -> Compared:
    """The first row against each other one, on the same cells."""
    if len(rows) < 2:
        raise CellfeatError("a comparison needs two rows or more: cellfeat bench compare RESULTS A B")
    results = Results(folder)
    protocol = protocol or results.protocols()[0]
    chosen = results.choose(protocol, None)
    methods = [_method(chosen, name, classifier, targets) for name in rows]
    check_alike([record for found in methods for record in found], "data set")
    own = [results.answers(found) for found in methods]
    found = []
    for other, name in zip(own[1:], rows[1:], strict=True):
        if not set(own[0]) & set(other):
            raise CellfeatError(f"{rows[0]} and {name} have no transfer in common in protocol {protocol}")
        try:
            found.append(compare(own[0], other, results.truth))
        except ValueError as error:
            raise CellfeatError(f"{rows[0]} and {name} in protocol {protocol}: {error}") from None
    names = [_shown(name, records) for name, records in zip(rows, methods, strict=True)]
    return Compared(protocol, names, found, [float(p) for p in holm([one.p for one in found])])


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
    kinds = {record["weights_saw_target"] for record in records}
    marks = [mark for mark, kind in ((SEEN, True), (UNKNOWN, None)) if kind in kinds]
    return f"{first['row']}/{first['classifier']} ({', '.join(['adapt: ' + first['adapt'], *marks])})"
