"""Suites and results that are published with the repository: suites can be run, records hold against their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cellfeat.console import SilentReporter
from cellfeat.pipeline import Pipeline, resolve
from cellfeat.recipe import parse
from cellfeat.registry import installed
from cellfeat.results_folder import id_of, read_failures, read_records
from cellfeat.suite import planned, read_suite
from cellfeat.verification import check_content
from cellfeat.workplace import Workplace

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
SUITES = sorted((BENCHMARKS / "suites").glob("*.yaml"))
RESULTS = sorted(path.parent for path in (BENCHMARKS / "results").glob("*/records.jsonl"))


def test_there_are_some():
    assert SUITES
    assert {folder.name for folder in RESULTS} <= {path.stem for path in SUITES}
    assert RESULTS


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_every_fit_of_a_suite_can_be_built(path, context):
    suite = read_suite(path)
    assert suite.name == path.stem
    for plan in planned(suite, "cells.csv"):
        Pipeline.build(resolve(plan.recipe, installed()), installed(), (), context)


@pytest.mark.parametrize("folder", RESULTS, ids=lambda path: path.name)
def test_records_are_of_the_suite_and_say_nothing_of_the_machines_folders(folder):
    suite = read_suite(BENCHMARKS / "suites" / f"{folder.name}.yaml")
    work = Workplace(installed(), SilentReporter(), "cpu")
    wanted = {plan.address: resolve(plan.recipe, work.registry).as_dict() for plan in planned(suite, "manifest.csv")}
    records = read_records(folder)
    assert all(id_of(record) == record["id"] for record in records)
    assert {record["recipe"]["dataset"]["manifest"] for record in records} == {"manifest.csv"}
    for record in {record["address"]: record for record in records}.values():
        recipe = wanted[record["address"]]
        # Completed with today's defaults: a parameter that was added since did not change the method.
        written = resolve(parse(record["recipe"]), work.registry).as_dict()
        assert written["align"] == recipe["align"], record["address"]
        assert written["protocol"] == recipe["protocol"], record["address"]
    assert '"/' not in (folder / "records.jsonl").read_text(encoding="utf-8")
    assert read_failures(folder) == []


@pytest.mark.parametrize("folder", RESULTS, ids=lambda path: path.name)
def test_a_sample_of_records_follows_from_its_predictions(folder):
    records = read_records(folder)
    for place in np.random.default_rng(6).permutation(len(records))[:12]:
        assert check_content(records[place], folder) == []
