"""The program that judges the project's own aligners: it measures rightly, in any order, and says what it cannot do."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from cellfeat import CellfeatError, Cells, Workplace

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def program(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("own_method")


def cells_of(counts: dict[str, tuple[int, ...]]) -> Cells:
    """Classes far apart in one place for all domains."""
    rng = np.random.default_rng(0)
    label = np.concatenate([np.repeat(np.arange(len(number)), number) for number in counts.values()])
    domain = np.repeat(list(counts), [sum(number) for number in counts.values()])
    pooled = (5 * np.eye(4)[label] + rng.normal(size=(len(label), 4))).astype(np.float32)
    return Cells.from_arrays(label, domain=domain, is_target=np.zeros(len(label), bool), pooled=pooled)


def test_a_whole_run_is_a_table_and_json_lines(program, monkeypatch, tmp_path, capsys):
    file = tmp_path / "found.jsonl"
    options = ["--labs", "2", "--cells", "40", "--backbone", "colour", "--pairs", "1", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["own_method.py", *options])
    with pytest.raises(SystemExit) as end:
        importlib.import_module("common").start(program.main)
    assert not end.value.code
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [record["align"] for record in records] == list(program.ALIGN)
    margins = {record["align"]: record["margin"] for record in records}
    assert margins["per-domain-z"] == 0
    assert "self-trained-lda" in capsys.readouterr().out


def test_cells_that_are_easily_told_score_all_or_what_the_classes_let(program):
    cells, work = cells_of({"a": (30, 30, 30), "b": (20, 20, 9)}), Workplace.on_terminal()
    assert program.judge("none", "lr", cells, "a", "b", work) > 97
    scrambled = np.where(cells.domain == "b", 1 - np.minimum(cells.label, 1), cells.label)
    wrong = Cells.from_arrays(scrambled, domain=cells.domain, is_target=cells.is_target, pooled=cells.pooled)
    assert program.judge("none", "lr", wrong, "a", "b", work) < 3


def test_pairs_have_something_to_learn_and_to_score(program):
    cells = cells_of({"a": (30, 30), "one-class": (20, 0), "few": (5, 5)})
    found = program.pairs_of(cells, 99, 0)
    assert found == [("a", "one-class"), ("few", "a"), ("few", "one-class")]
    assert len(program.pairs_of(cells, 2, 0)) == 2
    with pytest.raises(CellfeatError, match="no pair of domains: a source needs 2 classes"):
        program.pairs_of(cells_of({"a": (5, 5), "b": (4, 4)}), 9, 0)


def test_nuisance_moves_domains_apart_and_none_leaves_them(program):
    rng = np.random.default_rng(0)
    values, domain = rng.normal(size=(200, 30)), np.repeat(["a", "b"], 100)
    apart = [
        np.abs(np.diff([out[domain == name].mean(axis=0) for name in "ab"], axis=0)).mean()
        for out in (program.with_nuisance(values, domain, strength, 0) for strength in (0.0, 1.0))
    ]
    assert apart[0] < 0.2
    assert apart[1] > 0.6
