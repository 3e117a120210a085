"""Aligner `importance`: the ratio of densities, the odds of a classifier, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from cellfeat_da.importance import ImportanceWeighting
from da_cells import cells_of, drawn
from helpers import labelled_cells
from sklearn.linear_model import LogisticRegression

from cellfeat import CellfeatError
from cellfeat.evaluate import Evaluator
from cellfeat.pipeline import resolve
from cellfeat.recipe import parse
from cellfeat.registry import installed
from cellfeat.testing import cpu_context


@pytest.fixture
def context(tmp_path):
    return cpu_context(tmp_path)


def test_weights_are_the_ratio_of_two_gaussians(context):
    """Equal covariances: the log ratio is linear, m_t S^-1 x + constant, and the classifier can have it right."""
    rng = np.random.default_rng(0)
    spread = np.array([[1.0, 0.4], [0.4, 2.0]])
    means = np.array([0.0, 0.0]), np.array([0.8, -0.5])
    data = {name: rng.multivariate_normal(mean, spread, 20_000) for name, mean in zip(("s", "t"), means, strict=True)}
    cells = cells_of(data, ("t",))
    method = ImportanceWeighting(l2=1e-6, quantile=1).fit(cells, context)
    source = data["s"]
    inverse = np.linalg.inv(spread)
    truth = np.exp(source @ inverse @ means[1] - means[1] @ inverse @ means[1] / 2)
    weight = method.sample_weight(cells[:20_000])
    np.testing.assert_allclose(np.log(weight), np.log(truth), atol=0.25)
    assert np.abs(weight / truth - 1).mean() < 0.03
    np.testing.assert_allclose(np.average(source, axis=0, weights=weight), means[1], atol=0.05)


def test_weights_are_the_clipped_odds_of_a_regularised_classifier(context):
    data = drawn({"s1": 60, "s2": 30, "t1": 50, "t2": 20})
    cells = cells_of(data, ("t1", "t2"))
    weight = ImportanceWeighting(l2=0.05, quantile=0.8).fit(cells, context).sample_weight(cells[:90])
    rows = np.concatenate(list(data.values()))
    standard = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    proba = LogisticRegression(C=1 / (0.05 * 160)).fit(standard, np.arange(160) >= 90).predict_proba(standard[:90])
    odds = proba[:, 1] / proba[:, 0]
    clipped = np.minimum(odds, np.exp(np.quantile(np.log(odds), 0.8)))
    np.testing.assert_allclose(weight, clipped / clipped.mean(), rtol=1e-3)
    assert weight.mean() == pytest.approx(1)
    assert (weight == weight.max()).sum() == 18  # a fifth of 90


def test_features_stay_and_target_cells_weigh_one(context):
    cells = cells_of(drawn({"s": 30, "t": 20}), ("t",), label=np.arange(50) % 2)
    method = ImportanceWeighting().fit(cells, context)
    np.testing.assert_array_equal(method.transform(cells, context), cells.pooled)
    np.testing.assert_array_equal(method.sample_weight(cells)[30:], 1)
    assert method.sample_weight(cells)[:30].std() > 0.1


def test_without_targets_all_weigh_one(context):
    cells = cells_of(drawn({"s": 30, "u": 20}), ())
    np.testing.assert_array_equal(ImportanceWeighting().fit(cells, context).sample_weight(cells), 1)


def test_laboratories_that_are_told_apart_at_a_glance_lose_no_cell(context):
    data = drawn({"s": 30, "t": 20})
    data["t"][:, 0] += 1e4
    data["s"][:, 1] = 0  # constant where the other varies
    method = ImportanceWeighting(l2=1e-9, quantile=1).fit(cells_of(data, ("t",)), context)
    weight = method.sample_weight(cells_of(data, ("t",))[:30])
    assert np.isfinite(weight).all()
    assert weight.min() >= 1e-6
    assert weight.mean() == pytest.approx(1, rel=1e-3)


def test_saved_weights_are_the_same(context, tmp_path):
    cells = cells_of(drawn({"s": 30, "t": 20}), ("t",))
    method = ImportanceWeighting(quantile=0.7).fit(cells, context)
    (tmp_path / "saved").mkdir()
    method.save(tmp_path / "saved")
    loaded = ImportanceWeighting.load(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.sample_weight(cells), method.sample_weight(cells))


def test_a_run_hands_the_weights_to_the_classifier(context):
    cells, answers = labelled_cells(), {}
    for align in ("none", "importance"):
        recipe = parse(
            {
                "backbone": {"name": "colour"},
                "align": [{"name": align}],
                "classifier": {"name": "lr"},
                "protocol": {"folds": 3, "source": ["a"]},
            }
        )
        evaluator = Evaluator(resolve(recipe, installed()), installed(), cells, ("x", "y", "z"), context)
        (split,) = evaluator.splits(1)
        answers[align] = evaluator.run(split, 1).targets["b"][0].proba
    assert np.abs(answers["none"] - answers["importance"]).max() > 1e-3


def test_what_means_nothing_is_refused(context):
    with pytest.raises(CellfeatError, match="align 'importance' got no source cells to fit on"):
        ImportanceWeighting().fit(cells_of(drawn({"t": 9}), ("t",)), context)
    with pytest.raises(CellfeatError, match="align 'importance': l2 must be above 0, got 0"):
        ImportanceWeighting(l2=0)
    with pytest.raises(CellfeatError, match="align 'importance': quantile must be above 0 and at most 1, got 2"):
        ImportanceWeighting(quantile=2)
