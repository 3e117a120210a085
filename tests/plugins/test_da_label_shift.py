"""Aligner `label-shift`: EM against priors worked out by hand and by another optimiser, and whom it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
from cellfeat_da.label_shift import LabelShift
from da_cells import cells_of
from helpers import labelled_cells
from scipy.optimize import minimize

from cellfeat import CellfeatError
from cellfeat.evaluate import Evaluator
from cellfeat.pipeline import resolve
from cellfeat.recipe import parse
from cellfeat.registry import installed
from cellfeat.testing import cpu_context


@pytest.fixture
def context(tmp_path):
    return cpu_context(tmp_path)


def fitted(counts, context, **params) -> LabelShift:
    """Fitted on so many source cells of each class."""
    label = np.repeat(np.arange(len(counts)), counts)
    return LabelShift(**params).fit(cells_of({"s": np.zeros((len(label), 2))}, (), label=label), context)


def blank(**counts: int):
    return cells_of({name: np.zeros((count, 2)) for name, count in counts.items()}, ())


def test_priors_worked_out_by_hand(context):
    """60 cells at (0.8, 0.2), 40 at (0.2, 0.8), even source: the likelihood 60 log(0.2 + 0.6 p) + 40 log(0.8 - 0.6 p)
    is greatest at p = 2/3, and then the first kind has 0.8 * 2/3 / (0.8 * 2/3 + 0.2 / 3) = 8/9."""
    proba = np.repeat([[0.8, 0.2], [0.2, 0.8]], [60, 40], axis=0)
    method = fitted((5, 5), context, tolerance=1e-12)
    method.fit_adjust(proba, blank(t=100), context)
    np.testing.assert_allclose(method.target_prior_["t"], [2 / 3, 1 / 3], atol=1e-9)
    np.testing.assert_allclose(method.adjust(proba, blank(t=100))[[0, 99]], [[8 / 9, 1 / 9], [1 / 3, 2 / 3]], atol=1e-9)


def test_priors_are_of_greatest_likelihood_domain_by_domain(context):
    rng = np.random.default_rng(0)
    proba = rng.dirichlet((0.5, 1.0, 0.7), size=120)
    method = fitted((10, 30, 60), context, tolerance=1e-10, iterations=20_000)
    method.fit_adjust(proba, blank(t=80, u=40), context)
    for name, rows in (("t", proba[:80]), ("u", proba[80:])):

        def loss(logits, rows=rows):
            prior = np.exp(logits - logits.max())
            return -np.log(rows / (0.1, 0.3, 0.6) @ (prior / prior.sum())).sum()

        best = minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-7}).x
        prior = np.exp(best - best.max())
        prior /= prior.sum()
        np.testing.assert_allclose(method.target_prior_[name], prior, atol=1e-4)
        weighted = rows * prior / (0.1, 0.3, 0.6)
        adjusted = method.adjust(rows, blank(**{name: len(rows)}))
        np.testing.assert_allclose(adjusted, weighted / weighted.sum(axis=1, keepdims=True), atol=1e-3)


def test_known_proportions_are_found_and_more_cells_are_told_right(context):
    """Classes at -1 and 1, unit variance: p(1 | x) under even proportions is the logistic of 2 x."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1], [3600, 400])
    x = rng.normal(2.0 * truth - 1)
    proba = np.stack([1 / (1 + np.exp(2 * x)), 1 / (1 + np.exp(-2 * x))], axis=1)
    method = fitted((50, 50), context)
    method.fit_adjust(proba, blank(t=4000), context)
    assert method.target_prior_["t"][1] == pytest.approx(0.1, abs=0.015)
    adjusted = method.adjust(proba, blank(t=4000))
    assert (adjusted.argmax(1) == truth).mean() > (proba.argmax(1) == truth).mean() + 0.05
    expected = 1 / (1 + 9 * np.exp(-2 * x))  # the odds times 1/9
    np.testing.assert_allclose(adjusted[:, 1], expected, atol=0.04)


def test_source_proportions_are_of_all_labels_seen_revealed_ones_of_targets_included(context):
    label = np.array([0, 0, 0, 1, -1, 1, 1, -1])
    cells = cells_of({"s": np.zeros((5, 2)), "t": np.zeros((3, 2))}, ("t",), label=label)
    np.testing.assert_allclose(LabelShift().fit(cells, context).source_prior_, [0.5, 0.5])


def test_every_row_is_answered_by_itself_and_features_stay(context):
    proba = np.random.default_rng(0).dirichlet((1, 1, 1), size=30)
    cells = cells_of({"t": np.random.default_rng(1).normal(size=(20, 2)), "u": np.zeros((10, 2))}, ())
    method = fitted((3, 4, 5), context)
    method.fit_adjust(proba, cells, context)
    together = method.adjust(proba, cells)
    alone = np.concatenate([method.adjust(proba[i : i + 1], cells[i : i + 1]) for i in range(30)])
    np.testing.assert_allclose(alone, together, rtol=1e-12)
    np.testing.assert_allclose(together.sum(axis=1), 1)
    np.testing.assert_array_equal(method.transform(cells, context), cells.pooled)


def test_who_was_not_adapted_to_keeps_its_probabilities(context):
    proba = np.array([[0.7, 0.3]] * 4)
    method = fitted((5, 5), context)
    np.testing.assert_array_equal(method.adjust(proba, blank(t=4)), proba)
    method.fit_adjust(proba, blank(t=4), context)
    assert method.adjust(proba, blank(t=4))[0, 0] > 0.9
    np.testing.assert_array_equal(method.adjust(proba, blank(s=4)), proba)
    method.fit_adjust(proba, blank(u=4), context)  # another target: what was learned of the first is gone
    np.testing.assert_array_equal(method.adjust(proba, blank(t=4)), proba)
    method.fit_adjust(proba, blank(t=4), context)
    method.fit(cells_of({"s": np.zeros((2, 2))}, (), label=np.array([0, 1])), context)
    np.testing.assert_array_equal(method.adjust(proba, blank(t=4)), proba)


def test_a_cell_whose_classes_all_have_no_prior_keeps_its_probabilities(context):
    method = fitted((5, 5), context)
    method.fit_adjust(np.array([[1.0, 0.0]] * 3), blank(t=3), context)
    np.testing.assert_array_equal(method.target_prior_["t"], [1, 0])
    new = np.array([[0.0, 1.0], [0.4, 0.6]])
    np.testing.assert_array_equal(method.adjust(new, blank(t=2)), [[0, 1], [1, 0]])


def test_saving_keeps_what_was_learned(context, tmp_path):
    proba = np.random.default_rng(0).dirichlet((1, 2), size=9)
    method = fitted((5, 9), context, iterations=500)
    method.fit_adjust(proba, cells_of({"lab/2 µ": np.zeros((9, 2))}, ()), context)
    (tmp_path / "saved").mkdir()
    method.save(tmp_path / "saved")
    loaded = LabelShift.load(tmp_path / "saved")
    cells = cells_of({"lab/2 µ": np.zeros((9, 2))}, ())
    np.testing.assert_array_equal(loaded.adjust(proba, cells), method.adjust(proba, cells))
    assert np.abs(loaded.adjust(proba, cells) - proba).max() > 0.01
    assert loaded.iterations == 500


@pytest.mark.parametrize("align", [["label-shift"], ["per-domain-z", "label-shift"]])
@pytest.mark.parametrize("adapt", ["none", "test", "heldout"])
def test_a_run_corrects_targets_alone_and_only_where_it_adapts(align, adapt, context):
    """The target has a tenth of the source's share of class 0; overlapping classes leave something to correct."""
    cells = labelled_cells(per_class=40)
    rng = np.random.default_rng(0)
    cells = cells.with_column("pooled", (cells.pooled + 2.5 * rng.normal(size=cells.pooled.shape)).astype(np.float32))
    rare = np.flatnonzero((cells.domain == "b") & (cells.label == 0))[4:]
    cells = cells[np.setdiff1d(np.arange(len(cells)), rare)]
    answers = {}
    for chain in (align[:-1] or ["none"], align):
        recipe = parse(
            {
                "backbone": {"name": "colour"},
                "align": [{"name": name} for name in chain],
                "classifier": {"name": "lr"},
                "protocol": {"folds": 3, "source": ["a"], "adapt": adapt},
            }
        )
        evaluator = Evaluator(resolve(recipe, installed()), installed(), cells, ("x", "y", "z"), context)
        (split,) = evaluator.splits(1)
        if adapt == "none" and "per-domain-z" in chain:
            return  # cannot place the target at all
        answers[chain is align] = evaluator.run(split, 1)
    plain, corrected = answers[False], answers[True]
    for before, after in zip(plain.inside, corrected.inside, strict=True):
        np.testing.assert_allclose(after.proba, before.proba, atol=1e-4)
    share = [np.mean([p.proba[:, 0].mean() for p in answer.targets["b"]]) for answer in (plain, corrected)]
    if adapt == "none":
        assert share[1] == pytest.approx(share[0])
    else:
        assert share[1] < share[0] - 0.02


def test_what_cannot_be_done_is_said(context):
    with pytest.raises(CellfeatError, match="'label-shift' needs labelled cells for the classes' proportions and got"):
        LabelShift().fit(blank(s=3), context)
    with pytest.raises(CellfeatError, match="'label-shift': iterations must be at least 1, got 0"):
        LabelShift(iterations=0)
    with pytest.raises(CellfeatError, match="'label-shift': tolerance must be above 0, got 0"):
        LabelShift(tolerance=0)
    method = fitted((5, 5), context, iterations=1)
    method.fit_adjust(np.array([[0.8, 0.2]] * 3), blank(t=3), context)
    assert "label-shift: the class proportions of 't' still changed after 1 iterations" in context.reporter.notes
