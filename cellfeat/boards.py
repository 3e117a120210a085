"""Records of one or several results folders to boards: what may stand in one table, and how it is ordered.

A board is one protocol on one data set with one thing shown of the target: rows that were shown different things are
never ranked together. Under `adapt: none` a row is ranked only by targets that no pretrained weights in that table have
seen; where they have seen all of them, a row that has seen one is not ranked. Reads records and predictions, never a
model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from cellfeat import answers
from cellfeat.errors import CellfeatError
from cellfeat.standings import Field, Standing, Standings
from cellfeat.suite_results import SEEN, UNKNOWN, Record, Results, check_alike, transfer_of

SHOWN = {
    "none": "adapt: none, no target cell shown to any method",
    "heldout": "adapt: heldout, target cells shown without labels, other ones scored",
    "test": "adapt: test, target cells shown without labels, the very ones that are scored",
}
DEFAULT_METRIC = "balanced_accuracy"
LEAST_SHARE = 0.5  # of the cells that others answered in few-shot, below which a row is not compared


@dataclass(frozen=True)
class Method:
    """One row of one results folder with one classifier, in one protocol."""

    folder: Path
    row: str
    classifier: str
    records: tuple[Record, ...]

    @property
    def name(self) -> str:
        return f"{self.row}/{self.classifier}"

    @property
    def seeds(self) -> list[int]:
        return sorted({record["seed"] for record in self.records})

    @property
    def seconds(self) -> float:
        """Of all its fits and answers."""
        fits = {(record["seed"], record["source"]): record["seconds"] for record in self.records}
        return sum(fits.values())

    @property
    def seconds_of_fit(self) -> dict[str, float]:
        """By source: of one fit and all its answers, mean over the seeds."""
        fits = {(record["source"], record["seed"]): record["seconds"] for record in self.records}
        found: dict[str, list[float]] = {}
        for (source, _), seconds in fits.items():
            found.setdefault(source, []).append(seconds)
        return {source: sum(each) / len(each) for source, each in found.items()}

    @property
    def marks(self) -> dict[str, str]:
        """By transfer: † where pretrained weights have seen the target, ‡ where nobody knows."""
        return {
            transfer_of(record): SEEN if record["weights_saw_target"] else UNKNOWN
            for record in self.records
            if record["weights_saw_target"] is not False
        }


@dataclass
class Board:
    """One table: a protocol on one data set, one thing shown of the target."""

    methods: list[Method]
    results: dict[Path, Results]
    remarks: dict[int, dict[str, str]] = field(default_factory=dict)  # by method and transfer: why it is not ranked

    @property
    def protocol(self) -> str:
        return str(next(self.records())["protocol"])

    @property
    def adapt(self) -> str:
        return str(next(self.records())["adapt"])

    @property
    def kind(self) -> tuple[str, ...]:
        """What all its records have in common: data, protocol with its settings, and what was shown."""
        return _kind(next(self.records()))

    @cached_property
    def transfers(self) -> tuple[str, ...]:
        return tuple(sorted({transfer_of(record) for record in self.records()}))

    @property
    def shots(self) -> int:
        """Most labelled target cells that were given."""
        return max(record["shots"] for record in self.records())

    @property
    def title(self) -> str:
        given = f" beside up to {self.shots} labelled ones, which were given" if self.shots else ""
        return f"{self.protocol} · {SHOWN[self.adapt]}{given}"

    def records(self) -> Iterator[Record]:
        return (record for method in self.methods for record in method.records)

    def bound(self, kind: str, metric: str = DEFAULT_METRIC) -> dict[str, float | None]:
        """`majority` or `ceiling` by transfer."""
        return {transfer_of(record): record[kind].get(metric) for record in self.records()}

    def counted(self, transfers: Sequence[str]) -> tuple[str, ...]:
        """Those of these transfers that a rank goes by."""
        if self.adapt != "none":
            return tuple(transfers)
        seen = {name for method in self.methods for name, mark in method.marks.items() if mark == SEEN}
        return tuple(name for name in transfers if name not in seen) or tuple(transfers)

    def ranked(self, transfers: Sequence[str]) -> np.ndarray:
        """(M,) which methods may be ranked by these transfers."""
        if self.adapt != "none":
            return np.ones(len(self.methods), bool)
        counted = self.counted(transfers)
        return np.array([not any(name in method.marks for name in counted) for method in self.methods])

    def table(self, transfers: Sequence[str], metric: str = DEFAULT_METRIC) -> list[Standing]:
        """The methods by their means over those of these transfers that count."""
        return self.standings.table(self.counted(transfers), metric, self.ranked(transfers))

    @cached_property
    def standings(self) -> Standings:
        for method in self.methods:
            check_alike(method.records, "recipe")
        fields = {name: self._field(name) for name in self.transfers}
        return Standings(fields, len(self.methods))

    @cached_property
    def _answers(self) -> dict[Path, answers.RowAnswers]:
        paths = {self._path(method) for method in self.methods}
        return {path: answers.RowAnswers(path) for path in sorted(paths)}

    @staticmethod
    def _path(method: Method) -> Path:
        return method.folder / method.records[0]["predictions"]["file"]

    def _field(self, transfer: str) -> Field:
        """What every method answered on the cells of a transfer that they share."""
        found: list[answers.Asked | None] = []
        for method in self.methods:
            records = [record for record in method.records if transfer_of(record) == transfer]
            fit = (self.protocol, method.classifier, records[0]["source"], records[0]["target"]) if records else None
            seeds = [record["seed"] for record in records]
            found.append(self._answers[self._path(method)].of(*fit, seeds) if fit else None)
        target = next(record["target"] for record in self.records() if transfer_of(record) == transfer)
        home = self.methods[0].folder  # others are measured in its cells, and change none of its figures
        own = [one for one, method in zip(found, self.methods, strict=True) if one and method.folder == home]
        shared = _shared_cells([one.id for one in own or filter(None, found)], bool(self.shots))
        truth = self._truth(shared)
        names = sorted({name for one in found if one is not None for name in one.classes} | set(truth["label"]))
        models = [self._models(i, transfer, one, shared, names) for i, one in enumerate(found)]
        units = np.array([f"{truth['domain'][i]}|{group}" for i, group in enumerate(truth["group"])])
        grouped = len(np.unique(units)) < len(units)
        label = np.array([names.index(one) for one in truth["label"]])
        return Field(target, shared, label, units if grouped else shared, grouped, models)

    def _models(
        self, number: int, transfer: str, asked: answers.Asked | None, shared: np.ndarray, names: list[str]
    ) -> np.ndarray | None:
        """A method's answers on the shared cells as codes among `names`; None, with a remark, where cells lack."""
        if asked is None:
            return None
        places = {name: i for i, name in enumerate(asked.id.tolist())}
        missing = sum(name not in places for name in shared.tolist())
        if missing:
            self.remarks.setdefault(number, {})[transfer] = f"{missing} of {len(shared)} cells were not answered"
            return None
        code = np.array([*(names.index(name) for name in asked.classes), -1])
        return code[asked.predicted[[places[name] for name in shared.tolist()]]].astype(np.int16)

    def _truth(self, ids: np.ndarray) -> dict[str, list[str]]:
        """Label, domain and group of cells. Raises: CellfeatError where two folders know one otherwise."""
        found: dict[str, list[str]] = {}
        for folder, results in self.results.items():
            for key in ("label", "domain", "group"):
                known = getattr(results.truth, key)
                values = [known.get(name, "") for name in ids.tolist()]
                if found.setdefault(key, values) != values:
                    changed = next(i for i, value in enumerate(values) if value != found[key][i])
                    raise CellfeatError(
                        f"{next(iter(self.results))} and {folder} disagree about the {key} of cell {ids[changed]}: "
                        f"{found[key][changed]!r} and {values[changed]!r}; they cannot stand in one table"
                    )
        return found


def _shared_cells(sets: Sequence[np.ndarray], few_shot: bool) -> np.ndarray:
    """The cells that methods are compared in: those that most of these methods answered.

    In few-shot, where every seed gives away other cells, those that all answered who answered a good half of them.
    """
    kinds: dict[tuple[str, ...], int] = {}
    for ids in sets:
        kinds[tuple(ids.tolist())] = kinds.get(tuple(ids.tolist()), 0) + 1
    usual = max(kinds, key=lambda ids: (kinds[ids], len(ids)))
    if not few_shot:
        return np.array(usual, dtype=str)
    full = max(len(ids) for ids in kinds)
    alike = [set(ids) for ids in kinds if len(ids) >= LEAST_SHARE * full]
    return np.array(sorted(set.intersection(*alike)), dtype=str)


def boards(folders: Sequence[Path], protocol: str | None = None, classifier: str | None = None) -> list[Board]:
    """Every board of these results folders, by protocol in the order of the records, then by what was shown."""
    results = {folder: Results(folder) for folder in folders}
    chosen = [(folder, record) for folder, one in results.items() for record in one.choose(protocol, classifier)]
    for folder, name in dict.fromkeys((folder, record["protocol"]) for folder, record in chosen):
        check_alike([one for other, one in chosen if (other, one["protocol"]) == (folder, name)], "data set")
    found: dict[tuple[str, ...], dict[tuple[Path, str, str], list[Record]]] = {}
    for folder, record in chosen:
        methods = found.setdefault(_kind(record), {})
        methods.setdefault((folder, record["row"], record["classifier"]), []).append(record)
    made = []
    for methods in found.values():
        rows = [Method(*key, tuple(own)) for key, own in methods.items()]
        used = {method.folder for method in rows}
        made.append(Board(rows, {folder: one for folder, one in results.items() if folder in used}))
    protocols = list(dict.fromkeys(board.protocol for board in made))
    return sorted(made, key=lambda one: (protocols.index(one.protocol), list(SHOWN).index(one.adapt)))


def _kind(record: Record) -> tuple[str, ...]:
    settings = {
        key: value
        for key, value in record["recipe"].get("protocol", {}).items()
        if key not in ("seeds", "source", "target", "adapt")
    }
    shown = json.dumps(settings, sort_keys=True)
    return record["dataset"]["digest"], record["protocol"], record["adapt"], shown
