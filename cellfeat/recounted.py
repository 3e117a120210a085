"""A smear's differential count after a review: what a reviewer said in place of what the method did.

A class that the reviewer gave is certain, `not a cell` takes the box away, `unsure` leaves the cell without a class,
and a cell that nobody looked at stays as it was. All else is as `differential` has it, with the same record of the
detector: its false boxes are taken to be as frequent among the boxes that are left, so that the intervals of a smear
that was reviewed whole are rather too wide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellfeat import differential_text, smear_folder
from cellfeat.cell_tables import NOT_A_CELL, PREFIX, UNSURE, CellTable, number
from cellfeat.differential import Count, checked_record, differential
from cellfeat.errors import CellfeatError
from cellfeat.slots import DetectorRecord

if TYPE_CHECKING:
    from rich.table import Table

PREPENDED = "reviewed-"  # to the names of the files of a count
COUNTS = tuple(f"{PREPENDED}{name}" for name in (smear_folder.COUNTS_CSV, smear_folder.COUNTS_JSON))


@dataclass(frozen=True)
class Recounted:
    """The counts of every patient and, where there are several, of all together. reviewed: cells by what was said of
    them. not_taught: classes that neither the run nor the reviewer could answer with."""

    counts: tuple[Count, ...]
    record: DetectorRecord | None
    not_taught: tuple[str, ...]
    reviewed: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        told = {"reviewed": dict(self.reviewed), "not_taught": list(self.not_taught)}
        return told | differential_text.summary(self.counts, self.record)

    def tables(self) -> Iterator[Table]:
        """To be shown."""
        for place, table in enumerate(differential_text.tables(self.counts)):
            if not place:
                table.title = f"After the review. {table.title}"
            yield table

    def files(self) -> dict[str, str]:
        """{name: text} of the count, to lie beside the reviewed table."""
        texts = smear_folder.count_texts(self.counts, self.as_dict())
        return {f"{PREPENDED}{name}": text for name, text in texts.items()}


@dataclass(frozen=True)
class Recount:
    """A smear's cells as the method left them, N of K classes. patient: (N,) str. chosen: (N,) int64. proba: (N, K)
    float64. answered: (N,) bool. prior: K shares for which `proba` is right; held: of how many held-out cells of each
    class; None where the run did not keep them."""

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    patient: np.ndarray
    chosen: np.ndarray
    proba: np.ndarray
    answered: np.ndarray
    patients: tuple[str, ...]
    not_taught: tuple[str, ...]
    record: DetectorRecord | None
    seed: int
    prior: tuple[float, ...] | None
    held: tuple[int, ...] | None

    @classmethod
    def of(cls, table: CellTable) -> Recount | None:
        """Of a table of a smear's cells; None where it does not lie in the folder that `cellfeat smear` wrote.

        Raises: CellfeatError for a damaged file, and for a probability that is none.
        """
        folder = table.path.parent
        if not table.is_smear or not (folder / smear_folder.ABOUT).is_file():
            return None
        about, values = smear_folder.about(folder), table.values()
        proba = _probabilities(table, values)
        patient = np.array([line.get("patient", "") for line in values], dtype=str)
        try:
            there = {str(one["patient"]) for one in about["photographs"]}
            said, seed, not_taught = about["detector"]["record"], int(about["seed"]), _not_taught(folder)
            np.random.default_rng(seed)  # takes no negative one
            record = None if said is None else checked_record(*(said[name] for name in DetectorRecord._fields))
            shares, cells = about.get("prior"), about.get("held")
            prior = None if shares is None else tuple(float(shares[name]) for name in table.classes)
            held = None if cells is None else tuple(int(cells[name]) for name in table.classes)
        except (LookupError, TypeError, ValueError, ArithmeticError, CellfeatError) as error:
            raise CellfeatError(f"{folder / smear_folder.ABOUT} is damaged: {type(error).__name__}: {error}") from None
        return cls(
            tuple(line["id"] for line in values),
            table.classes,
            patient,
            _chosen(table, values, proba),
            proba,
            np.array([bool(line["label"]) for line in values]),
            tuple(sorted(there | set(patient.tolist()))),
            not_taught,
            record,
            seed,
            prior,
            held,
        )

    def after(self, answers: Mapping[str, str]) -> Recounted:
        """The count. answers: {id: a class, `not a cell`, `unsure`, or "" where nobody looked}."""
        chosen, proba, answered = self.chosen.copy(), self.proba.copy(), self.answered.copy()
        kept, place = np.ones(len(chosen), bool), {name: at for at, name in enumerate(self.classes)}
        said = Counter[str]()
        for row, name in enumerate(self.ids):
            answer = answers.get(name, "")
            if answer in place:
                said["accepted" if answered[row] and chosen[row] == place[answer] else "corrected"] += 1
                chosen[row], answered[row] = place[answer], True
                proba[row] = 0
                proba[row, place[answer]] = 1
            elif answer:
                kept[row], answered[row] = answer != NOT_A_CELL, False
                said["not_a_cell" if answer == NOT_A_CELL else UNSURE] += 1
            else:
                said["not_looked_at"] += 1
        missing = tuple(name for name in self.not_taught if name not in answers.values())
        classified = (chosen[kept], proba[kept], answered[kept], self.classes)
        whose = self.patient[kept]
        known = (self.record, self.seed, self.prior, self.held)
        counts = differential(self.patients, whose, *classified, missing, *known)
        names = ("accepted", "corrected", "not_a_cell", UNSURE, "not_looked_at")
        return Recounted(tuple(counts), self.record, missing, {name: said[name] for name in names})


def _probabilities(table: CellTable, values: list[dict[str, str]]) -> np.ndarray:
    rows = []
    for place, line in zip(table.numbers, values, strict=True):
        try:
            row = [number(line[f"{PREFIX}{name}"]) for name in table.classes]
        except ValueError:
            row = [np.nan]
        if not (np.isfinite(row).all() and min(row) >= 0 and sum(row) > 0):
            raise CellfeatError(f"{table.path}: line {place}: a probability is no number from 0 to 1")
        rows.append(row)
    return np.array(rows, dtype=np.float64)


def _chosen(table: CellTable, values: list[dict[str, str]], proba: np.ndarray) -> np.ndarray:
    """The method's classes; the likeliest ones where it abstained, or where a person wrote another word."""
    place = {name: at for at, name in enumerate(table.classes)}
    said = [place.get(line["label"] or line.get("best_label", ""), -1) for line in values]
    return np.where(np.array(said) < 0, proba.argmax(axis=1), said)


def _not_taught(folder: Path) -> tuple[str, ...]:
    """What the count that `cellfeat smear` wrote says of it; nothing where that was taken away."""
    path = folder / smear_folder.COUNTS_JSON
    return tuple(smear_folder.read_json(path)["not_taught"]) if path.is_file() else ()
