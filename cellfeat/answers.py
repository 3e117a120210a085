"""Predictions of a suite: a Parquet table per row of the suite, and the cells they are about in another.

Small enough to be published beside the records: of a fit every predicted class by target, fold and cell; probabilities
where they are wanted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cellfeat.artifacts import atomic_file
from cellfeat.comparison import Answers, Truth
from cellfeat.errors import CellfeatError
from cellfeat.results import Result
from cellfeat.types import Cells

FIT = ("protocol", "classifier", "seed", "source")  # columns that name a fit within a row


def table_of(result: Result, cells: Cells, classes: Sequence[str], fit: dict[str, Any], probabilities: bool) -> Any:
    """A pyarrow table: the fit's names, target, fold, id and predicted class of every answer, in a fixed order."""
    import pyarrow as pa

    names, tables = np.array(classes), []
    for target in sorted({result.split.name, *result.targets}):
        for one in sorted(result.predictions(target), key=lambda one: one.fold):
            count = len(one.rows)
            columns: dict[str, Any] = {
                **{key: np.full(count, fit[key]) for key in FIT},
                "target": np.full(count, target),
                "fold": np.full(count, one.fold, np.int16),
                "id": cells.id[one.rows],
                "predicted": names[one.classes],
            }
            if probabilities:
                columns |= {f"p_{name}": one.proba[:, i].astype(np.float32) for i, name in enumerate(classes)}
            tables.append(pa.table({key: pa.array(values) for key, values in columns.items()}))
    return pa.concat_tables(tables)


def digest_of(table: Any) -> str:
    """SHA-256 over target, fold, id and predicted class of every answer of one fit, whatever the order of the rows."""
    columns = [table[name].to_pylist() for name in ("target", "fold", "id", "predicted")]
    lines = sorted("\t".join(map(str, row)) for row in zip(*columns, strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def add(path: Path, table: Any) -> None:
    """Put a fit's answers into the table of its row, in place of older ones of the same fit."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if path.is_file():
        known = pq.read_table(path)
        same = np.ones(len(known), dtype=bool)
        for key in FIT:
            same &= pc.equal(known[key], table[key][0]).to_numpy()
        table = pa.concat_tables([known.filter(pa.array(~same)), table], promote_options="default")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = [name for name in table.column_names if pa.types.is_string(table.schema.field(name).type)]
    with atomic_file(path) as partial:
        pq.write_table(table, partial, compression="zstd", compression_level=9, use_dictionary=text)


def read(path: Path, **fit: Any) -> Any:
    """The answers of a row that agree with `fit` (protocol, classifier, seed, source, target), as a pyarrow table."""
    import pyarrow.parquet as pq

    if not path.is_file():
        raise CellfeatError(f"there is no {path}: predictions stand beside their records; fetch them too, or run again")
    return pq.read_table(path, filters=[(key, "=", value) for key, value in fit.items()] or None)


def shares_right(table: Any, truth: Truth) -> Answers:
    """Of one transfer: for every cell the share of the models (folds and seeds) that were right."""
    (names, place), (classes, answer) = _coded(table["id"]), _coded(table["predicted"])
    true = np.array([truth.label[name] for name in names])
    hits = np.array(classes)[answer] == true[place]
    return Answers(np.array(names, dtype=str), np.bincount(place, hits) / np.bincount(place))


class Asked(NamedTuple):
    """What a method answered on one transfer."""

    id: np.ndarray  # (n,) ids of the cells, sorted
    classes: list[str]
    predicted: np.ndarray  # (n, m) int16 of its m models (folds and seeds), into `classes`; -1: not asked


class RowAnswers:
    """The answers of a row, read once and taken by fit and target."""

    def __init__(self, path: Path) -> None:
        table = read(path)
        self._names: dict[str, list[Any]] = {}
        columns = []
        for key in ("protocol", "classifier", "source", "target"):
            self._names[key], codes = _coded(table[key])
            columns.append(codes)
        kinds = np.ravel_multi_index(columns, [max(1, len(names)) for names in self._names.values()])
        self._order = np.argsort(kinds, kind="stable")
        self._kinds = kinds[self._order]
        self._ids, self._id = _coded(table["id"])
        self._classes, self._answer = _coded(table["predicted"])
        self._seed, self._fold = table["seed"].to_numpy(), table["fold"].to_numpy()

    def of(self, protocol: str, classifier: str, source: str, target: str, seeds: Sequence[int]) -> Asked | None:
        """The answers of these seeds on a transfer; None where there are none."""
        wanted = []
        for value, names in zip((protocol, classifier, source, target), self._names.values(), strict=True):
            if value not in names:
                return None
            wanted.append(names.index(value))
        kind = np.ravel_multi_index(wanted, [len(names) for names in self._names.values()])
        start, end = np.searchsorted(self._kinds, [kind, kind + 1])
        rows = self._order[start:end]
        rows = rows[np.isin(self._seed[rows], list(seeds))]
        if not len(rows):
            return None
        cells, place = np.unique(self._id[rows], return_inverse=True)
        models, model = np.unique(
            self._seed[rows].astype(np.int64) * 2**16 + self._fold[rows].astype(np.int64), return_inverse=True
        )
        predicted = np.full((len(cells), len(models)), -1, np.int16)
        predicted[place, model] = self._answer[rows]
        ids = np.array([self._ids[code] for code in cells.tolist()], dtype=str)
        order = np.argsort(ids)
        return Asked(ids[order], self._classes, predicted[order])


def _coded(column: Any) -> tuple[list[str], np.ndarray]:
    """The distinct values of a text column, and which of them every row has."""
    coded = column.combine_chunks().dictionary_encode()
    return coded.dictionary.to_pylist(), coded.indices.to_numpy()


Known = tuple[str, str, str]  # domain, label and group of a cell


@dataclass(frozen=True)
class KnownCells:
    """The cells that predictions are about, in `cells.parquet`: id, domain, label and group."""

    path: Path

    def add(self, cells: Cells, classes: Sequence[str]) -> None:
        """Keep these cells. Raises: CellfeatError where one is known otherwise: the results are of other data."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        known, new = self.check(cells, classes)
        if new.keys() <= known.keys():
            return
        rows = sorted({**known, **new}.items())
        columns = {"id": [name for name, _ in rows]}
        columns |= {key: [row[i] for _, row in rows] for i, key in enumerate(("domain", "label", "group"))}
        with atomic_file(self.path) as partial:
            pq.write_table(pa.table(columns), partial, compression="zstd")

    def check(self, cells: Cells, classes: Sequence[str]) -> tuple[dict[str, Known], dict[str, Known]]:
        """What is known and what these cells say, by id. Raises: as `add`."""
        names = np.array([*classes, ""])  # the last for cells without a label
        new = dict(
            zip(
                cells.id.tolist(),
                zip(cells.domain.tolist(), names[cells.label].tolist(), cells.group.tolist(), strict=True),
                strict=True,
            )
        )
        known = self._read() if self.path.is_file() else {}
        changed = next((name for name in new if known.get(name, new[name]) != new[name]), None)
        if changed is not None:
            raise CellfeatError(
                f"{self.path.parent} has results of other data: cell {changed} was {'/'.join(known[changed])} and is "
                f"{'/'.join(new[changed])} now; name another folder (--out)"
            )
        return known, new

    def truth(self) -> Truth:
        if not self.path.is_file():
            raise CellfeatError(
                f"there is no {self.path}: the labels that predictions are compared with; run the suite"
            )
        rows = self._read()
        domain, label, group = ({name: row[i] for name, row in rows.items()} for i in range(3))
        return Truth(label=label, domain=domain, group=group)

    def _read(self) -> dict[str, Known]:
        import pyarrow.parquet as pq

        table = pq.read_table(self.path)
        columns = [table[key].to_pylist() for key in ("domain", "label", "group")]
        return dict(zip(table["id"].to_pylist(), zip(*columns, strict=True), strict=True))
