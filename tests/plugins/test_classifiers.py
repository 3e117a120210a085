"""The seven published classifiers: parameters, scaling, seeds, saving, and what is refused; and the majority."""

from __future__ import annotations

import subprocess
import sys
import typing
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cellfeat_classifiers import cellfeat_classifier, factories

from cellfeat import CellfeatError
from cellfeat.artifacts import load_estimator, save_estimator
from cellfeat.classification import ClassifierHead

FACTORIES = cellfeat_classifier()
SMALL = {"rf": {"n_estimators": 10}, "xgboost": {"n_estimators": 3}, "ann": {"max_iter": 20, "early_stopping": False}}

# What the notebooks of DoRL and BC-SAM pass; everything else is a library default.
PUBLISHED = {
    "rf": {"n_estimators": 200, "max_depth": 16, "random_state": 1234, "n_jobs": -1, "max_features": "sqrt"},
    "svm-linear": {"kernel": "linear", "C": 1.0, "random_state": 1234},
    "svm-poly": {"kernel": "poly", "degree": 3, "C": 1.0, "gamma": "scale", "coef0": 0.0, "random_state": 1234},
    "svm-rbf": {"kernel": "rbf", "C": 1.0, "gamma": "scale", "random_state": 1234},
    "lr": {"C": 1.0, "max_iter": 500, "solver": "lbfgs", "random_state": 1234},
    "ann": {
        "hidden_layer_sizes": (100,),
        "activation": "relu",
        "solver": "adam",
        "max_iter": 1000,
        "early_stopping": True,
        "validation_fraction": 0.1,
        "random_state": 1234,
    },
    "xgboost": {
        "n_estimators": 100,
        "max_depth": 6,
        "learning_rate": 0.3,
        "tree_method": "hist",
        "device": "cpu",
        "random_state": 1234,
    },
}


@pytest.fixture(scope="module")
def data():
    draw = np.random.default_rng(7)
    labels = np.repeat(np.arange(3), 25)
    features = draw.normal(size=(75, 6)) + 2.0 * np.eye(3, 6)[labels]
    return features.astype(np.float32), labels


pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")  # the perceptrons here are stopped early


def build(name, **params):
    """One classifier, small and on one thread: OpenMP threads that wait for each other make small fits slow."""
    estimator = FACTORIES[name](**{**SMALL.get(name, {}), **params})
    return estimator.set_params(n_jobs=1) if name in ("rf", "xgboost") else estimator


def last_step(estimator):
    return estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator


def test_the_seven_names_and_the_majority_are_offered():
    assert set(FACTORIES) == {*PUBLISHED, "majority"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_defaults_are_the_published_parameters(name):
    params = last_step(FACTORIES[name]()).get_params()
    assert {key: params[key] for key in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_features_are_standardised_for_all_but_the_tree_ensembles(name):
    steps = [type(step).__name__ for _, step in getattr(FACTORIES[name](), "steps", [])]
    assert (steps[:1] == ["StandardScaler"]) == (name not in ("rf", "xgboost"))


@pytest.mark.parametrize("name", ["svm-linear", "svm-rbf", "lr"])
def test_scale_and_shift_of_a_feature_change_nothing(name, data):
    features, labels = data
    moved = features * np.float32(64) + np.float32(8)  # powers of two: exact in float32
    plain = FACTORIES[name]().fit(features, labels).predict(features)
    np.testing.assert_array_equal(plain, FACTORIES[name]().fit(moved, labels).predict(moved))
    assert (plain == labels).mean() > 0.8


@pytest.mark.parametrize("name", PUBLISHED)
def test_same_seed_same_predictions_and_they_survive_saving(name, data, tmp_path):
    features, labels = data
    first = build(name).fit(features, labels)
    again = build(name).fit(features, labels)
    np.testing.assert_array_equal(first.predict(features), again.predict(features))
    save_estimator(first, tmp_path / "classifier.skops")
    loaded = load_estimator(tmp_path / "classifier.skops", ("cellfeat_classifiers.",))
    np.testing.assert_array_equal(first.predict(features), loaded.predict(features))


@pytest.mark.parametrize("name", ["rf", "ann"])
def test_another_seed_gives_another_model(name, data):
    features, labels = data
    models = [build(name, seed=seed).fit(features, labels) for seed in (1, 2)]
    assert not np.array_equal(*(model.predict_proba(features) for model in models))


@pytest.mark.parametrize(
    ("device", "expected"), [("cuda", "cuda"), ("cuda:1", "cuda:1"), ("cpu", "cpu"), ("mps", "cpu")]
)
def test_xgboost_runs_where_the_run_runs(device, expected):
    context = SimpleNamespace(device=torch.device(device), seed=7)
    assert factories.xgboost(context=context).get_params()["device"] == expected


def test_the_seed_is_the_runs_unless_it_is_set():
    run = SimpleNamespace(device=torch.device("cpu"), seed=7)
    assert build("rf").random_state == 1234
    assert build("rf", context=run).random_state == 7
    assert build("rf", context=run, seed=3).random_state == 3


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_numpy_does_not_take_is_refused(name, seed):
    with pytest.raises(CellfeatError, match=f"seed={seed} is not possible: give a whole number from 0 to 4294967295"):
        build(name, seed=seed)


def test_the_outermost_seeds_are_taken():
    assert [build("rf", seed=seed).random_state for seed in (0, 2**32 - 1)] == [0, 2**32 - 1]


@pytest.mark.parametrize("name", PUBLISHED)
def test_annotations_resolve_so_that_parameters_can_be_checked(name):
    assert typing.get_type_hints(FACTORIES[name])["seed"] == int | None


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("rf", {"n_estimators": 0}, "n_estimators=0 is not possible: give at least 1"),
        ("rf", {"max_depth": 0}, "max_depth=0 is not possible: give at least 1"),
        ("svm-linear", {"C": 0.0}, "C=0.0 is not possible: give a number above 0"),
        ("svm-poly", {"degree": 0}, "degree=0 is not possible: give at least 1"),
        ("svm-rbf", {"gamma": -1.0}, "gamma=-1.0 is not possible: give a number above 0"),
        ("lr", {"C": float("nan")}, "C=nan is not possible: give a number above 0"),
        ("lr", {"max_iter": 0}, "max_iter=0 is not possible: give at least 1"),
        ("ann", {"hidden": (50, 0)}, "hidden[1]=0 is not possible: give at least 1"),
        ("xgboost", {"learning_rate": 0.0}, "learning_rate=0.0 is not possible: give a number above 0"),
        ("xgboost", {"max_depth": 0}, "max_depth=0 is not possible: give at least 1"),
    ],
)
def test_impossible_values_are_refused_before_any_fit(name, params, message):
    with pytest.raises(CellfeatError) as error:
        FACTORIES[name](**params)
    assert str(error.value) == message


def test_importing_the_plugin_imports_no_heavy_library():
    code = "import sys, cellfeat_classifiers; print({'torch', 'sklearn', 'xgboost'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_xgboost_starts_where_it_is_told():
    made = [FACTORIES["xgboost"](base_score=score).get_params()["base_score"] for score in (None, 0.5)]
    assert made == [None, 0.5]


def test_the_majority_is_the_sources_and_survives_a_run(data, tmp_path):
    features, _ = data
    source, target = features[:30], features[30:]
    labels = np.repeat([2, 5, 9], [8, 12, 10])  # the data set's classes, the commonest neither first nor last
    head = ClassifierHead.fit(FACTORIES["majority"], source, labels, np.arange(30))
    head.save(tmp_path)
    for fitted in (head, ClassifierHead.load(tmp_path)):
        assert (fitted.predict(target) == 5).all()
        np.testing.assert_array_equal(fitted.predict_proba(target), np.tile([0.0, 1.0, 0.0], (45, 1)))


def test_of_equally_common_classes_the_majority_is_the_first(data):
    features, labels = data  # 25 of each
    assert set(FACTORIES["majority"]().fit(features, labels).predict(features)) == {0}
