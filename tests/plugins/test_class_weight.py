"""Imbalance: `class_weight=balanced` of every classifier, against scikit-learn's own, weighted, saved, calibrated."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from cellfeat_classifiers import cellfeat_classifier
from cellfeat_classifiers.balanced import balanced_weight
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.class_weight import compute_sample_weight
from xgboost import XGBClassifier

from cellfeat import CellfeatError
from cellfeat.artifacts import load_estimator, save_estimator
from cellfeat.classification import ClassifierHead, calibrate

FACTORIES = {name: make for name, make in cellfeat_classifier().items() if name != "majority"}
SMALL = {
    "rf": {"n_estimators": 30, "max_depth": 4},
    "xgboost": {"n_estimators": 10, "max_depth": 2},
    "ann": {"max_iter": 150, "early_stopping": False, "hidden": (16,)},
}
pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")


def build(name, **params):
    """On one thread, as threads that wait for each other make small fits slow."""
    estimator = FACTORIES[name](**{**SMALL.get(name, {}), **params})
    return estimator.set_params(n_jobs=1) if name in ("rf", "xgboost") else estimator


def drawn(seed: int, sizes: tuple[int, ...] = (120, 60, 12)):
    """Overlapping Gaussian classes of unequal sizes: (N, 5) float32, (N,) labels."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return (rng.normal(size=(len(labels), 5)) + 1.2 * np.eye(3, 5)[labels]).astype(np.float32), labels


@pytest.fixture(scope="module")
def data():
    return drawn(1)


def fit(estimator, features, labels, weight=None):
    last = estimator.steps[-1][0] + "__" if hasattr(estimator, "steps") else ""
    return estimator.fit(features, labels, **({} if weight is None else {f"{last}sample_weight": weight}))


def plain(name: str):
    """What scikit-learn and XGBoost offer, without cellfeat's code, and whether balance must come by sample weights."""
    scaled = partial(make_pipeline, StandardScaler())
    svm = {"random_state": 1234, "class_weight": "balanced"}
    return {
        "svm-linear": lambda: (scaled(SVC(kernel="linear", **svm)), False),
        "svm-poly": lambda: (scaled(SVC(kernel="poly", **svm)), False),
        "svm-rbf": lambda: (scaled(SVC(kernel="rbf", **svm)), False),
        "lr": lambda: (scaled(LogisticRegression(max_iter=500, **svm)), False),
        "rf": lambda: (RandomForestClassifier(30, max_depth=4, **svm), False),
        "ann": lambda: (scaled(MLPClassifier((16,), max_iter=150, random_state=1234)), True),
        "xgboost": lambda: (
            XGBClassifier(n_estimators=10, max_depth=2, learning_rate=0.3, random_state=1234, n_jobs=1),
            True,
        ),
    }[name]()


def scores(estimator, features):
    kind = "predict_proba" if hasattr(estimator, "predict_proba") else "decision_function"
    return getattr(estimator, kind)(features)


@pytest.mark.parametrize("name", FACTORIES)
def test_balanced_is_the_librarys_own(name, data):
    features, labels = data
    theirs, by_weights = plain(name)
    fit(theirs, features, labels, compute_sample_weight("balanced", labels) if by_weights else None)
    ours = build(name, class_weight="balanced").fit(features, labels)
    np.testing.assert_allclose(scores(ours, features), scores(theirs, features), atol=1e-6)
    np.testing.assert_array_equal(ours.predict(features), theirs.predict(features))


@pytest.mark.parametrize("name", ["svm-linear", "svm-poly", "svm-rbf"])
def test_support_vectors_are_those_of_libsvm_with_weights_too(name, data):
    features, labels = data
    weight = np.random.default_rng(3).uniform(0.2, 3.0, len(labels))
    for given in (None, weight):
        ours = fit(build(name, class_weight="balanced"), features, labels, given).steps[-1][1]
        theirs = fit(plain(name)[0], features, labels, given).steps[-1][1]
        np.testing.assert_array_equal(ours.support_, theirs.support_)
        np.testing.assert_allclose(ours.dual_coef_, theirs.dual_coef_, atol=1e-9)
        np.testing.assert_array_equal(ours.class_weight_, theirs.class_weight_)


@pytest.mark.parametrize("name", FACTORIES)
def test_a_rare_class_is_found_more_often(name, data):
    new, truth = drawn(2, (200, 200, 200))
    found = {}
    for choice in ("none", "balanced"):
        head = ClassifierHead.fit(partial(build, name, class_weight=choice), *data, np.arange(len(data[1])))
        found[choice] = head.predict(new)[truth == 2] == 2
    assert found["balanced"].mean() > found["none"].mean() + 0.1


@pytest.mark.parametrize("name", FACTORIES)
def test_off_is_the_default_and_what_was_published(name, data):
    assert str(build(name)) == str(build(name, class_weight="none"))
    both = [build(name, **chosen).fit(*data).predict(data[0]) for chosen in ({}, {"class_weight": "none"})]
    np.testing.assert_array_equal(*both)


@pytest.mark.parametrize("name", FACTORIES)
def test_a_balanced_classifier_survives_saving_and_cloning(name, data, tmp_path):
    features, labels = data
    first = build(name, class_weight="balanced")
    copy = clone(first)
    first.fit(features, labels)
    np.testing.assert_array_equal(copy.fit(features, labels).predict(features), first.predict(features))
    save_estimator(first, tmp_path / "classifier.skops")
    loaded = load_estimator(tmp_path / "classifier.skops", ("cellfeat_classifiers.",))
    np.testing.assert_array_equal(scores(loaded, features), scores(first, features))
    assert type(loaded) is type(first)


@pytest.mark.parametrize("name", FACTORIES)
def test_an_align_methods_weights_are_multiplied(name, data):
    """Weight 0 takes half of the cells away, as if they had never been there; the balance is that of the others."""
    features, labels = data
    kept = np.arange(len(labels)) % 2 == 0
    weighted = ClassifierHead.fit(
        partial(build, name, class_weight="balanced"), features, labels, np.arange(len(labels)), kept.astype(float)
    )
    again = ClassifierHead.fit(
        partial(build, name, class_weight="balanced"), features, labels, np.arange(len(labels)), 1.0 + kept
    )
    assert not np.array_equal(weighted.predict_proba(features), again.predict_proba(features))
    if name in ("lr", "xgboost"):  # the others see the removed rows, in the standardisation, batches or draws
        tolerance = 0.15 if name == "lr" else 1e-5
        alone = build(name, class_weight="balanced").fit(features[kept], labels[kept])
        np.testing.assert_allclose(
            weighted.predict_proba(features), scores(alone, features), atol=tolerance, err_msg=name
        )


def test_the_sums_of_the_classes_are_equal_and_the_sum_of_all_is_kept():
    labels, weight = np.array([4, 4, 4, 7, 9, 9]), np.array([1.0, 2.0, 0.5, 0.25, 3.0, 0.0])
    found = balanced_weight(labels, weight)
    np.testing.assert_allclose([found[labels == one].sum() for one in (4, 7, 9)], weight.sum() / 3)
    np.testing.assert_allclose(found[0] / found[1], 0.5)
    np.testing.assert_allclose(balanced_weight(labels), compute_sample_weight("balanced", labels))
    assert np.isfinite(balanced_weight(labels, np.where(labels == 7, 0.0, 1.0))).all()


def test_svm_scores_are_calibrated_by_machines_of_the_same_weights(data):
    features, labels = data
    groups = np.arange(len(labels))
    head = ClassifierHead.fit(partial(build, "svm-rbf", class_weight="balanced"), features, labels, groups, seed=5)
    theirs = calibrate(lambda: plain("svm-rbf")[0], features, labels, groups, None, 5)
    assert head.temperature == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize("name", FACTORIES)
def test_another_word_is_refused(name):
    with pytest.raises(CellfeatError, match="class_weight='balance' is not possible: give none or balanced"):
        build(name, class_weight="balance")
