"""A suite run: recipe x protocol x seed, one fit after the other, into a folder that another start goes on with.

records.jsonl  a line per fit and target; failures.jsonl  a line per fit that ended in an error;
predictions/   a table per row; cells.parquet  the cells they are about.
"""

from __future__ import annotations

import shutil
import traceback
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from cellfeat import answers, provenance, records
from cellfeat.encodings import Encoded, Encodings
from cellfeat.errors import CellfeatError, unknown
from cellfeat.evaluate import Evaluator, Fits, check_enough
from cellfeat.pipeline import Pipeline, resolve
from cellfeat.recipe import Recipe
from cellfeat.results import Result
from cellfeat.results_folder import (
    CELLS,
    FAILURES,
    LOCKS,
    PREDICTIONS,
    RECORDS,
    published,
    read_records,
    with_id,
)
from cellfeat.run import describe, prepared
from cellfeat.slots import Context
from cellfeat.splits import Split
from cellfeat.suite import Planned, Suite, planned
from cellfeat.workplace import Workplace


@dataclass(frozen=True)
class Outcome:
    """How many fits a start found done, did, and could not do."""

    found: int = 0
    done: int = 0
    failed: int = 0
    elsewhere: tuple[str, ...] = ()  # rows that another process is at


class Task(NamedTuple):
    """A planned fit made ready, and its splits that have no record yet."""

    plan: Planned
    recipe: Recipe
    encoded: Encoded
    evaluator: Evaluator
    missing: list[Split]


class SuiteRun:
    """One start of a suite. `data` takes the place of the suite's manifest."""

    def __init__(self, suite: Suite, folder: Path, work: Workplace, data: str | None = None) -> None:
        self.suite, self.folder, self.work, self.data = suite, folder, work, data
        self.encodings = Encodings(work)

    def __call__(self, only: Sequence[str] = ()) -> Outcome:
        """Run what is not yet done: all rows, or `only` these.

        Rows that another process works on are left to it, so that the command may be started once per core.
        """
        for name in only:
            if name not in self.suite.rows:
                raise CellfeatError(unknown("row", name, self.suite.rows))
        rows = self._planned([name for name in self.suite.rows if not only or name in only])
        self._make_folder()
        counts, elsewhere = Counter[str](), []
        with self.work.reporter.progress(sum(map(len, rows.values())), f"suite {self.suite.name}: fits") as bar:
            for name, row in rows.items():
                try:
                    with self._lock(f"row-{name}", timeout=0):
                        for state in self._row(name, row):
                            counts[state] += 1
                            bar.advance()
                except Timeout:
                    elsewhere.append(name)
                    bar.advance(len(row))
        return Outcome(counts["found"], counts["done"], counts["failed"], tuple(elsewhere))

    def _make_folder(self) -> None:
        locks = self.folder / LOCKS
        locks.mkdir(parents=True, exist_ok=True)
        (locks / ".gitignore").write_text("*\n")

    def _lock(self, name: str, timeout: float = -1) -> FileLock:
        return FileLock(self.folder / LOCKS / f"{name}.lock", timeout=timeout, mode=0o666)

    def _planned(self, names: Sequence[str]) -> dict[str, list[Planned]]:
        """The fits by row, resolved: what is wrong with a name, a parameter, the device or the data shows before any
        work, and is no failure of the rows."""
        rows: dict[str, list[Planned]] = {name: [] for name in names}
        context = self.work.context(0, "bench")
        for plan in planned(self.suite, self.data):
            if plan.row in rows:
                try:
                    recipe = resolve(plan.recipe, self.work.registry)
                    pipeline = Pipeline.build(recipe, self.work.registry, (), context)
                    if recipe.classifier is None and not pipeline.has_own_head:
                        raise CellfeatError("it names no classifier, and its last method has no head of its own")
                except CellfeatError as error:
                    raise CellfeatError(f"row {plan.row} of suite {self.suite.name}: {error}") from None
                rows[plan.row].append(plan._replace(recipe=recipe))
        for row in rows.values():
            for plan in row:
                self.encodings.dataset(plan.recipe)
        return rows

    def _row(self, name: str, row: Sequence[Planned]) -> Iterator[str]:
        """Do the fits of one row that are not done. Checkpoints go when all of it is recorded."""
        fits: Fits = OrderedDict()
        recorded, failed = read_records(self.folder), False
        settings = {"suite": self.suite.name, "row": name}
        for _, group in groupby(row, key=lambda plan: (plan.protocol, plan.seed)):
            for state in self._together(list(group), recorded, fits, settings):
                failed |= state == "failed"
                yield state
        if not failed:
            shutil.rmtree(self.work.context(0, "bench", settings).scratch, ignore_errors=True)

    def _together(
        self, group: Sequence[Planned], recorded: Sequence[Mapping[str, Any]], fits: Fits, settings: Any
    ) -> Iterator[str]:
        """Fits that differ in their classifier alone, source by source, so that they share each source's chains."""
        states = {plan.address: "found" for plan in group}
        tasks = []
        for plan in group:
            context = self.work.context(plan.seed, "bench", settings)
            try:
                tasks.append(self._task(plan, recorded, context, fits))
            except Exception as error:  # a failing row must not take the others' night away
                self._failed(plan, None, error)
                states[plan.address] = "failed"
        for source in dict.fromkeys(split.name for task in tasks for split in task.missing):
            for task in tasks:
                for split in (one for one in task.missing if one.name == source):
                    if states[task.plan.address] != "failed":
                        states[task.plan.address] = "done"
                    try:
                        self._write(task, task.evaluator.run(split, task.plan.seed))
                    except Exception as error:
                        self._failed(task.plan, source, error)
                        states[task.plan.address] = "failed"
        yield from states.values()

    def _task(self, plan: Planned, recorded: Sequence[Mapping[str, Any]], context: Context, fits: Fits) -> Task:
        recipe = prepared(plan.recipe, self.work, context)
        encoded = self.encodings.of(recipe, context)
        way = encoded.encoder.description
        known = {
            (record["source"], record["target"])
            for record in recorded
            if record["address"] == plan.address
            and record["recipe_digest"] == published(recipe).digest
            and record["dataset"]["digest"] == encoded.dataset.digest
            and record["backbone"]["weights_sha256"] == way["weights_sha256"]
            and record["encoding"]["precision"] == way["precision"]
        }
        evaluator = self.encodings.evaluator(recipe, encoded, context, fits)
        missing = [
            split
            for split in evaluator.splits(plan.seed)
            if not known.issuperset((split.name, target) for target in (split.name, *split.targets))
        ]
        if missing:
            check_enough(encoded.cells, recipe.protocol.folds)
            evaluator.kept_fits = max(evaluator.fits_of(split) for split in missing)
            with self._lock("cells"):
                answers.KnownCells(self.folder / CELLS).add(encoded.cells, encoded.dataset.classes)
        return Task(plan, recipe, encoded, evaluator, missing)

    def _write(self, task: Task, result: Result) -> None:
        """Predictions first, records last: a record that is there has its predictions."""
        plan, encoded, evaluator = task.plan, task.encoded, task.evaluator
        names = {"protocol": plan.protocol, "classifier": plan.classifier, "seed": plan.seed}
        classes = encoded.dataset.classes
        table = answers.table_of(
            result, encoded.cells, classes, {**names, "source": result.split.name}, self.suite.probabilities
        )
        place = f"{PREDICTIONS}/{plan.row}.parquet"
        answers.add(self.folder / place, table)
        pipeline = Pipeline.build(task.recipe, self.work.registry, classes, evaluator.context, encoded.encoder)
        about = {
            **describe(
                published(task.recipe), encoded.dataset, encoded.encoder, pipeline, evaluator.context, self.work
            ),
            "suite": self.suite.name,
            "row": plan.row,
            "protocol": plan.protocol,
            "classifier": plan.classifier,
            "address": plan.address,
            "predictions": {"file": place, "sha256": answers.digest_of(table)},
        }
        new = records.of(result, encoded.cells, classes, about)
        with self._lock("records"):
            records.append(self.folder / RECORDS, [with_id(record) for record in new])

    def _failed(self, plan: Planned, source: str | None, error: Exception) -> None:
        told = isinstance(error, CellfeatError)
        text = " ".join((str(error) if told else f"{type(error).__name__}: {error}").split())
        where = f"{plan.address} from {source}" if source else plan.address
        self.work.reporter.note(f"{where} failed and is passed over: {text}")
        frames = traceback.extract_tb(error.__traceback__)[-3:]
        line = {
            "address": plan.address,
            "source": source,
            "error": text,
            **({} if told else {"at": [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames]}),
            "recipe": published(plan.recipe).as_dict(),
            "versions": provenance.versions(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with self._lock("records"):
            records.append(self.folder / FAILURES, [line])
