"""Is a record true? Its id, its predictions and their scores are checked, and the fit is done again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellfeat import answers, metrics, provenance, records
from cellfeat.bench import CELLS, SuiteRun, id_of, read_records, split_of
from cellfeat.errors import CellfeatError, unknown
from cellfeat.recipe import parse
from cellfeat.suite import Suite
from cellfeat.types import Cells
from cellfeat.workplace import Workplace

ENOUGH = 0.99  # of the predictions; another machine's last digits turn a few
FACTS = (  # of a record, that come out again whatever the last digits
    *("held_out_folds", "adapt", "adapted_to", "together", "shots", "weights_saw", "weights_saw_target", "cells"),
    *("class_counts", "left_out", "scored_classes", "majority", "ceiling", "classes"),
)


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
    faults = []
    if id_of(record) != record["id"]:
        faults.append("it was changed after it was written: its id does not follow from what it says")
    table = answers.read(folder / record["predictions"]["file"], **_fit(record))
    if answers.digest_of(table) != record["predictions"]["sha256"]:
        return [*faults, "its predictions are not those that it was written with"]
    truth = answers.KnownCells(folder / CELLS).truth()
    faults += [
        f"{name} is {record['scores'][name]['mean']}, but its predictions give {value:.6f}"
        for name, value in _scores(record, table, truth).items()
        if not _same(record["scores"][name]["mean"], value)
    ]
    return faults


def _fit(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in answers.FIT}


def _same(written: float | None, found: float) -> bool:
    return np.isnan(found) if written is None else abs(written - found) < 1e-9


def _scores(record: Mapping[str, Any], table: Any, truth: Any) -> dict[str, float]:
    """The record's mean scores, from the predictions of its target."""
    classes = record["classes"]
    place = {name: i for i, name in enumerate(classes)}
    rows = [row for row in table.to_pylist() if row["target"] == record["target"]]
    folds = sorted({row["fold"] for row in rows})
    # Inside the source every cell is answered by one fold's model, and all are scored as one.
    parts = [rows] if record["held_out_folds"] else [[row for row in rows if row["fold"] == fold] for fold in folds]
    each = []
    for part in parts:
        labels = np.array([place[truth.label[row["id"]]] for row in part])
        matrix = metrics.confusion(labels, np.array([place[row["predicted"]] for row in part]), len(classes))
        each.append(metrics.scores_of(matrix, metrics.scored_classes(labels, len(classes))))
    return {name: float(np.mean([one[name] for one in each])) for name in metrics.SCORES}


def verify(
    picked: Sequence[Mapping[str, Any]], folder: Path, work: Workplace, data: str | None, enough: float = ENOUGH
) -> list[Verdict]:
    """Check every record, and do its fit again on `data` (a manifest; None: the one that the recipe names)."""
    run = SuiteRun(Suite.model_validate({"name": "verify", "protocols": {"x": {}}, "rows": {"x": {}}}), folder, work)
    again: dict[str, Any] = {}
    verdicts = []
    for record in picked:
        faults, equal, remark = check_content(record, folder), None, ""
        key = json.dumps([record[name] for name in ("recipe", "seed", "source", "dataset", "backbone")], sort_keys=True)
        if key not in again:
            again[key] = _again(record, run, data)
        table, done, other = again[key]
        faults += other
        if table is not None:
            equal = _equal(record, answers.read(folder / record["predictions"]["file"], **_fit(record)), table)
            if equal < enough:
                faults.append(f"only {100 * equal:.2f} % of its predictions came out again")
            faults += _changed_facts(record, done)
            remark = _differences(record)
        where = f"{record['source']} → {record['target']}"
        verdicts.append(Verdict(record["id"], record["address"], where, tuple(faults), equal, remark))
    return verdicts


def _again(record: Mapping[str, Any], run: SuiteRun, data: str | None) -> tuple[Any, list[Any], list[str]]:
    """The predictions of the record's fit, done anew, its records, and faults of its data."""
    content = dict(record["recipe"])
    if data is not None:
        content["dataset"] = {**content["dataset"], "manifest": data}
    evaluator, dataset = run.evaluator_of(parse(content, f"the recipe of record {record['id']}"), record["seed"])
    if dataset.digest != record["dataset"]["digest"]:
        return (
            None,
            [],
            [f"these data are others: digest {dataset.digest[:12]}…, not {record['dataset']['digest'][:12]}…"],
        )
    sha256 = evaluator.encoder.description["weights_sha256"] if evaluator.encoder else None
    if sha256 != record["backbone"]["weights_sha256"]:
        return None, [], [f"the backbone's weights are others: {sha256}, not {record['backbone']['weights_sha256']}"]
    result = evaluator.run(split_of(evaluator, record["seed"], record["source"]), record["seed"])
    evaluator.clear_scratch()
    table = answers.table_of(result, evaluator.cells, evaluator.classes, _fit(record), False)
    done = records.of(result, evaluator.cells, evaluator.classes, {})
    return table, done, _changed_cells(run.folder, evaluator.cells, evaluator.classes)


def _changed_cells(folder: Path, cells: Cells, classes: Sequence[str]) -> list[str]:
    """The labels that scores follow from must be those of the data."""
    try:
        answers.KnownCells(folder / CELLS).check(cells, classes)
    except CellfeatError as error:
        return [str(error)]
    return []


def _changed_facts(record: Mapping[str, Any], done: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the record says of the fit, beside scores, and doing it again does not."""
    for one in done:
        if one["target"] == record["target"]:
            again = json.loads(json.dumps({key: one[key] for key in FACTS}))
            return [
                f"{key} is {record.get(key)}, but comes out as {again[key]}"
                for key in FACTS
                if again[key] != record.get(key)
            ]
    return [f"doing it again gives no answers on {record['target']}"]


def _equal(record: Mapping[str, Any], stored: Any, again: Any) -> float:
    """Share of the answers on the record's target, stored or done again, that are in both."""

    def of(table: Any) -> Counter[tuple[int, str, str]]:
        rows = (row for row in table.to_pylist() if row["target"] == record["target"])
        return Counter((row["fold"], row["id"], row["predicted"]) for row in rows)

    first, second = of(stored), of(again)
    return (first & second).total() / max(first.total(), second.total(), 1)


def _differences(record: Mapping[str, Any]) -> str:
    """Versions that are not those of the record: the first place to look where predictions differ."""
    here = provenance.versions()
    others = [f"{name} {version} → {here.get(name, 'absent')}" for name, version in record["versions"].items()]
    changed = [text for text in others if text.split(" ")[1] != text.rpartition(" ")[2]]
    return f"versions: {', '.join(changed)}" if changed else ""
