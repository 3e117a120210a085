"""Labels encoded per fit, probabilities that never contradict the label, scores calibrated on held-out rows."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from cellfeat import classification
from cellfeat.classification import ClassifierHead, calibrate, trusted_by
from cellfeat.errors import CellfeatError


def drawn(per_class: int = 30, n_classes: int = 3, spread: float = 1.5, seed: int = 0):
    """Overlapping Gaussian classes: (N, 4) float32 features, (N,) labels, a group per cell."""
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(n_classes), per_class)
    centres = np.random.default_rng(99).normal(size=(n_classes, 4)) * 2
    features = centres[labels] + spread * rng.normal(size=(len(labels), 4))
    return features.astype(np.float32), labels, np.arange(len(labels)).astype(str)


def svm() -> object:
    return make_pipeline(StandardScaler(), SVC(kernel="linear"))


def log_loss(proba: np.ndarray, labels: np.ndarray) -> float:
    return -float(np.log(np.maximum(proba[np.arange(len(labels)), labels], 1e-12)).mean())


class Loud(ClassifierMixin, BaseEstimator):
    """Nearest mean, with scores `loudness` times the (negative) distances: right order, wrong size."""

    def __init__(self, loudness: float = 1.0) -> None:
        self.loudness = loudness

    def fit(self, features, labels):
        self.means_ = np.stack([features[labels == c].mean(0) for c in np.unique(labels)])
        return self

    def decision_function(self, features):
        return -self.loudness * np.square(features[:, None] - self.means_).sum(-1)

    def predict(self, features):
        return self.decision_function(features).argmax(1)


class Silent(ClassifierMixin, BaseEstimator):
    """All that the contract asks for: fit and predict."""

    def fit(self, features, labels):
        self.means_ = np.stack([features[labels == c].mean(0) for c in np.unique(labels)])
        return self

    def predict(self, features):
        return np.square(features[:, None] - self.means_).sum(-1).argmin(1)


class Fixed:
    """Answers and scores as told."""

    def __init__(self, predicted, scores=None, proba=None) -> None:
        self.predicted = np.array(predicted)
        if scores is not None:
            self.decision_function = lambda features: np.array(scores, float)
        if proba is not None:
            self.predict_proba = lambda features: np.array(proba, np.float32)

    def predict(self, features):
        return self.predicted


@pytest.mark.parametrize("make", [svm, LogisticRegression])
def test_labels_are_encoded_for_the_fit_and_come_back_as_they_were(make):
    features, labels, groups = drawn()
    plain = make().fit(features, labels).predict(features)
    named = np.array([2, 7, 11])
    head = ClassifierHead.fit(make, features, named[labels], groups)
    assert head.classes.tolist() == [2, 7, 11]
    assert getattr(head.estimator, "classes_", np.arange(3)).tolist() == [0, 1, 2]
    np.testing.assert_array_equal(head.predict(features), named[plain])
    assert head.predict(features).dtype == np.int64
    assert head.predict_proba(features).shape == (len(labels), 3)


@pytest.mark.parametrize("n_classes", [2, 3, 4])
@pytest.mark.parametrize(
    "make",
    [svm, lambda: SVC(kernel="rbf"), LinearSVC, LogisticRegression, KNeighborsClassifier, Loud, Silent],
    ids=["linear", "rbf", "LinearSVC", "LogisticRegression", "KNeighbors", "Loud", "Silent"],
)
def test_the_largest_probability_is_the_predicted_class(make, n_classes):
    features, labels, groups = drawn(12, n_classes, spread=3.0)
    head = ClassifierHead.fit(make, features, labels, groups)
    new = np.concatenate([drawn(200, n_classes, 3.0, seed=1)[0], np.zeros((1, 4), np.float32)])
    proba = head.predict_proba(new)
    np.testing.assert_array_equal(head.classes[proba.argmax(1)], head.predict(new))
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-6)
    assert proba.min() >= 0


def test_svc_votes_win_over_its_scores():
    features, labels, groups = drawn(8, 5, spread=6.0)
    head = ClassifierHead.fit(lambda: SVC(kernel="poly"), features, labels, groups)
    new = drawn(2000, 5, 9.0, seed=2)[0]
    by_score = head.estimator.decision_function(new).argmax(1)
    assert np.any(by_score != head.predict(new))  # where three classes beat each other in a circle
    np.testing.assert_array_equal(head.predict_proba(new).argmax(1), head.predict(new))


@pytest.mark.parametrize(
    "estimator",
    [
        Fixed([2, 1, 0], scores=[[1, 1, 1], [3, 3, 0], [0, 5, 9]]),
        Fixed([2, 1, 0], scores=[[0, 1e-17, 1e-17], [1e9, 1e9, 0], [0, 0, 1e9]]),
        Fixed([2, 1, 1], proba=[[1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0], [0.6, 0.3, 0.1]]),
    ],
)
def test_ties_and_contradictions_go_to_the_predicted_class(estimator):
    head = ClassifierHead(estimator, np.arange(3))
    proba = head.predict_proba(np.zeros((3, 1)))
    np.testing.assert_array_equal(proba.argmax(1), estimator.predicted)
    np.testing.assert_allclose(proba.sum(1), 1)


def test_where_they_agree_nothing_is_changed():
    given = [[0.2, 0.5, 0.3], [0.9, 0.1, 0.0]]
    head = ClassifierHead(Fixed([1, 0], proba=given), np.arange(3))
    np.testing.assert_array_equal(head.predict_proba(np.zeros((2, 1))), np.array(given, np.float32).astype(float))


def test_two_classes_with_one_score_get_the_logistic_function_of_it():
    head = ClassifierHead(Fixed([1, 0], scores=[2.0, -1.0]), np.array([3, 5]), temperature=0.5)
    expected = 1 / (1 + np.exp(-np.array([2.0, -1.0]) / 0.5))
    np.testing.assert_allclose(head.predict_proba(np.zeros((2, 1)))[:, 1], expected)


def test_scores_are_softened_by_the_temperature():
    head = ClassifierHead(Fixed([2], scores=[[0.0, 1.0, 3.0]]), np.arange(3), temperature=2.0)
    expected = np.exp([0, 0.5, 1.5]) / np.exp([0, 0.5, 1.5]).sum()
    np.testing.assert_allclose(head.predict_proba(np.zeros((1, 1)))[0], expected)


@pytest.mark.parametrize("loudness", [100.0, 0.001])
def test_calibration_lowers_the_log_loss_and_changes_no_label(loudness):
    features, labels, groups = drawn()
    new, truth, _ = drawn(seed=3)
    head = ClassifierHead.fit(lambda: Loud(loudness), features, labels, groups)
    raw = ClassifierHead(head.estimator, head.classes)
    assert log_loss(head.predict_proba(new), truth) < 0.8 * log_loss(raw.predict_proba(new), truth)
    np.testing.assert_array_equal(head.predict(new), raw.predict(new))
    np.testing.assert_array_equal(head.predict_proba(new).argmax(1), raw.predict(new))


def test_the_temperature_undoes_the_size_of_the_scores():
    features, labels, groups = drawn()
    one, ten = (calibrate(lambda: Loud(size), features, labels, groups, None, 0) for size in (1.0, 10.0))  # noqa: B023
    assert ten == pytest.approx(10 * one, rel=1e-3)


def test_the_temperature_is_the_best_one_for_held_out_scores():
    from sklearn.model_selection import StratifiedKFold

    features, labels, groups = drawn()
    temperature = calibrate(Loud, features, labels, groups, None, 4)
    held_out = np.empty((len(labels), 3))
    for train, test in StratifiedKFold(3, shuffle=True, random_state=4).split(features, labels):
        held_out[test] = Loud().fit(features[train], labels[train]).decision_function(features[test])

    def loss(t: float) -> float:
        proba = np.exp(held_out / t - np.logaddexp.reduce(held_out / t, axis=1, keepdims=True))
        return log_loss(proba, labels)

    grid = np.geomspace(0.1, 100, 400)
    assert loss(temperature) <= min(loss(t) for t in grid) + 1e-6
    assert temperature == pytest.approx(grid[np.argmin([loss(t) for t in grid])], rel=0.03)


def test_an_answer_without_scores_is_as_sure_as_it_is_often_right():
    features, labels, groups = drawn(80)
    head = ClassifierHead.fit(Silent, features, labels, groups)
    new, truth, _ = drawn(400, seed=5)
    assert head.predict_proba(new).max(1).mean() == pytest.approx(np.mean(head.predict(new) == truth), abs=0.05)


def test_a_classifier_with_probabilities_is_not_calibrated(monkeypatch):
    monkeypatch.setattr(classification, "calibrate", lambda *args: pytest.fail("calibrated"))
    features, labels, groups = drawn()
    head = ClassifierHead.fit(LogisticRegression, features, labels, groups)
    assert head.temperature == 1.0
    theirs = LogisticRegression().fit(features, labels).predict_proba(features)
    np.testing.assert_allclose(head.predict_proba(features), theirs)


class Recorder(Loud):
    """Keeps which rows it was fitted on (the first feature is the row) and by which weights."""

    fits: list = []  # noqa: RUF012 - read by the test, emptied by it

    def fit(self, features, labels, sample_weight=None):
        self.fits.append((features[:, 0].astype(int), sample_weight))
        return super().fit(features, labels)


@pytest.fixture
def recorder():
    Recorder.fits = []
    return Recorder


def test_no_group_is_on_both_sides_of_a_calibration_fold(recorder):
    _, labels, _ = drawn(20)
    groups = (np.arange(60) // 6).astype(str)
    calibrate(recorder, np.arange(60.0)[:, None].repeat(4, 1), labels, groups, None, 0)
    assert len(recorder.fits) == 3
    held_out = [np.setdiff1d(np.arange(60), rows) for rows, _ in recorder.fits]
    assert sorted(np.concatenate(held_out)) == list(range(60))
    for (rows, _), test in zip(recorder.fits, held_out, strict=True):
        assert not set(groups[rows]) & set(groups[test])


@pytest.mark.parametrize(
    ("labels", "groups"),
    [
        ([0] * 10 + [1] * 2, None),  # a class with too few rows
        ([0, 1] * 6, ["p", "q"] * 6),  # too few groups
    ],
)
def test_too_little_to_hold_out_leaves_the_scores_as_they_are(recorder, labels, groups):
    features = np.arange(48.0).reshape(12, 4)
    groups = np.arange(12).astype(str) if groups is None else np.array(groups)
    assert calibrate(recorder, features, np.array(labels), groups, None, 0) == 1.0
    assert recorder.fits == []


def test_a_class_in_one_group_alone_is_no_reason_to_fail():
    features, labels, _ = drawn(20)
    groups = np.where(labels == 2, "only", np.arange(60).astype(str))
    assert ClassifierHead.fit(Loud, features, labels, groups).temperature > 0


def test_sample_weights_reach_the_last_step_of_a_pipeline():
    features, labels, groups = drawn()
    weight = np.where(labels == 0, 50.0, 1.0)
    head = ClassifierHead.fit(svm, features, labels, groups, weight)
    scaler = StandardScaler().fit(features)
    direct = SVC(kernel="linear").fit(scaler.transform(features), labels, sample_weight=weight)
    np.testing.assert_array_equal(head.predict(features), direct.predict(scaler.transform(features)))
    unweighted = ClassifierHead.fit(svm, features, labels, groups)
    assert np.sum(head.predict(features) == 0) > np.sum(unweighted.predict(features) == 0)


def test_sample_weights_follow_their_rows_into_calibration(recorder):
    _, labels, groups = drawn(20)
    features = np.arange(60.0)[:, None].repeat(4, 1)
    ClassifierHead.fit(recorder, features, labels, groups, np.arange(60) * 10.0)
    assert len(recorder.fits) == 4
    for rows, weight in recorder.fits:
        np.testing.assert_array_equal(weight, rows * 10.0)


@pytest.mark.parametrize(
    "make", [KNeighborsClassifier, lambda: make_pipeline(StandardScaler(), KNeighborsClassifier())]
)
def test_a_classifier_that_takes_no_weights_is_named(make):
    features, labels, groups = drawn()
    with pytest.raises(CellfeatError) as error:
        ClassifierHead.fit(make, features, labels, groups, np.ones(len(labels)))
    assert str(error.value) == (
        "the align method weights the source cells, but KNeighborsClassifier takes no sample weights; use another "
        "classifier (svm-linear, lr, rf and xgboost take them)"
    )


@pytest.mark.parametrize("make", [svm, LogisticRegression])
def test_a_head_answers_alike_after_saving(make, tmp_path):
    features, labels, groups = drawn()
    head = ClassifierHead.fit(make, features, np.array([4, 6, 9])[labels], groups)
    head.save(tmp_path)
    loaded = ClassifierHead.load(tmp_path)
    np.testing.assert_array_equal(loaded.predict(features), head.predict(features))
    np.testing.assert_array_equal(loaded.predict_proba(features), head.predict_proba(features))
    assert loaded.temperature == head.temperature


def test_a_third_partys_classifier_is_loaded_only_when_its_package_is_trusted(tmp_path):
    features, labels, groups = drawn()
    head = ClassifierHead.fit(Loud, features, labels, groups)
    head.save(tmp_path)
    with pytest.raises(CellfeatError, match=r"not trusted: .*Loud"):
        ClassifierHead.load(tmp_path)
    loaded = ClassifierHead.load(tmp_path, trust=(f"{Loud.__module__.partition('.')[0]}.",))
    np.testing.assert_array_equal(loaded.predict_proba(features), head.predict_proba(features))


class Counted:
    """A progress bar that counts."""

    def __init__(self) -> None:
        self.total, self.done, self.open = 0, 0, False

    def __call__(self, total: int) -> Counted:
        self.total = total
        return self

    def __enter__(self) -> Counted:
        self.open = True
        return self

    def __exit__(self, *_: object) -> None:
        self.open = False

    def advance(self, n: int = 1) -> None:
        assert self.open
        self.done += n


@pytest.mark.parametrize(("make", "fits"), [(LogisticRegression, 1), (svm, 4)])
def test_every_fit_is_shown(make, fits):
    bar = Counted()
    ClassifierHead.fit(make, *drawn(12), progress=bar)
    assert (bar.total, bar.done, bar.open) == (fits, fits, False)


def made_of_another_package():
    """A factory of this module."""


def test_a_factorys_package_and_those_it_names_are_trusted_also_when_its_arguments_are_partly_given(monkeypatch):
    own = f"{__name__.partition('.')[0]}."
    assert trusted_by(made_of_another_package) == (own,)
    given = partial(partial(made_of_another_package))
    assert trusted_by(given) == (own,), "and not functools"
    monkeypatch.setattr(made_of_another_package, "trusted", ("lightgbm.",), raising=False)
    given.trusted = ["catboost."]
    assert trusted_by(given) == ("catboost.", "lightgbm.", own)


def test_of_a_single_file_its_own_module_is_trusted_and_not_its_home(monkeypatch):
    monkeypatch.setattr(made_of_another_package, "__module__", "cellfeat.prototypes.mine.parts")
    assert trusted_by(made_of_another_package) == ("cellfeat.prototypes.mine.",)
