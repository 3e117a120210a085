"""Every shipped alignment method, in a run of every kind: hidden target labels change no prediction."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import narrow_autoencoders

from cellfeat.evaluate import Evaluator
from cellfeat.pipeline import resolve
from cellfeat.recipe import parse
from cellfeat.registry import installed
from cellfeat.testing import toy_cells
from cellfeat.types import ArrayColumn

NETWORK = {"model": "test_resnet", "weights": "random", "image_size": 32, "batch_size": 4}
ADAPTED = {**NETWORK, "epochs": 1, "inputs": "images"}
SMALL = {
    "cae": {"epochs": 1, "batch_size": 16, "encoder_depth": 1, "decoder_depth": 1, "head_width": 8, "heads": 1},
    "bc-sam-ae": {"epochs": 1, "batch_size": 6, "training_cells": 2, "anchor": "elsewhere"},
    "ae-cfe": {"epochs": 1, "batch_size": 6, "training_cells": 2},
    "source-only": {**NETWORK, "epochs": 1},
    "dann": {**ADAPTED, "iterations_per_epoch": 2, "hidden": 8, "bottleneck": 8},
    "mcc": {**ADAPTED, "iterations_per_epoch": 2, "bottleneck": 8},
    "lead": {**ADAPTED, "source_epochs": 1, "bottleneck": 8},
    "tca": {"components": 3},
    "subspace": {"components": 3},
}
NAMES = sorted({offer.name for offer in installed().offers if offer.slot == "align"})


@pytest.fixture(scope="module")
def cells():
    """Toy cells of three laboratories with every column, every label known."""
    found = toy_cells(per_class=6, channels=8, grid=4)
    label = np.tile(np.repeat(np.arange(3), 6), 3)
    return replace(found.with_target([]), label=label)


@pytest.fixture(scope="module", autouse=True)
def narrow():
    """Two of the autoencoders have one size, which the parameters do not tell."""
    with narrow_autoencoders():
        yield


def mean_colours(image, columns, folder):
    """Stands for a backbone behind a method that paints images."""
    pixels = image.read(np.arange(image.shape[0])).reshape(image.shape[0], 3, -1).astype(np.float32)
    return {"pooled": ArrayColumn(np.concatenate([pixels.mean(2), pixels.std(2)], axis=1))}


def predictions(cells, context, align, **protocol):
    """{(target, fold): probabilities} with the source lab-a."""
    content = {
        "align": {"name": align, **SMALL.get(align, {})},
        "classifier": {"name": "lr"},
        "protocol": {"folds": 3, "fitted_folds": 1, "source": [cells.domain[0]], **protocol},
    }
    encoder = SimpleNamespace(encode_images=mean_colours, backbone=None)
    recipe = resolve(parse(content), installed())
    evaluator = Evaluator(recipe, installed(), cells, ("x", "y", "z"), context, encoder)
    (split,) = evaluator.splits(1)
    result = evaluator.run(split, 1)
    found = {(target, one.fold): one.proba for target, all_ in result.targets.items() for one in all_}
    assert len(found) == 2
    assert np.ptp(result.inside[0].proba, axis=0).max() > 0, "all cells are answered alike"
    return found, split


@pytest.mark.parametrize("name", NAMES)
def test_permuting_hidden_target_labels_changes_no_prediction(name, cells, context, tmp_path):
    target = np.flatnonzero(cells.domain != cells.domain[0])
    label = cells.label.copy()
    label[target] = (label[target] + np.random.default_rng(0).integers(1, 3, len(target))) % 3
    other = replace(context, scratch=tmp_path / "other")  # or a checkpoint of the first would answer for the second
    other.scratch.mkdir()
    before, _ = predictions(cells, context, name)
    after, _ = predictions(replace(cells, label=label), other, name)
    for key, proba in before.items():
        np.testing.assert_array_equal(proba, after[key])


def test_the_labels_that_a_few_shot_protocol_gives_do_change_them(cells, context, tmp_path):
    shown = {"name": "few-shot", "shots": 2, "adapt": "none"}
    before, split = predictions(cells, context, "none", **shown)
    label = cells.label.copy()
    rows = np.concatenate(list(split.shown.values()))
    label[rows] = (label[rows] + 1) % 3
    evaluator = Evaluator(
        resolve(parse({"align": {"name": "none"}, "classifier": {"name": "lr"}}), installed()),
        installed(),
        replace(cells, label=label),
        ("x", "y", "z"),
        replace(context, scratch=tmp_path),
    )
    changed = evaluator.run(split, 1)
    assert any((changed.targets[target][0].proba != proba).any() for (target, _), proba in before.items())
