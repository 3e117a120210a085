"""What runs show to the networks that adapt: permuting hidden target labels changes no prediction of any of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers import labelled_cells
from timm_helpers import SHORT

from cellfeat.evaluate import Evaluator
from cellfeat.pipeline import resolve
from cellfeat.recipe import parse
from cellfeat.registry import installed
from cellfeat.testing import cpu_context

CLASSES = ("x", "y", "z")
METHODS = {
    "dann": {**SHORT, "hidden": 8},
    "mcc": SHORT,
    "lead": {"epochs": 2, "source_epochs": 2, "batch_size": 8, "bottleneck": 8},
}


def predictions(cells, name, params, folder):
    recipe = parse(
        {
            "backbone": {"name": "colour"},
            "align": [{"name": name, **params}],
            "classifier": None,
            "protocol": {"folds": 2, "adapt": "test", "source": ["a"]},
        }
    )
    evaluator = Evaluator(resolve(recipe, installed()), installed(), cells, CLASSES, cpu_context(folder))
    (split,) = evaluator.splits(1)
    targets = evaluator.run(split, 1).targets
    return [part.proba for name in sorted(targets) for part in targets[name]]


@pytest.mark.parametrize("select", ["last", "source-val", "information-maximization"])
@pytest.mark.parametrize("name", METHODS)
def test_permuting_hidden_target_labels_changes_no_prediction(tmp_path, name, select):
    cells = labelled_cells(per_class=8, domains=("a", "b"))
    label = cells.label.copy()
    target = np.flatnonzero(cells.domain == "b")
    label[target] = np.random.default_rng(0).permutation(label[target])
    assert not np.array_equal(label, cells.label)
    params = {**METHODS[name], "select": select}
    first = predictions(cells, name, params, tmp_path / "first")
    second = predictions(replace(cells, label=label), name, params, tmp_path / "second")
    assert first
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
