"""What was predicted, counted: by class, and by class in each group of cells (a patient, a slide)."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cellfeat.artifacts import atomic_file
from cellfeat.errors import CellfeatError
from cellfeat.extract import DOUBTFUL
from cellfeat.novelty import Novelty
from cellfeat.spreadsheets import plain

if TYPE_CHECKING:
    from rich.table import Table

    from cellfeat.changes import Changes
    from cellfeat.datasets import Dataset

CONFIDENCE = 0.95
GROUP_COLUMNS = ["group", "cells", "doubtful_masks"]  # of the CSV, before those of the classes
UNANSWERED = "not_answered"  # of the CSV, after them, where the method was to abstain
MANY_GROUPS = 40  # more are not printed, only written


class Share(NamedTuple):
    """One class in one group. low, high: bounds of the share. probability: its mean over the group's cells.

    Cells, share and bounds are None of a class that was not taught: never to be answered, it was not looked for. Share
    and bounds are None too where no cell of the group was answered.
    """

    cells: int | None
    share: float | None
    low: float | None
    high: float | None
    probability: float


class GroupShares(NamedTuple):
    """A group's cells by class, in the order of the classes; doubtful: masks to be looked at, None where not known.

    unanswered: of its cells those that the method abstained on; shares are of the others.
    """

    group: str
    cells: int
    doubtful: int | None
    shares: tuple[Share, ...]
    unanswered: int = 0


@dataclass(frozen=True)
class Predictions:
    """N cells as they were classified.

    chosen: (N,) int64 into `classes`. proba: (N, K) float. group: (N,) str, None where no cells belong together.
    quality: (N,) float, predicted intersection over union of each mask, None where it is not known. untaught: those of
    `classes` that the model was shown no cell of. answered: (N,) bool, False where the method abstained, None where it
    was not to. sizes: (N,) int64 classes in each prediction set, None without sets. calibrated: whether `proba` is.
    changes: against earlier answers, where these were named. novelty: how far
    they are from the cells learnt from, None where a run did not keep what those look like.
    """

    classes: tuple[str, ...]
    chosen: np.ndarray
    proba: np.ndarray
    group: np.ndarray | None = None
    quality: np.ndarray | None = None
    untaught: tuple[str, ...] = ()
    answered: np.ndarray | None = None
    sizes: np.ndarray | None = None
    calibrated: bool = False
    changes: Changes | None = None
    novelty: Novelty | None = None

    @property
    def unanswered(self) -> int:
        """How many cells have no label."""
        return 0 if self.answered is None else int(np.sum(~self.answered))

    def by_group(self) -> list[GroupShares]:
        """Every group, by name; none where no cells belong together."""
        names = [] if self.group is None else np.unique(self.group).tolist()
        return [self._of(name, np.flatnonzero(self.group == name)) for name in names]

    def _of(self, name: str, rows: np.ndarray) -> GroupShares:
        told = rows if self.answered is None else rows[self.answered[rows]]
        counts = np.bincount(self.chosen[told], minlength=len(self.classes)).tolist()
        means = self.proba[rows].mean(axis=0).tolist()
        shares = [
            Share(*(None,) * 4, mean)
            if one in self.untaught
            else Share(count, count / len(told), *wilson(count, len(told)), mean)
            if len(told)
            else Share(0, *(None,) * 3, mean)
            for one, count, mean in zip(self.classes, counts, means, strict=True)
        ]
        doubtful = None if self.quality is None else int(np.sum(self.quality[rows] < DOUBTFUL))
        return GroupShares(name, len(rows), doubtful, tuple(shares), len(rows) - len(told))

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON values: classes that were predicted, and groups where there are any."""
        classes = [
            {"class": name, "images": count, "share": share, "median_probability": middle}
            for name, count, share, middle in self._counted()
        ]
        groups = [
            {
                "group": one.group,
                "cells": one.cells,
                "doubtful_masks": one.doubtful,
                "not_answered": one.unanswered,
                "classes": {name: part._asdict() for name, part in zip(self.classes, one.shares, strict=True)},
            }
            for one in self.by_group()
        ]
        found = {
            "images": len(self.chosen),
            "not_answered": self.unanswered,
            "probabilities": "calibrated" if self.calibrated else "raw",
            "classes": classes,
            "not_taught": list(self.untaught),
            "set_sizes": None if self.sizes is None else {str(size): count for size, count in self._sizes()},
            "groups": groups,
        }
        moved = {} if self.changes is None else {"changes": self.changes.as_dict()}
        return found | self._doubts() | moved

    def _doubts(self) -> dict[str, Any]:
        if self.novelty is None:
            return {}
        return {"novel": int(self.novelty.novel.sum()), "remarks": list(self.novelty.remarks)}

    def _counted(self) -> Iterator[tuple[str, int, float, float]]:
        """Of each class that was answered: its cells, their share of the answered ones, their median probability."""
        told = np.ones(len(self.chosen), bool) if self.answered is None else self.answered
        for index, name in enumerate(self.classes):
            rows = (self.chosen == index) & told
            if rows.any():
                yield name, int(rows.sum()), float(rows.sum() / told.sum()), float(np.median(self.proba[rows, index]))

    def _sizes(self) -> Iterator[tuple[int, int]]:
        """(classes in a prediction set, how many cells have such a one)."""
        if self.sizes is not None:
            yield from zip(*(found.tolist() for found in np.unique(self.sizes, return_counts=True)), strict=True)

    def tables(self) -> Iterator[Table]:
        """To be shown: the classes, and where there are several groups, but not very many, each of them."""
        yield self._class_table()
        if self.sizes is not None:
            yield self._size_table()
        groups = self.by_group()
        if 1 < len(groups) <= MANY_GROUPS:
            yield self._group_table(groups)
        if self.changes is not None:
            yield self.changes.table()

    def _class_table(self) -> Table:
        from rich.table import Table

        kind = "calibrated" if self.calibrated else "raw"
        table = Table(title=f"Predicted classes, {kind} probabilities", title_justify="left")
        for heading in ("class", "images", "share", "median probability"):
            table.add_column(heading, justify="left" if heading == "class" else "right", overflow="fold")
        for name, count, share, middle in self._counted():
            table.add_row(name, f"{count:,}", f"{100 * share:.1f} %", f"{middle:.2f}")
        if self.answered is not None:
            table.add_row("(not answered)", f"{self.unanswered:,}", "", "")
        return table

    def _size_table(self) -> Table:
        from rich.table import Table

        table = Table(title="Prediction sets", title_justify="left")
        for heading in ("classes in the set", "images", "share"):
            table.add_column(heading, justify="right", overflow="fold")
        for size, count in self._sizes():
            table.add_row(str(size), f"{count:,}", f"{100 * count / len(self.chosen):.1f} %")
        return table

    def _group_table(self, groups: Sequence[GroupShares]) -> Table:
        from rich.table import Table

        table = Table(title="Class shares by group, with 95 % Wilson intervals", title_justify="left")
        for heading in ("group", "class", "cells", "share, %", "interval"):
            table.add_column(heading, justify="left" if heading in ("group", "class") else "right", overflow="fold")
        for one in groups:
            for number, (name, part) in enumerate(zip(self.classes, one.shares, strict=True)):
                table.add_row("" if number else one.group, name, *_figures(part))
            if self.answered is not None:
                table.add_row("", "(not answered)", f"{one.unanswered:,}", "", "")
            table.add_section()
        return table


def _figures(part: Share) -> tuple[str, str, str]:
    """Cells, per cent and its interval, as they are shown."""
    if part.cells is None:
        return "", "", "not taught"
    if part.share is None or part.low is None or part.high is None:
        return f"{part.cells:,}", "", "none answered"
    return f"{part.cells:,}", f"{100 * part.share:.1f}", f"{100 * part.low:.1f}–{100 * part.high:.1f}"


def wilson(count: int, cells: int) -> tuple[float, float]:
    """The 95 % interval of a share, as of `count` of so many independent cells (Wilson, JASA 1927; no continuity
    correction). It says how well so few cells tell a share, and nothing of the classifier's errors."""
    from scipy.stats import binomtest

    found = binomtest(count, cells).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def groups_of(dataset: Dataset, is_manifest: bool) -> np.ndarray | None:
    """(N,) str: a manifest's groups, or the folders below the named ones; None where no cells belong together."""
    if is_manifest:
        return dataset.group if np.any(dataset.group != dataset.id) else None
    folders = np.array([PurePosixPath(name).parent.as_posix() for name in dataset.id.tolist()], dtype=str)
    return folders if np.any(folders != ".") else None


def write_shares(path: Path, found: Predictions) -> int:
    """A CSV with a line per group: group, cells, doubtful_masks, then of each class n_, share_, low_, high_ and p_, the
    mean probability; empty but for p_ of a class that was not taught. Where the method was to abstain, also how many
    cells it did not answer, of whom the shares are not. Gives the number of groups.

    Raises: CellfeatError where no cells belong together.
    """
    groups = found.by_group()
    if not groups:
        raise no_groups()
    with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        parts = [f"{part}_{name}" for name in found.classes for part in ("n", "share", "low", "high", "p")]
        abstains = found.answered is not None
        writer.writerow([*GROUP_COLUMNS, *([UNANSWERED] * abstains), *parts])
        for one in groups:
            values = [_written(value) for share in one.shares for value in share]
            doubtful = "" if one.doubtful is None else one.doubtful
            writer.writerow([plain(one.group), one.cells, doubtful, *([one.unanswered] * abstains), *values])
    return len(groups)


def _written(value: float | None) -> str:
    """A number of the CSV; empty for what is not known."""
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.6g}"


def no_groups() -> CellfeatError:
    """What to do where no cells belong together."""
    return CellfeatError(
        "--per-group: nothing says which cells belong together. Give a manifest with a column group (a patient, a "
        "slide), or a folder with a folder of images for each"
    )
