"""What a run left in its folder, read again: for what is made of records alone."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from cellfeat import observation_files, records, transfers
from cellfeat.errors import CellfeatError
from cellfeat.observation_files import Observations
from cellfeat.run import PREDICTIONS, RECIPE, RECORDS, SKIPPED
from cellfeat.transfers import Scored
from cellfeat.without_folders import without_folders

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
        recipes = {record.get("recipe_digest") for record in found}
        if len(recipes) > 1:
            raise CellfeatError(
                f"{path / RECORDS} has records of {len(recipes)} recipes, as results of a suite have; a report is of "
                "one run. Those of a suite are shown by `cellfeat leaderboard`"
            )
        return cls(
            path,
            found,
            _predictions(path / PREDICTIONS, found[0]["classes"]),
            observation_files.read(path),
            _skipped(path / SKIPPED),
        )

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


def _predictions(path: Path, classes: list[str]) -> list[transfers.Transfer]:
    if not path.is_file():
        return []
    try:
        return transfers.read(path, classes)
    except (OSError, ValueError, KeyError) as error:  # Arrow's errors are of these kinds
        said = " ".join(str(error).split())
        raise CellfeatError(
            f"{path} cannot be read as predictions ({said}); copy it anew, or move it away for a report without it"
        ) from error


def _skipped(path: Path) -> Skipped:
    """Files by their names: where a machine keeps them is nobody's business."""
    if not path.is_file():
        return Skipped(0, [])
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file)
        if not {"id", "path", "reason"} <= set(lines.fieldnames or ()):
            raise CellfeatError(f"{path} has columns {lines.fieldnames}; possible are id, path, reason of a run")
        rows = [[row[name] or "" for name in ("id", "path", "reason")] for row in islice(lines, SKIPPED_SHOWN)]
        shown = [(name, name_of(where), without_folders(reason, [where])) for name, where, reason in rows]
        return Skipped(len(shown) + sum(1 for _ in lines), shown)


def name_of(path: str) -> str:
    """The last part of a path of whatever system; the whole where there is none."""
    kind = PureWindowsPath if re.match(r"[A-Za-z]:|\\\\", path) else PurePosixPath
    return kind(path).name or path


def inputs(run: Path) -> Iterator[Path]:
    """The files that a report is built from, those that are there."""
    folder = run / observation_files.FOLDER
    names = [run / name for name in (RECORDS, PREDICTIONS, SKIPPED, RECIPE)]
    names += [
        folder / name for name in (observation_files.SUMMARY, observation_files.FEATURES, observation_files.PICTURES)
    ]
    return (path for path in names if path.is_file())
