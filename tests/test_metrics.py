"""Scores against scikit-learn, intervals against a plain bootstrap, overlap of masks by hand."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    log_loss,
    recall_score,
)

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


# Recall, ceiling


def test_recalls_are_scikit_learns_and_nothing_for_a_class_without_cells():
    labels, [predictions] = drawn(right=0.6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = metrics.recalls(confusion(labels, predictions, 4))
    np.testing.assert_allclose(found[:3], recall_score(labels, predictions, average=None))
    assert np.isnan(found[3])


def test_the_ceiling_is_the_score_of_right_answers_among_the_classes_that_were_taught():
    labels = np.repeat([0, 1, 2, 3], [40, 30, 20, 10])
    assert metrics.ceiling(labels, np.array([0, 2, 3]), 4) == {
        "accuracy": pytest.approx(0.7),
        "balanced_accuracy": pytest.approx(0.75),
    }
    assert metrics.ceiling(labels, np.arange(4), 4) == {"accuracy": 1, "balanced_accuracy": 1}
    few = np.repeat([0, 1, 2], [40, 30, 5])  # a class of five cells is not averaged over
    assert metrics.ceiling(few, np.array([0, 1]), 3) == {"accuracy": pytest.approx(70 / 75), "balanced_accuracy": 1}


# Calibration


def test_calibration_by_hand():
    labels = np.array([0, 1, 1, 0])
    proba = np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [1.0, 0.0]])
    found = metrics.calibration(labels, proba)
    # Each cell has a bin of its own: |0.9 - 1|, |0.6 - 1|, |0.7 - 0|, |1 - 1|.
    assert found["expected_error"] == pytest.approx((0.1 + 0.4 + 0.7 + 0) / 4)
    assert found["brier"] == pytest.approx((2 * 0.01 + 2 * 0.16 + 2 * 0.49 + 0) / 4)
    assert found["log_loss"] == pytest.approx(-np.log([0.9, 0.6, 0.3, 1.0]).mean())


def test_errors_of_a_bin_cancel_before_their_size_is_taken():
    labels, proba = np.array([0, 1]), np.array([[0.61, 0.39], [0.65, 0.35]])  # both in the bin of 0.6 to 0.667
    assert metrics.calibration(labels, proba)["expected_error"] == pytest.approx(abs(0.63 - 0.5))


def test_log_loss_and_brier_are_scikit_learns():
    rng = np.random.default_rng(0)
    proba, labels = rng.dirichlet([1, 1, 1], 200), rng.integers(0, 3, 200)
    found = metrics.calibration(labels, proba)
    assert found["log_loss"] == pytest.approx(log_loss(labels, proba))
    each = [brier_score_loss(labels == c, proba[:, c]) for c in range(3)]
    assert found["brier"] == pytest.approx(sum(each))


def test_a_calibrated_predictor_has_little_error_and_an_overconfident_one_its_excess():
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.5, 1, 40_000)
    labels = (rng.random(40_000) >= confidence).astype(int)  # class 0 as often as it is said
    right = metrics.calibration(labels, np.stack([confidence, 1 - confidence], 1))
    assert right["expected_error"] < 0.015
    over = np.full(40_000, 0.95)
    assert metrics.calibration(labels, np.stack([over, 1 - over], 1))["expected_error"] == pytest.approx(0.2, abs=0.01)


def test_a_class_to_which_no_probability_was_given_costs_much_and_not_infinitely():
    found = metrics.calibration(np.array([1]), np.array([[1.0, 0.0]]))
    assert found == {"expected_error": 1, "brier": 2, "log_loss": pytest.approx(-np.log(1e-12))}


# Groups


def clustered(groups: int = 20, size: int = 12, seed: int = 0):
    """Groups of cells that are right or wrong together; both classes in each."""
    rng = np.random.default_rng(seed)
    labels = np.tile([0, 1], groups * size // 2)
    wrong = np.repeat(rng.random((2, groups)) < 0.3, size, axis=1)
    return labels, np.where(wrong, 1 - labels, labels), np.repeat([f"p{i}" for i in range(groups)], size)


def test_the_interval_by_groups_is_that_of_a_plain_bootstrap_over_groups_and_wider_than_over_cells():
    labels, predictions, groups = clustered()
    grouped = evaluate(labels, predictions, 2, replicates=3000, groups=groups)
    cells = evaluate(labels, predictions, 2, replicates=3000)
    assert grouped.mean == cells.mean
    rng, names = np.random.default_rng(3), np.unique(groups)
    members = {name: np.flatnonzero(groups == name) for name in names}
    plain = {name: [] for name in metrics.SCORES}
    for _ in range(1500):
        rows = np.concatenate([members[name] for name in rng.choice(names, len(names))])
        each = [scores_of(confusion(labels[rows], p[rows], 2), np.arange(2)) for p in predictions]
        for name in metrics.SCORES:
            plain[name].append(np.mean([one[name] for one in each]))
    for name in metrics.SCORES:
        low, high = np.quantile(plain[name], [0.025, 0.975])
        assert grouped.low[name] == pytest.approx(low, abs=0.1 * (high - low))
        assert grouped.high[name] == pytest.approx(high, abs=0.1 * (high - low))
        assert grouped.high[name] - grouped.low[name] > 2 * (cells.high[name] - cells.low[name])


def test_a_group_for_every_cell_is_no_group():
    labels, predictions = drawn(models=2)
    own = [f"p{i}" for i in range(len(labels))]
    assert evaluate(labels, predictions, 3, groups=np.array(own)) == evaluate(labels, predictions, 3)


def test_replicates_that_drew_no_cell_of_a_class_do_not_count():
    """The only group of a class is missing from a third of the draws."""
    labels, groups = np.repeat([0, 1], [20, 10]), np.repeat(["p0", "p1", "p2"], 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scored = evaluate(labels, labels, 2, groups=groups)
    assert (scored.low["balanced_accuracy"], scored.high["balanced_accuracy"]) == (1, 1)
