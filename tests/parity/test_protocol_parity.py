"""Folds and classifier predictions against those of the published notebooks' parameters, scaling and folds.

`data/protocol.npz` holds drawn features of three domains, the five folds inside each of two sources, and for every
classifier, source and fold its predictions on all rows; made with scikit-learn 1.9.1 and XGBoost 3.2.0 (stored in the
file).
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from cellfeat_classifiers import cellfeat_classifier

from cellfeat import Cells
from cellfeat.evaluate import Evaluator
from cellfeat.pipeline import resolve
from cellfeat.recipe import parse
from cellfeat.registry import installed
from cellfeat.splits import splits

NOT_PUBLISHED = {"majority"}  # a floor for tables, of nobody's notebook
FACTORIES = {name: factory for name, factory in cellfeat_classifier().items() if name not in NOT_PUBLISHED}
LIBRARY = {"xgboost": "xgboost"}  # all others: scikit-learn
# The slow ones on fewer folds: (source, fold) pairs.
EVERY = [(source, fold) for source in (0, 1) for fold in range(5)]
PAIRS = {"rf": [(1, 3)], "xgboost": [(1, 1)], "ann": [(0, 1), (1, 4)], "lr": [(0, 2), (1, 1)]}


@pytest.fixture(scope="module")
def reference():
    with np.load(Path(__file__).parent / "data" / "protocol.npz") as archive:
        return {name: archive[name] for name in archive.files}


def cells_of(reference: dict[str, np.ndarray]) -> Cells:
    """The reference's cells, ids in its order and the three domains named by their numbers."""
    return Cells.from_arrays(reference["y"], domain=reference["domain"].astype(str), pooled=reference["x"])


def agreement_to_require(name: str, reference: dict[str, np.ndarray]) -> float:
    """1 with the versions that made the file; another release may move cells that lie on a decision boundary."""
    made_with = dict(zip(("scikit-learn", "xgboost"), reference["versions"], strict=True))
    library = LIBRARY.get(name, "scikit-learn")
    return 1.0 if version(library) == made_with[library] else 0.99


@pytest.mark.parametrize("name", sorted(FACTORIES))
def test_predictions_are_the_published_protocols(name, reference):
    required = agreement_to_require(name, reference)
    for source, fold in PAIRS.get(name, EVERY):
        folds = reference["folds"][source]
        train = (folds >= 0) & (folds != fold)
        classifier = FACTORIES[name]()
        if name == "xgboost":
            classifier.set_params(n_jobs=1)  # same trees; threads that wait for each other make small fits slow
        classifier.fit(reference["x"][train], reference["y"][train])
        expected = reference[f"{name}/source{source}/fold{fold}"]
        agreement = np.mean(classifier.predict(reference["x"]) == expected)
        assert agreement >= required, f"source {source}, fold {fold}: {agreement:.4f} of the predictions agree"


def test_the_reference_can_tell_classifiers_apart(reference):
    keys = [f"{name}/source0/fold0" for name in sorted(FACTORIES)]
    agreements = [np.mean(reference[a] == reference[b]) for i, a in enumerate(keys) for b in keys[:i]]
    assert max(agreements) < 0.99  # so that no classifier passes for another


def test_folds_are_the_published_ones(reference):
    for source, split in enumerate(splits("cross-domain", cells_of(reference), folds=5, seed=1234, sources=("0", "1"))):
        ours = np.full(len(reference["y"]), -1)
        for number, fold in enumerate(split.folds):
            ours[fold.test] = number
            assert set(fold.train) == set(np.flatnonzero(reference["folds"][source] >= 0)) - set(fold.test)
        np.testing.assert_array_equal(ours, reference["folds"][source])
        assert {name: len(rows) for name, rows in split.targets.items()} == {
            str(domain): int((reference["domain"] == domain).sum()) for domain in range(3) if domain != source
        }


def test_a_run_answers_as_the_notebooks_do(reference, context):
    """Everything between features and predictions: folds, scaling, classifier, targets."""
    recipe = parse({"classifier": {"name": "svm-linear"}})
    classes = tuple(f"class {label}" for label in range(int(reference["y"].max()) + 1))
    evaluator = Evaluator(resolve(recipe, installed()), installed(), cells_of(reference), classes, context)
    required = agreement_to_require("svm-linear", reference)
    for source, split in enumerate(splits("cross-domain", evaluator.cells, folds=5, seed=1234, sources=("0", "1"))):
        result = evaluator.run(split, 1234)
        for predictions in (result.inside, *result.targets.values()):
            for one in predictions:
                expected = reference[f"svm-linear/source{source}/fold{one.fold}"][one.rows]
                assert np.mean(one.classes == expected) >= required
