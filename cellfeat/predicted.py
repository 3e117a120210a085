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

if TYPE_CHECKING:
    from rich.table import Table

    from cellfeat.datasets import Dataset

CONFIDENCE = 0.95
GROUP_COLUMNS = ["group", "cells", "doubtful_masks"]  # of the CSV, before those of the classes
MANY_GROUPS = 40  # more are not printed, only written


class Share(NamedTuple):
    """One class in one group. low, high: bounds of the share. probability: its mean over the group's cells.

    Cells, share and bounds are None of a class that was not taught: never to be answered, it was not looked for.
    """

    cells: int | None
    share: float | None
    low: float | None
    high: float | None
    probability: float


class GroupShares(NamedTuple):
    """A group's cells by class, in the order of the classes; doubtful: masks to be looked at, None where not known."""

    group: str
    cells: int
    doubtful: int | None
    shares: tuple[Share, ...]


@dataclass(frozen=True)
class Predictions:
    """N cells as they were classified.

    chosen: (N,) int64 into `classes`. proba: (N, K) float. group: (N,) str, None where no cells belong together.
    quality: (N,) float, predicted intersection over union of each mask, None where it is not known. untaught: those of
    `classes` that the model was shown no cell of. novelty: how far they are from the cells learnt from, None
    where a run did not keep what those look like.
    """

    classes: tuple[str, ...]
    chosen: np.ndarray
    proba: np.ndarray
    group: np.ndarray | None = None
    quality: np.ndarray | None = None
    untaught: tuple[str, ...] = ()
    novelty: Novelty | None = None

    def by_group(self) -> list[GroupShares]:
        """Every group, by name; none where no cells belong together."""
        names = [] if self.group is None else np.unique(self.group).tolist()
        return [self._of(name, np.flatnonzero(self.group == name)) for name in names]

    def _of(self, name: str, rows: np.ndarray) -> GroupShares:
        counts = np.bincount(self.chosen[rows], minlength=len(self.classes)).tolist()
        means = self.proba[rows].mean(axis=0).tolist()
        shares = [
            Share(*(None,) * 4, mean)
            if one in self.untaught
            else Share(count, count / len(rows), *wilson(count, len(rows)), mean)
            for one, count, mean in zip(self.classes, counts, means, strict=True)
        ]
        doubtful = None if self.quality is None else int(np.sum(self.quality[rows] < DOUBTFUL))
        return GroupShares(name, len(rows), doubtful, tuple(shares))

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
                "classes": {name: part._asdict() for name, part in zip(self.classes, one.shares, strict=True)},
            }
            for one in self.by_group()
        ]
        found = {"images": len(self.chosen), "classes": classes, "not_taught": list(self.untaught), "groups": groups}
        return found | self._doubts()

    def _doubts(self) -> dict[str, Any]:
        if self.novelty is None:
            return {}
        return {"novel": int(self.novelty.novel.sum()), "remarks": list(self.novelty.remarks)}

    def _counted(self) -> Iterator[tuple[str, int, float, float]]:
        for index, name in enumerate(self.classes):
            rows = self.chosen == index
            if rows.any():
                yield name, int(rows.sum()), float(rows.mean()), float(np.median(self.proba[rows, index]))

    def tables(self) -> Iterator[Table]:
        """To be shown: the classes, and where there are several groups, but not very many, each of them."""
        yield self._class_table()
        groups = self.by_group()
        if 1 < len(groups) <= MANY_GROUPS:
            yield self._group_table(groups)

    def _class_table(self) -> Table:
        from rich.table import Table

        table = Table(title="Predicted classes", title_justify="left")
        for heading in ("class", "images", "share", "median probability"):
            table.add_column(heading, justify="left" if heading == "class" else "right", overflow="fold")
        for name, count, share, middle in self._counted():
            table.add_row(name, f"{count:,}", f"{100 * share:.1f} %", f"{middle:.2f}")
        return table

    def _group_table(self, groups: Sequence[GroupShares]) -> Table:
        from rich.table import Table

        table = Table(title="Class shares by group, with 95 % Wilson intervals", title_justify="left")
        for heading in ("group", "class", "cells", "share, %", "interval"):
            table.add_column(heading, justify="left" if heading in ("group", "class") else "right", overflow="fold")
        for one in groups:
            for number, (name, part) in enumerate(zip(self.classes, one.shares, strict=True)):
                table.add_row("" if number else one.group, name, *_figures(part))
            table.add_section()
        return table


def _figures(part: Share) -> tuple[str, str, str]:
    """Cells, per cent and its interval, as they are shown."""
    if part.cells is None or part.share is None or part.low is None or part.high is None:
        return "", "", "not taught"
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
    mean probability; empty but for p_ of a class that was not taught. Gives the number of groups.

    Raises: CellfeatError where no cells belong together.
    """
    groups = found.by_group()
    if not groups:
        raise no_groups()
    with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        parts = [f"{part}_{name}" for name in found.classes for part in ("n", "share", "low", "high", "p")]
        writer.writerow([*GROUP_COLUMNS, *parts])
        for one in groups:
            values = [_written(value) for share in one.shares for value in share]
            doubtful = "" if one.doubtful is None else one.doubtful
            writer.writerow([plain(one.group), one.cells, doubtful, *values])
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


def plain(text: str) -> str:
    """A name that a spreadsheet would take for a formula is kept text by a leading apostrophe."""
    return f"'{text}" if text[:1] in "=+-@\t\r" else text
