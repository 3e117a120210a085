"""A differential count as it is shown: tables, JSON values, and the sentences that its reader needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cellfeat.differential import ALL, UNANSWERED, Count, Line, checked_record
from cellfeat.errors import CellfeatError
from cellfeat.predicted import CONFIDENCE, MANY_GROUPS

OWN = "smears of your own"  # where the user has counted what the detector finds
MOST = 6  # shares that a note names
NO_PRIOR = (
    "this run does not tell for which shares of the classes its probabilities are right (an older cellfeat saved it, "
    "or no cell was held out): intervals and estimates take them as even; run again to have it measured"
)

if TYPE_CHECKING:
    from rich.table import Table

    from cellfeat.slots import DetectorRecord


def tables(counts: Sequence[Count]) -> Iterator[Table]:
    """All patients together, or the only one; and where there are several, but not very many, each of them."""
    from rich.table import Table
    from rich.text import Text

    whole = counts[-1]
    title = f"Differential count: {whole.cells:,} cells" + (
        f" of {len(counts) - 1:,} patients" if len(counts) > 1 else ""
    )
    table = Table(title=title, title_justify="left")
    for heading in ("class", "cells", "share, %", "estimate, %", "95 % interval"):
        table.add_column(heading, justify="left" if heading == "class" else "right", overflow="fold")
    for line in whole.lines:
        table.add_row(Text(line.name), *_figures(line))  # a name may look like Rich's markup
    yield table
    if 1 < len(counts) <= MANY_GROUPS + 1:
        yield _by_patient(counts[:-1])


def _by_patient(counts: Sequence[Count]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="By patient", title_justify="left")
    for heading in ("patient", "class", "cells", "share, %", "estimate, %", "95 % interval"):
        table.add_column(heading, justify="left" if heading in ("patient", "class") else "right", overflow="fold")
    for one in counts:
        for number, line in enumerate(one.lines):
            table.add_row(Text("" if number else str(one.patient)), Text(line.name), *_figures(line))
        table.add_section()
    return table


def _figures(line: Line) -> tuple[str, str, str, str]:
    """Cells, per cent, what is expected of it, and the interval, as they are shown."""
    if line.cells is None:
        return "", "", "", "not taught"
    share, estimate = ("" if one is None else f"{100 * one:.1f}" for one in (line.share, line.estimate))
    if line.low is None or line.high is None:
        return f"{line.cells:,}", share, estimate, "of all cells" if line.name == UNANSWERED else ""
    estimate += f", counted {line.outside}" if line.outside else ""
    return f"{line.cells:,}", share, estimate, f"{100 * line.low:.1f}–{100 * line.high:.1f}"


def summary(counts: Sequence[Count], record: DetectorRecord | None) -> dict[str, Any]:
    """JSON values: every patient, all together where there are several, and what the intervals rest on."""
    several = counts[-1].patient is None
    return {
        "cells": counts[-1].cells,
        "interval": CONFIDENCE,
        "patients": [one.as_dict() for one in (counts[:-1] if several else counts)],
        ALL: counts[-1].as_dict() if several else None,
        "detector_record": None if record is None else record._asdict(),
    }


def said_of_detector(counts: Sequence[Count], record: DetectorRecord | None, segmenter: str) -> str:
    """What the intervals carry of the detector's mistakes."""
    if record is None:
        return (
            f"the intervals leave out cells that {segmenter} missed and boxes that are no cells, since it says nothing "
            "of how often that is; where you have counted it: --detector-record CELLS,FOUND,WRONG"
        )
    missed = counts[-1].missed or (0, 0)
    return (
        f"the intervals carry missed cells and false boxes as {segmenter} had them on {record.on}: of {record.cells:,} "
        f"cells {record.found:,} found, {record.wrong:,} boxes wrong; so perhaps {missed[0]:,} to {missed[1]:,} cells "
        "are missed here"
    )


def said_of_outside(counts: Sequence[Count]) -> str:
    """Which counted shares the corrected model does not believe; "" where it believes all."""
    found = []
    for number, one in enumerate(counts):
        whose = "all together" if 0 < number == len(counts) - 1 else one.patient
        for line in one.lines:
            if line.outside:
                share, low, high = (100 * (value or 0) for value in (line.share, line.estimate_low, line.estimate_high))
                found.append(f"{whose}: {line.name} {share:.1f} %, {line.outside} than {low:.1f}–{high:.1f} %")
    if not found:
        return ""
    others = f"; and {len(found) - MOST:,} others" if len(found) > MOST else ""
    return (
        f"counted shares that the run's probabilities make unlikely ({'; '.join(found[:MOST])}{others}): where more "
        "was counted, many of these cells are likely of other classes, and where less, other classes hold some; look "
        "through them"
    )


def parsed_record(text: str) -> DetectorRecord:
    """From CELLS,FOUND,WRONG. Raises: CellfeatError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise CellfeatError(f"--detector-record {text}: three whole numbers CELLS,FOUND,WRONG, as in 412,398,9")
    cells, found, wrong = map(int, parts)
    return checked_record(cells, found, wrong, OWN)
