"""Scores against scikit-learn, intervals against a plain bootstrap, overlap of masks by hand."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score

from cellfeat import metrics
from cellfeat.metrics import confusion, dice, evaluate, intersection_over_union, majority, scored_classes, scores_of


def drawn(sizes=(40, 25, 12), n_classes: int = 3, models: int = 1, right: float = 0.7, seed: int = 0):
    """Labels with these class sizes, and predictions that are right with a probability."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    wrong = rng.integers(0, n_classes, size=(models, len(labels)))
    return labels, np.where(rng.random((models, len(labels))) < right, labels, wrong)


def test_confusion_is_scikit_learns():
    labels, [predictions] = drawn()
    np.testing.assert_array_equal(confusion(labels, predictions, 3), confusion_matrix(labels, predictions))
    assert confusion(labels, predictions, 5).shape == (5, 5)


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_scikit_learns_when_every_class_is_scored(seed):
    labels, predictions = drawn(models=2, seed=seed)
    scored = evaluate(labels, predictions, 3, replicates=10)
    assert scored.classes == [0, 1, 2]
    for name, theirs in {
        "accuracy": accuracy_score,
        "balanced_accuracy": balanced_accuracy_score,
        "macro_f1": lambda true, predicted: f1_score(true, predicted, average="macro"),
    }.items():
        values = [theirs(labels, row) for row in predictions]
        assert scored.models[name] == pytest.approx(values)
        assert scored.mean[name] == pytest.approx(np.mean(values))
        assert scored.std[name] == pytest.approx(np.std(values))  # ddof 0, as published


def test_classes_with_fewer_than_ten_cells_are_not_averaged_over_but_count_as_errors():
    labels, [predictions] = drawn((30, 10, 9), right=0.6)
    assert scored_classes(labels, 4).tolist() == [0, 1]
    scored = evaluate(labels, predictions, 4, replicates=10)
    assert scored.classes == [0, 1]
    recalls = [np.mean(predictions[labels == c] == c) for c in (0, 1)]
    assert scored.mean["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    both = f1_score(labels, predictions, labels=[0, 1], average="macro")  # false positives from class 2 included
    assert scored.mean["macro_f1"] == pytest.approx(both)
    assert scored.mean["accuracy"] == pytest.approx(np.mean(labels == predictions))


def test_a_prediction_of_a_class_that_the_target_lacks_is_an_error():
    labels = np.repeat([0, 1], 10)
    predictions = labels.copy()
    predictions[:5] = 3
    scored = evaluate(labels, predictions, 4, replicates=10)
    assert scored.mean["accuracy"] == 0.75
    assert scored.mean["balanced_accuracy"] == pytest.approx((0.5 + 1) / 2)
    assert scored.classes == [0, 1]


def test_scores_of_many_matrices_are_those_of_each():
    labels, predictions = drawn(models=4)
    matrices = np.stack([confusion(labels, row, 3) for row in predictions]).reshape(2, 2, 3, 3)
    together = scores_of(matrices, np.arange(3))
    for i, j in np.ndindex(2, 2):
        alone = scores_of(matrices[i, j], np.arange(3))
        for name in metrics.SCORES:
            assert together[name][i, j] == alone[name]


def plain_bootstrap(labels, predictions, n_classes, replicates, seed):
    """Draw cells with replacement within each class, score by the mean over models; again and again."""
    rng = np.random.default_rng(seed)
    classes = scored_classes(labels, n_classes)
    members = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    values = {name: [] for name in metrics.SCORES}
    for _ in range(replicates):
        rows = np.concatenate([rng.choice(m, len(m)) for m in members])
        per_model = [scores_of(confusion(labels[rows], p[rows], n_classes), classes) for p in predictions]
        for name in metrics.SCORES:
            values[name].append(np.mean([one[name] for one in per_model]))
    return {name: np.quantile(v, [0.025, 0.975]) for name, v in values.items()}


def test_the_interval_is_that_of_a_plain_bootstrap_within_class():
    labels, predictions = drawn(models=2, right=0.6)
    predictions[1] = np.where(np.random.default_rng(5).random(len(labels)) < 0.7, predictions[0], predictions[1])
    scored = evaluate(labels, predictions, 3, replicates=4000)
    plain = plain_bootstrap(labels, predictions, 3, 4000, seed=9)
    for name in metrics.SCORES:
        width = plain[name][1] - plain[name][0]
        assert scored.low[name] == pytest.approx(plain[name][0], abs=0.05 * width)
        assert scored.high[name] == pytest.approx(plain[name][1], abs=0.05 * width)


def test_the_interval_depends_on_the_seed_alone_and_holds_the_mean():
    labels, predictions = drawn(models=3)
    one, same, other = (evaluate(labels, predictions, 3, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one.low != other.low
    for name in metrics.SCORES:
        assert one.low[name] < one.mean[name] < one.high[name]


def test_perfect_answers_have_no_interval():
    labels = np.repeat([0, 1], 12)
    scored = evaluate(labels, labels, 2, replicates=20)
    for name in metrics.SCORES:
        assert (scored.low[name], scored.mean[name], scored.high[name]) == (1, 1, 1)
    assert scored.confusion == [[12, 0], [0, 12]]


@pytest.mark.parametrize("sizes", [(9, 3), (0, 0)])
def test_what_cannot_be_computed_is_null_in_a_record(sizes):
    labels, predictions = drawn(sizes, n_classes=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record = json.loads(json.dumps(evaluate(labels, predictions, 2, replicates=10).record(), allow_nan=False))
    assert record["macro_f1"] == {"mean": None, "std": None, "low": None, "high": None, "models": [None]}
    assert (record["accuracy"]["mean"] is None) == (sum(sizes) == 0)
    assert set(record) == set(metrics.SCORES)


def test_majority_is_the_score_of_always_answering_the_commonest_class():
    labels, _ = drawn((30, 20, 5))
    scores = majority(labels, 4)
    assert scores["accuracy"] == pytest.approx(30 / 55)
    assert scores["balanced_accuracy"] == 0.5  # of the two classes that are scored
    assert scores["macro_f1"] == pytest.approx(2 * 30 / (30 + 55) / 2)


def test_overlap_of_masks():
    one, two = np.zeros((3, 4, 4), bool), np.zeros((3, 4, 4), bool)
    one[0, :2], two[0, 1:3] = True, True  # 8 and 8 pixels, 4 shared
    two[1, 0, 0] = True  # nothing found
    np.testing.assert_allclose(intersection_over_union(one, two), [4 / 12, 0, 1])
    np.testing.assert_allclose(dice(one, two), [2 * 4 / 16, 0, 1])
    np.testing.assert_allclose(dice(two, one), dice(one, two))
