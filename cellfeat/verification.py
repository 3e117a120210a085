"""Is a record true? Its id, its predictions and their scores are checked, and the fit is done again."""

from __future__ import annotations

import json
import shutil
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np

from cellfeat import answers, metrics, records
from cellfeat.claims import changed_versions, claims_here, drawn_anew, false_claims
from cellfeat.encodings import Encodings
from cellfeat.errors import CellfeatError, unknown
from cellfeat.pipeline import resolve
from cellfeat.recipe import parse
from cellfeat.results_folder import CELLS, id_of, published, read_records
from cellfeat.run import prepared
from cellfeat.training import PRECISIONS
from cellfeat.types import Cells
from cellfeat.workplace import Workplace

ENOUGH = 0.99  # of the predictions; another machine's last digits turn a few
FACTS = (  # of a record, that come out again whatever the last digits
    *("held_out_folds", "adapt", "adapted_to", "together", "shots", "weights_saw", "weights_saw_target", "cells"),
    *("class_counts", "left_out", "scored_classes", "majority", "ceiling", "classes"),
)


FIGURES = ("scores", "recall", "confusion", "calibration")  # that follow from predictions and probabilities
SCORE_TOLERANCE = 0.005  # of a score, where a few predictions came out otherwise
PRECISION_OF = {long: short for short, long in PRECISIONS.items()}


@dataclass(frozen=True)
class Verdict:
    """What was found of one record. equal: share of the predictions that came out again; None: not done again."""

    id: str
    address: str
    transfer: str
    faults: tuple[str, ...]
    equal: float | None
    remark: str = ""

    @property
    def passed(self) -> bool:
        return not self.faults


def chosen(folder: Path, ids: Sequence[str], random: int | None, seed: int) -> list[dict[str, Any]]:
    """The records with these ids (or their beginnings), or some at random; all where neither is said."""
    known = read_records(folder)
    if not known:
        raise CellfeatError(f"{folder} has no records.jsonl with records; make some by `cellfeat bench run`")
    if not ids and random is not None:
        places = np.random.default_rng(seed).permutation(len(known))[:random]
        return [known[place] for place in sorted(places.tolist())]
    picked = []
    for wanted in ids:
        found = [record for record in known if record["id"].startswith(wanted)]
        if len(found) != 1:
            raise CellfeatError(
                f"{len(found)} records have an id that begins with {wanted!r}; give more of it"
                if found
                else unknown("record", wanted, [record["id"] for record in known])
            )
        picked += found
    return picked or known


def check_content(record: Mapping[str, Any], folder: Path) -> list[str]:
    """Faults that need no fit: the id, the digest of the predictions, the scores that follow from them."""
    return Content(folder).faults(record)


class Content:
    """What a results folder holds beside its records, read once for all records of a row, of a fit, and of a target.

    Records that are asked for in the order of their files and fits are looked at quickest. Files must not change
    meanwhile.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._row = lru_cache(2)(lambda file: answers.read(folder / file))
        self._fit = lru_cache(4)(self._read_fit)
        self._digest = lru_cache(4)(lambda *fit: answers.digest_of(self._fit(*fit)))

    @cached_property
    def label(self) -> Mapping[str, str]:
        """Of every cell, by its id."""
        return answers.KnownCells(self.folder / CELLS).truth().label

    def table(self, record: Mapping[str, Any]) -> Any:
        """The answers of the record's fit, on all targets."""
        return self._fit(*self._key(record))

    def faults(self, record: Mapping[str, Any]) -> list[str]:
        """As `check_content`."""
        faults = []
        if id_of(record) != record["id"]:
            faults.append("it was changed after it was written: its id does not follow from what it says")
        if self._digest(*self._key(record)) != record["predictions"]["sha256"]:
            return [*faults, "its predictions are not those that it was written with"]
        faults += [
            f"{name} is {record['scores'][name]['mean']}, but its predictions give {value:.6f}"
            for name, value in _scores(record, self.table(record), self.label).items()
            if not _same(record["scores"][name]["mean"], value)
        ]
        return faults

    @staticmethod
    def _key(record: Mapping[str, Any]) -> tuple[Any, ...]:
        return record["predictions"]["file"], *(record[key] for key in answers.FIT)

    def _read_fit(self, file: str, *fit: Any) -> Any:
        import pyarrow.compute as pc

        table = self._row(file)
        for key, value in zip(answers.FIT, fit, strict=True):
            table = table.filter(pc.equal(table[key], value))
        return table


def _fit(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in answers.FIT}


def _same(written: float | None, found: float) -> bool:
    return np.isnan(found) if written is None else abs(written - found) < 1e-9


def _scores(record: Mapping[str, Any], table: Any, label: Mapping[str, str]) -> dict[str, float]:
    """The record's mean scores, from the predictions of its target."""
    import pyarrow.compute as pc

    classes = record["classes"]
    place = {name: i for i, name in enumerate(classes)}
    own = table.filter(pc.equal(table["target"], record["target"]))
    true = np.array([place[label[name]] for name in own["id"].to_pylist()], int)
    answer = np.array([place[name] for name in own["predicted"].to_pylist()], int)
    fold = own["fold"].to_numpy()
    # Inside the source every cell is answered by one fold's model, and all are scored as one.
    parts = [fold >= 0] if record["held_out_folds"] else [fold == one for one in np.unique(fold)]
    each = []
    for part in parts:
        matrix = metrics.confusion(true[part], answer[part], len(classes))
        each.append(metrics.scores_of(matrix, metrics.scored_classes(true[part], len(classes))))
    return {name: float(np.mean([one[name] for one in each])) for name in metrics.SCORES}


class Again(NamedTuple):
    """A recorded fit, done anew: its predictions and records, or what kept it from being done; faults of its data.

    about: what its methods are and say of themselves here, by the names of a record's fields.
    """

    table: Any
    records: list[dict[str, Any]]
    faults: list[str]
    about: Mapping[str, Any] = MappingProxyType({})


def verify(
    picked: Sequence[Mapping[str, Any]], folder: Path, work: Workplace, data: str | None, enough: float = ENOUGH
) -> list[Verdict]:
    """Check every record, and do its fit again on `data` (a manifest; None: the one that the recipe names).

    It is fitted in the precision that the record names, in a scratch folder of its own: nothing that an earlier fit
    left there is taken for the answer.
    """
    encodings: dict[str, Encodings] = {}
    done: dict[str, Again] = {}
    content, verdicts = Content(folder), []
    for record in picked:
        key = json.dumps([record[name] for name in ("recipe", "seed", "source", "dataset", "backbone")], sort_keys=True)
        precision = PRECISION_OF[record["encoding"]["precision"]]
        if precision not in encodings:
            encodings[precision] = Encodings(replace(work, precision=precision))
        try:
            if key not in done:
                done[key] = _again(record, encodings[precision], folder, data)
            verdicts.append(_judged(record, content, done[key], enough))
        except Exception as error:  # one record that cannot be looked at must not hide the verdicts on the others
            faults = (f"it could not be checked: {' '.join(str(error).split()) or type(error).__name__}",)
            verdicts.append(Verdict(record["id"], record["address"], _transfer(record), faults, None))
    return verdicts


def _transfer(record: Mapping[str, Any]) -> str:
    return f"{record['source']} → {record['target']}"


def _judged(record: Mapping[str, Any], content: Content, again: Again, enough: float) -> Verdict:
    faults, equal, remark = [*content.faults(record), *again.faults], None, ""
    if again.table is not None:
        equal = _equal(record, content.table(record), again.table)
        if equal < enough:
            faults.append(f"only {100 * equal:.2f} % of its predictions came out again")
        # What is already told by the record's own predictions need not be told again.
        faults += _changed_facts(record, again.records, scored=not faults, exactly=equal == 1 and not faults)
        faults += false_claims(record, again.about)
        remark = "; ".join(filter(None, [changed_versions(record, again.about), drawn_anew(again.about)]))
    return Verdict(record["id"], record["address"], _transfer(record), tuple(faults), equal, remark)


def _again(record: Mapping[str, Any], encodings: Encodings, folder: Path, data: str | None) -> Again:
    content = dict(record["recipe"])
    written = parse(content, f"the recipe of record {record['id']}")
    if data is not None:
        content["dataset"] = {**content["dataset"], "manifest": data}
    work = encodings.work
    context = work.context(record["seed"], f"verify-{uuid4().hex}")
    try:
        recipe = prepared(resolve(parse(content), work.registry), work, context)
        encoded = encodings.of(recipe, context)
        found = {"data": encoded.dataset.digest, "weights": encoded.encoder.description["weights_sha256"]}
        named = {"data": record["dataset"]["digest"], "weights": record["backbone"]["weights_sha256"]}
        other = [key for key in found if found[key] != named[key]]
        faults = [f"these {key} are others: digest {found[key]}, not {named[key]}" for key in other]
        if published(written).digest != record["recipe_digest"]:
            faults.append("its recipe_digest is not that of its recipe")
        if other:
            return Again(None, [], faults)
        evaluator = encodings.evaluator(recipe, encoded, context, OrderedDict())
        split = next((one for one in evaluator.splits(record["seed"]) if one.name == record["source"]), None)
        if split is None:
            return Again(None, [], [*faults, f"these data have no source {record['source']!r}"])
        result = evaluator.run(split, record["seed"])
        table = answers.table_of(result, encoded.cells, encoded.dataset.classes, _fit(record), False)
        new = records.of(result, encoded.cells, encoded.dataset.classes, {})
        faults += _changed_cells(folder, encoded.cells, encoded.dataset.classes)
        return Again(table, new, faults, claims_here(recipe, encoded.encoder, work, context))
    finally:
        shutil.rmtree(context.scratch, ignore_errors=True)


def _changed_cells(folder: Path, cells: Cells, classes: Sequence[str]) -> list[str]:
    """The labels that scores follow from must be those of the data."""
    try:
        answers.KnownCells(folder / CELLS).check(cells, classes)
    except CellfeatError as error:
        return [str(error)]
    return []


def _changed_facts(
    record: Mapping[str, Any], done: Sequence[Mapping[str, Any]], scored: bool, exactly: bool
) -> list[str]:
    """What the record says of the fit, and doing it again does not: facts, scores, and all figures where every
    prediction came out again."""
    again = next((one for one in done if one["target"] == record["target"]), None)
    if again is None:
        return [f"doing it again gives no answers on {record['target']}"]
    again = json.loads(json.dumps(again))
    faults = [
        f"{key} is {record.get(key)}, but comes out as {again[key]}" for key in FACTS if again[key] != record.get(key)
    ]
    for name in metrics.SCORES if scored else ():
        before, now = record["scores"][name]["mean"], again["scores"][name]["mean"]
        if (before is None) != (now is None) or abs((before or 0) - (now or 0)) > SCORE_TOLERANCE:
            faults.append(f"{name} is {before}, but comes out as {now}")
    wrong = [key for key in FIGURES if exactly and not _alike(record.get(key), again[key])]
    return [*faults, *(f"{key} does not follow from its predictions" for key in wrong)]


def _alike(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same, numbers up to the last digits of a probability."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return abs(one - other) <= 1e-3
    return bool(one == other)


def _equal(record: Mapping[str, Any], stored: Any, again: Any) -> float:
    """Share of the answers on the record's target, stored or done again, that are in both."""

    def of(table: Any) -> Counter[tuple[int, str, str]]:
        rows = (row for row in table.to_pylist() if row["target"] == record["target"])
        return Counter((row["fold"], row["id"], row["predicted"]) for row in rows)

    first, second = of(stored), of(again)
    return (first & second).total() / max(first.total(), second.total(), 1)
