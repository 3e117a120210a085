"""A results folder as rankings and comparisons see it: records of transfers, and predictions when asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellfeat import answers
from cellfeat.comparison import Answers, Truth
from cellfeat.errors import CellfeatError, unknown
from cellfeat.results_folder import CELLS, read_records

SEEN, UNKNOWN = "†", "‡"  # pretrained weights have seen the target; nobody knows whether they have
Record = dict[str, Any]


class Results:
    """A results folder: its records, and predictions read when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder_records = read_records(folder)  # those of a source's own folds included
        self.records = [record for record in self.folder_records if not record["held_out_folds"]]
        if not self.records:
            raise CellfeatError(f"{folder} has no records of transfers; make some by `cellfeat bench run SUITE.yaml`")
        self.truth: Truth = answers.KnownCells(folder / CELLS).truth()

    def protocols(self) -> list[str]:
        return list(dict.fromkeys(record["protocol"] for record in self.records))

    def choose(self, protocol: str | None, classifier: str | None) -> list[Record]:
        for name, value, known in (
            ("protocol", protocol, self.protocols()),
            ("classifier", classifier, sorted({record["classifier"] for record in self.records})),
        ):
            if value is not None and value not in known:
                raise CellfeatError(unknown(name, value, known))
        rows = {record["row"] for record in self.records if record["classifier"] == classifier}
        return [
            record
            for record in self.records
            if protocol in (None, record["protocol"])
            # A row that was not run with it, such as a network with its own head, stands for itself.
            and (classifier in (None, record["classifier"]) or record["row"] not in rows)
        ]

    def answers(self, found: Sequence[Record]) -> dict[str, Answers]:
        """{transfer: answers} of the records of one row, classifier and protocol, over all their seeds.

        Raises: CellfeatError where they are of two recipes, or of two data sets.
        """
        check_alike(found, "recipe")
        seeds = sorted({record["seed"] for record in found})
        import pyarrow as pa
        import pyarrow.compute as pc

        path = self.folder / found[0]["predictions"]["file"]
        table = answers.read(path, protocol=found[0]["protocol"], classifier=found[0]["classifier"])
        result = {}
        for source, target in dict.fromkeys((record["source"], record["target"]) for record in found):
            wanted = pc.and_(pc.equal(table["source"], source), pc.equal(table["target"], target))
            part = table.filter(pc.and_(wanted, pc.is_in(table["seed"], pa.array(seeds))))
            result[f"{source} → {target}"] = answers.shares_right(part, self.truth)
        return result


def _recipe_of(record: Record) -> str:
    """What a row's fits must have in common: everything but the seed."""
    recipe = record["recipe"]
    return json.dumps({**recipe, "protocol": {**recipe["protocol"], "seeds": []}}, sort_keys=True)


def check_alike(found: Sequence[Record], what: str) -> None:
    """Refuse records of several data sets, or recipes, in one figure."""
    kinds = {_recipe_of(one) if what == "recipe" else one["dataset"]["digest"] for one in found}
    if len(kinds) > 1:
        where = " and ".join(sorted({f"{record['row']}/{record['protocol']}" for record in found})[:2])
        raise CellfeatError(
            f"{where}: records of {len(kinds)} different {what}s cannot stand in one figure; run the suite again into "
            "another folder (--out), or take the older lines out of records.jsonl"
        )


def transfer_of(record: Record) -> str:
    return f"{record['source']} → {record['target']}"
