"""A run's predictions, transfer by transfer: what its models said of every cell, and how sure they were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cellfeat.metrics import AT_ONCE, CALIBRATION_BINS, INTERVAL

REPLICATES = 1000


@dataclass(frozen=True)
class Transfer:
    """The answers of all models (folds, seeds) that were fitted on `source`, on the n cells of `target`.

    id: (n,) str, sorted. label: (n,) int64. proba: (n, K) float64, mean over the models that answered a cell. right:
    (n,) float64, share of them that were right. confidence, hit: (a,) largest probability of each single answer, and
    whether it was right. models: the most that answered one cell.
    """

    source: str
    target: str
    id: np.ndarray
    label: np.ndarray
    proba: np.ndarray
    right: np.ndarray
    confidence: np.ndarray
    hit: np.ndarray
    models: int

    @property
    def said_models(self) -> str:
        """How many models answered a cell; with several seeds of a few-shot protocol not each answered every one."""
        every = len(self.confidence) == self.models * len(self.id)
        return f"{'' if every else 'up to '}{self.models} models"

    @property
    def predicted(self) -> np.ndarray:
        """(n,) int64 class of the largest mean probability."""
        return self.proba.argmax(axis=1)

    def mistakes(self, most: int) -> np.ndarray:
        """Rows of wrongly classified cells, the surest ones first; equally sure ones by their ids."""
        wrong = np.flatnonzero(self.predicted != self.label)
        return wrong[np.argsort(-self.proba[wrong].max(axis=1), kind="stable")][:most]

    def doubts(self, most: int) -> np.ndarray:
        """Rows of the cells whose largest mean probability is lowest, right or wrong."""
        return np.argsort(self.proba.max(axis=1), kind="stable")[:most]


class Scored(NamedTuple):
    """One transfer with its records, one for each seed, and its predictions where they are known."""

    title: str
    records: Sequence[dict[str, Any]]
    transfer: Transfer | None

    @property
    def confusion(self) -> np.ndarray:
        """(K, K) mean over seeds of the mean over models."""
        return np.mean([record["confusion"] for record in self.records], axis=0)

    @property
    def cells(self) -> int:
        """How many cells were answered by any model: seeds of a few-shot protocol leave different ones to be scored."""
        return int(self.records[0]["cells"]) if self.transfer is None else len(self.transfer.id)

    @property
    def class_counts(self) -> dict[str, int]:
        """Those cells by class."""
        if self.transfer is None:
            return dict(self.records[0]["class_counts"])
        counts = np.bincount(self.transfer.label, minlength=len(self.records[0]["classes"]))
        return {name: int(n) for name, n in zip(self.records[0]["classes"], counts, strict=True) if n}


def read(path: Path, classes: Sequence[str]) -> list[Transfer]:
    """The transfers of a `predictions.parquet`, in the order of its rows."""
    import pyarrow.parquet as pq

    names = ["source", "target", "id", "label", "seed", "fold"]
    table = pq.read_table(path, columns=names + [f"p_{name}" for name in classes], read_dictionary=names[:4])
    source, target = _Coded.of(table["source"]), _Coded.of(table["target"])
    pair = source.place * len(target.names) + target.place
    codes, first = np.unique(pair, return_index=True)
    return [
        _transfer(
            table.filter(_mask(pair == code)),
            source.names[code // len(target.names)],
            target.names[code % len(target.names)],
            list(classes),
        )
        for code in codes[np.argsort(first)]
    ]


def _mask(rows: np.ndarray) -> Any:
    import pyarrow as pa

    return pa.array(rows)


class _Coded(NamedTuple):
    """A text column: its distinct values, and which of them every row has."""

    names: list[str]
    place: np.ndarray

    @classmethod
    def of(cls, column: Any) -> _Coded:
        import pyarrow as pa

        whole = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        if not pa.types.is_dictionary(whole.type):
            whole = whole.dictionary_encode()
        names, inverse = np.unique(np.array(whole.dictionary.to_pylist(), dtype=str), return_inverse=True)
        place = inverse[whole.indices.to_numpy(zero_copy_only=False).astype(np.int64)]
        used, place = np.unique(place, return_inverse=True)
        return cls(names[used].tolist(), place.astype(np.int64))


def _transfer(table: Any, source: str, target: str, classes: list[str]) -> Transfer:
    ids, labels = _Coded.of(table["id"]), _Coded.of(table["label"])
    count = np.bincount(ids.place)
    columns = [table[f"p_{name}"].to_numpy().astype(np.float64) for name in classes]
    of_answer = np.stack(columns, axis=1)
    label_of_answer = np.array([classes.index(name) for name in labels.names])[labels.place]
    label = np.zeros(len(count), np.int64)
    label[ids.place] = label_of_answer
    hit = of_answer.argmax(axis=1) == label_of_answer
    return Transfer(
        source=source,
        target=target,
        id=np.array(ids.names, dtype=str),
        label=label,
        proba=np.stack([np.bincount(ids.place, column) / count for column in columns], axis=1),
        right=np.bincount(ids.place, hit) / count,
        confidence=of_answer.max(axis=1),
        hit=hit,
        models=int(count.max()),
    )


class Bin(NamedTuple):
    """Answers whose confidence lies in [low, high): how many, their mean confidence, the share that was right."""

    low: float
    high: float
    answers: int
    confidence: float
    accuracy: float


def reliability(transfer: Transfer, bins: int = CALIBRATION_BINS) -> list[Bin]:
    """The bins of equal width that hold any answer (Guo et al., ICML 2017, section 2), as `metrics.calibration` has."""
    place = np.minimum((transfer.confidence * bins).astype(int), bins - 1)
    found = []
    for number in np.unique(place).tolist():
        inside = place == number
        found.append(
            Bin(
                number / bins,
                (number + 1) / bins,
                int(inside.sum()),
                float(transfer.confidence[inside].mean()),
                float(transfer.hit[inside].mean()),
            )
        )
    return found


def recall_intervals(
    label: np.ndarray, right: np.ndarray, groups: np.ndarray | None = None, seed: int = 0, replicates: int = REPLICATES
) -> dict[int, tuple[float, float]]:
    """{class: 95 % percentile bootstrap interval of its recall}.

    label: (n,) int64. right: (n,) share of the models that were right on a cell. Drawn anew are the cells of a class;
    where `groups` (n,) repeat, whole groups, since cells of one patient err alike.
    """
    rng = np.random.default_rng(seed)
    grouped = groups is not None and len(np.unique(groups)) < len(groups)
    units = np.unique(groups, return_inverse=True)[1] if grouped and groups is not None else np.arange(len(label))
    found = {}
    for one in np.unique(label).tolist():
        inside = label == one
        _, unit = np.unique(units[inside], return_inverse=True)
        found[int(one)] = _interval(np.bincount(unit, right[inside]), np.bincount(unit), rng, replicates)
    return found


def _interval(hits: np.ndarray, cells: np.ndarray, rng: np.random.Generator, replicates: int) -> tuple[float, float]:
    """Interval of sum(hits) / sum(cells) over units; alike units are interchangeable, so one draw counts them all."""
    kinds, counts = np.unique(np.stack([hits, cells], axis=1), axis=0, return_counts=True)
    shares = np.concatenate(list(_drawn(kinds, counts, rng, replicates)))
    tail = (1 - INTERVAL) / 2
    low, high = np.quantile(shares, [tail, 1 - tail])
    return float(low), float(high)


def _drawn(kinds: np.ndarray, counts: np.ndarray, rng: np.random.Generator, replicates: int) -> Iterator[np.ndarray]:
    for start in range(0, replicates, AT_ONCE):
        size = min(AT_ONCE, replicates - start)
        weights = rng.multinomial(counts.sum(), counts / counts.sum(), size=size)
        hits, cells = (weights @ kinds).T
        yield hits / cells
