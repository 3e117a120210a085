"""Which features a report maps, and which laboratories' cells are in each."""

from __future__ import annotations

import numpy as np
import pytest

from cellfeat import run_report
from cellfeat.observation_files import BEFORE, Observations, Sample
from cellfeat.run_report import RunFolder


@pytest.fixture
def quick(monkeypatch):
    """Maps by two components: what is tested is which cells are in them."""
    monkeypatch.setattr("cellfeat.feature_figures._places", lambda values, *_: values[:, :2].astype(float))


def observed(folder, after, align="per-domain-z"):
    """What is drawn of features of three laboratories, where pipelines have those of some: {source: laboratories}."""
    domain, rng = np.repeat(["a", "b", "c"], 12), np.random.default_rng(0)
    values = rng.normal(size=(36, 3)).astype(np.float32)
    ids = np.arange(36).astype(str)
    whole = Sample(ids, domain, np.full(36, "x"), ids, values)
    features = {BEFORE: whole} | {
        f"after {source}": Sample(*(column[np.isin(domain, names)] for column in whole))
        for source, names in after.items()
    }
    first = {"left_out": {}, "adapted_to": ["b"], "adapt": "test", "held_out_folds": False, "target": "b"}
    found = [{**first, "source": source, "recipe": {"align": [{"name": align}]}} for source in after]
    summary = {"seed": 0, "classes": ["x"], "features": {}, "adaptable": {"a": ["b", "hidden"]}}
    read = Observations(summary, features, {})
    return run_report._of_features(RunFolder(folder, found, [], read, None), "tsne", run_report._silent)


def test_before_and_after_alignment_are_of_the_same_cells(tmp_path, quick):
    numbers, *maps = observed(tmp_path, {"a": ["a", "b"], "b": ["a", "b"], "c": ["a", "b", "c"]})
    names = [
        "before alignment (a, b)",
        "after, pipeline of a",
        "after, pipeline of b",
        "before alignment (a, b, c)",
        "after, pipeline of c",
    ]
    assert [(row[0], row[1], row[2]) for row in numbers.numbers.rows] == [
        *((name, "24", "2") for name in names[:3]),
        *((name, "36", "3") for name in names[3:]),
    ]
    assert [one.title.replace("after alignment,", "after,") for one in maps] == [f"Features {name}" for name in names]
    assert [caption.count("before alignment, in the same cells") for caption in (one.caption for one in maps)] == [
        *(0, 1, 1, 0, 1)
    ]
    assert all(one.caption.count("chance 50.0 %") == 1 for one in maps[:3])
    assert "all cells of b, hidden without labels" in maps[1].caption


def test_where_nothing_is_aligned_there_is_one_kind_of_features(tmp_path, quick):
    numbers, only = observed(tmp_path, {"a": ["a", "b"], "b": ["a", "b", "c"]}, align="none")
    assert [row[0] for row in numbers.numbers.rows] == ["features"]
    assert (only.title, "align" in only.caption) == ("Features", False)
