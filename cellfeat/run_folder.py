"""What a run left in its folder, read again: for what is made of records alone."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from cellfeat import observation_files, records, transfers
from cellfeat.errors import CellfeatError
from cellfeat.observation_files import Observations
from cellfeat.prediction_figures import Scored
from cellfeat.run import PREDICTIONS, RECIPE, RECORDS, SKIPPED

SKIPPED_SHOWN = 200


class Skipped(NamedTuple):
    """Rows (id, path, reason) of a run's skipped.csv: how many in all, and the first of them."""

    total: int
    rows: list[tuple[str, str, str]]


@dataclass(frozen=True)
class RunFolder:
    """What a run left, read."""

    path: Path
    records: list[dict[str, Any]]
    transfers: list[transfers.Transfer]
    observed: Observations | None
    skipped: Skipped

    @classmethod
    def read(cls, path: Path) -> RunFolder:
        """Raises: CellfeatError where this is no run folder."""
        if not (path / RECORDS).is_file():
            raise CellfeatError(
                f"{path} is no run folder: it has no {RECORDS}. A report is made of what `cellfeat run` left, as in "
                "`cellfeat report runs/NAME`"
            )
        found = records.read(path / RECORDS)
        if not found or "recipe" not in found[0]:
            raise CellfeatError(f"{path / RECORDS} has no record of a run")
        known = transfers.read(path / PREDICTIONS, found[0]["classes"]) if (path / PREDICTIONS).is_file() else []
        return cls(path, found, known, observation_files.read(path), _skipped(path / SKIPPED))

    @property
    def scored(self) -> list[Scored]:
        """The records by transfer, each with its predictions."""
        by_pair = {(one.source, one.target): one for one in self.transfers}
        pairs: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for record in self.records:
            pairs.setdefault((record["source"], record["target"]), []).append(record)
        return [Scored(title(some[0]), some, by_pair.get(pair)) for pair, some in pairs.items()]


def title(record: dict[str, Any]) -> str:
    if record["held_out_folds"]:
        return f"{record['source']} (held-out folds)"
    return f"{record['source']} → {record['target']}"


def _skipped(path: Path) -> Skipped:
    if not path.is_file():
        return Skipped(0, [])
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file)
        shown = [(row["id"], row["path"], row["reason"]) for row in islice(lines, SKIPPED_SHOWN)]
        return Skipped(len(shown) + sum(1 for _ in lines), shown)


def inputs(run: Path) -> Iterator[Path]:
    """The files that a report is built from, those that are there."""
    folder = run / observation_files.FOLDER
    names = [run / name for name in (RECORDS, PREDICTIONS, SKIPPED, RECIPE)]
    names += [
        folder / name for name in (observation_files.SUMMARY, observation_files.FEATURES, observation_files.PICTURES)
    ]
    return (path for path in names if path.is_file())
