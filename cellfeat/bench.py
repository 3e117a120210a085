"""A suite run: recipe x protocol x seed, one fit after the other, into a folder that another start goes on with.

records.jsonl  a line per fit and target; failures.jsonl  a line per fit that ended in an error;
predictions/   a table per row; cells.parquet  the cells they are about.
"""

from __future__ import annotations

import hashlib
import json
import traceback
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cellfeat import answers, provenance, records
from cellfeat.datasets import Dataset
from cellfeat.errors import CellfeatError, unknown
from cellfeat.evaluate import Evaluator, Fits, Result, check_enough
from cellfeat.extract import Encoder
from cellfeat.pipeline import Pipeline, columns_read, resolve
from cellfeat.recipe import Recipe
from cellfeat.run import describe, finetuned, prepared
from cellfeat.slots import Context
from cellfeat.splits import Split
from cellfeat.suite import OWN_HEAD, Fit, Suite, fits
from cellfeat.types import Cells
from cellfeat.workplace import Workplace, load_dataset, make_encoder

RECORDS, FAILURES, PREDICTIONS, CELLS = "records.jsonl", "failures.jsonl", "predictions", "cells.parquet"
KEPT_FITS = 12  # chains at hand for the next classifier: those of all folds and targets of a source


@dataclass(frozen=True)
class Outcome:
    """How many fits a start found done, did, and could not do."""

    found: int = 0
    done: int = 0
    failed: int = 0
    elsewhere: tuple[str, ...] = ()  # rows that another process is at


@dataclass
class Encoded:
    """What several rows share: the data, what encodes them, and the cells with the columns asked for so far."""

    dataset: Dataset
    encoder: Encoder
    cells: Cells
    columns: frozenset[str]


@dataclass
class SuiteRun:
    """One start of a suite. `data` takes the place of the suite's manifest."""

    suite: Suite
    folder: Path
    work: Workplace
    data: str | None = None
    _encoded: dict[str, Encoded] = field(default_factory=dict)
    _datasets: dict[str, Dataset] = field(default_factory=dict)

    def __call__(self, only: Sequence[str] = ()) -> Outcome:
        """Run what is not yet done: all rows, or `only` these.

        Rows that another process works on are left to it, so that the command may be started once per core.
        """
        for name in only:
            if name not in self.suite.rows:
                raise CellfeatError(unknown("row", name, self.suite.rows))
        planned = self._planned([name for name in self.suite.rows if not only or name in only])
        self._check(planned)
        (self.folder / "locks").mkdir(parents=True, exist_ok=True)
        counts, elsewhere = Counter[str](), []
        with self.work.reporter.progress(sum(map(len, planned.values())), f"suite {self.suite.name}: fits") as bar:
            for name, row in planned.items():
                try:
                    with FileLock(self.folder / "locks" / f"{name}.lock", timeout=0, mode=0o666):
                        for state in self._row(row):
                            counts[state] += 1
                            bar.advance()
                except Timeout:
                    elsewhere.append(name)
                    bar.advance(len(row))
        return Outcome(counts["found"], counts["done"], counts["failed"], tuple(elsewhere))

    def _planned(self, names: Sequence[str]) -> dict[str, list[Fit]]:
        """The fits by row, resolved: a name or parameter that is wrong shows before any work."""
        planned: dict[str, list[Fit]] = {name: [] for name in names}
        for fit in fits(self.suite, self.data):
            if fit.row in planned:
                try:
                    recipe = resolve(fit.recipe, self.work.registry)
                except CellfeatError as error:
                    raise CellfeatError(f"row {fit.row} of suite {self.suite.name}: {error}") from None
                planned[fit.row].append(Fit(fit.row, fit.protocol, fit.classifier, fit.seed, recipe))
        return planned

    def _check(self, planned: Mapping[str, Sequence[Fit]]) -> None:
        """A mistake in the device or the data is no failure of the rows: it is told before any."""
        self.work.context(0, "bench")
        for row in planned.values():
            for fit in row:
                self._dataset(fit.recipe)

    def _row(self, row: Sequence[Fit]) -> Iterator[str]:
        """Do the fits of one row that are not done; chains are shared by the classifiers that follow each other."""
        shared: Fits = OrderedDict()
        evaluators: list[Evaluator] = []
        recorded = read_records(self.folder)
        for fit in row:
            try:
                yield self._fit(fit, recorded, shared, evaluators)
            except Exception as error:  # a failing row must not take the others' night away
                self._failed(fit, error)
                yield "failed"
        for evaluator in evaluators:
            evaluator.clear_scratch()

    def _fit(self, fit: Fit, recorded: Sequence[Mapping[str, Any]], shared: Fits, evaluators: list[Evaluator]) -> str:
        context = self.work.context(fit.seed, "bench")
        recipe = prepared(fit.recipe, self.work, context)
        if fit.classifier == OWN_HEAD and recipe.classifier is not None:
            raise CellfeatError("no classifier is named, and the methods have no head of their own: name classifiers")
        encoded = self._encode(recipe, context)
        known = {
            (record["source"], record["target"])
            for record in recorded
            if record["address"] == fit.address
            and record["recipe_digest"] == recipe.digest
            and record["dataset"]["digest"] == encoded.dataset.digest
        }
        evaluator = self._evaluator(recipe, encoded, context, shared)
        missing = [
            split
            for split in evaluator.splits(fit.seed)
            if not known.issuperset((split.name, target) for target in (split.name, *split.targets))
        ]
        if not missing:
            return "found"
        evaluators.append(evaluator)
        check_enough(encoded.cells, recipe.protocol.folds)
        answers.KnownCells(self.folder / CELLS).add(encoded.cells, encoded.dataset.classes)
        for split in missing:
            with provenance.peak_memory(context.device) as peak:
                result = evaluator.run(split, fit.seed)
            self._write(fit, recipe, encoded, result, peak, context)
        return "done"

    def _dataset(self, recipe: Recipe) -> tuple[str, Dataset]:
        """The data of a recipe, loaded once, and what tells them from others."""
        section = json.dumps(recipe.dataset.model_dump(mode="json"), sort_keys=True)
        if section not in self._datasets:
            self._datasets[section] = load_dataset(recipe.dataset, self.work)
        return section, self._datasets[section]

    def _encode(self, recipe: Recipe, context: Context) -> Encoded:
        """The data, encoded as the recipe says, from what earlier rows have left where they agree."""
        section, dataset = self._dataset(recipe)
        fitted = finetuned(recipe, dataset, self.work)
        parts = [part and part.model_dump(mode="json") for part in (fitted.backbone, fitted.segmenter)]
        key = json.dumps([section, parts], sort_keys=True)
        wanted = frozenset(columns_read(Pipeline.build(fitted, self.work.registry, (), context).aligners))
        found = self._encoded.get(key)
        if found is None or not wanted <= found.columns:
            encoder = found.encoder if found else make_encoder(fitted, self.work, context)
            columns = wanted | (found.columns if found else frozenset())
            found = Encoded(dataset, encoder, encoder.encode(dataset, sorted(columns)), columns)
            self._encoded[key] = found
        return found

    def _evaluator(self, recipe: Recipe, encoded: Encoded, context: Context, shared: Fits) -> Evaluator:
        identity = f"{encoded.dataset.digest}|{encoded.encoder.description}"
        return Evaluator(
            recipe,
            self.work.registry,
            encoded.cells,
            encoded.dataset.classes,
            context,
            encoded.encoder,
            identity,
            fits=shared,
            kept_fits=KEPT_FITS,
        )

    def evaluator_of(self, recipe: Recipe, seed: int) -> tuple[Evaluator, Dataset]:
        """An evaluator of one recipe on its encoded data."""
        context = self.work.context(seed, "bench")
        recipe = prepared(resolve(recipe, self.work.registry), self.work, context)
        encoded = self._encode(recipe, context)
        return self._evaluator(recipe, encoded, context, OrderedDict()), encoded.dataset

    def _write(
        self, fit: Fit, recipe: Recipe, encoded: Encoded, result: Result, peak: provenance.Peak, context: Context
    ) -> None:
        """Predictions first, records last: a record that is there has its predictions."""
        names = {"protocol": fit.protocol, "classifier": fit.classifier, "seed": fit.seed, "source": result.split.name}
        table = answers.table_of(result, encoded.cells, encoded.dataset.classes, names, self.suite.probabilities)
        place = f"{PREDICTIONS}/{fit.row}.parquet"
        answers.add(self.folder / place, table)
        pipeline = Pipeline.build(recipe, self.work.registry, encoded.dataset.classes, context, encoded.encoder)
        about = {
            **describe(published(recipe), encoded.dataset, encoded.encoder, pipeline, context, self.work),
            "suite": self.suite.name,
            "row": fit.row,
            "protocol": fit.protocol,
            "classifier": fit.classifier,
            "address": fit.address,
            "predictions": {"file": place, "sha256": answers.digest_of(table)},
            "peak_memory_mb": peak.memory and round(peak.memory),
            **({"peak_gpu_memory_mb": round(peak.gpu)} if peak.gpu is not None else {}),
        }
        new = records.of(result, encoded.cells, encoded.dataset.classes, about)
        with FileLock(self.folder / "locks" / "records.lock", mode=0o666):
            records.append(self.folder / RECORDS, [with_id(record) for record in new])

    def _failed(self, fit: Fit, error: Exception) -> None:
        told = isinstance(error, CellfeatError)
        text = " ".join((str(error) if told else f"{type(error).__name__}: {error}").split())
        self.work.reporter.note(f"{fit.address} failed and is passed over: {text}")
        line = {
            "address": fit.address,
            "error": text,
            **({} if told else {"traceback": traceback.format_exc(limit=-3)}),
            "recipe": published(fit.recipe).as_dict(),
            "versions": provenance.versions(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with FileLock(self.folder / "locks" / "records.lock", mode=0o666):
            records.append(self.folder / FAILURES, [line])


def published(recipe: Recipe) -> Recipe:
    """The recipe with the manifest by its file name alone: where a machine keeps its data is nobody's business."""
    manifest = Path(recipe.dataset.manifest.partition("?")[0]).name
    return recipe.model_copy(update={"dataset": recipe.dataset.model_copy(update={"manifest": manifest})})


def with_id(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with `id`: the beginning of the SHA-256 of all else that it says."""
    return {"id": id_of(record), **{key: value for key, value in record.items() if key != "id"}}


def id_of(record: Mapping[str, Any]) -> str:
    content = {key: value for key, value in record.items() if key != "id"}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The newest record of every fit and target in a results folder; none where there is no such file yet."""
    path = folder / RECORDS
    newest: dict[tuple[str, str, str], dict[str, Any]] = {}
    for record in records.read(path) if path.is_file() else []:
        newest[record["address"], record["source"], record["target"]] = record
    return list(newest.values())


def read_failures(folder: Path) -> list[dict[str, Any]]:
    """The fits that ended in an error and have no record."""
    path = folder / FAILURES
    done = {record["address"] for record in read_records(folder)}
    lines = records.read_lines(path) if path.is_file() else []
    failed = {line["address"]: line for _, line in lines}
    return [line for address, line in failed.items() if address not in done]


def split_of(evaluator: Evaluator, seed: int, source: str) -> Split:
    """The split of a recorded source."""
    for split in evaluator.splits(seed):
        if split.name == source:
            return split
    raise CellfeatError(f"these data have no source {source!r} any more")
