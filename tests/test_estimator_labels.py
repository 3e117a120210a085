"""Labels as Python hands them over: which are hidden, and that those of a target are never looked at."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from estimating import COLOUR, drawn_vectors
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline

from cellfeat import CellClassifier, CellfeatError, CellFeatures, scorer

pytestmark = pytest.mark.usefixtures("own_cache")


FORMS = {  # labels at even rows, everything else hidden
    "a list": lambda y: [name if row % 2 else -1 for row, name in enumerate(y)],
    "objects": lambda y: np.array([name if row % 2 else None for row, name in enumerate(y)], dtype=object),
    "objects with numbers": lambda y: np.array([name if row % 2 else -1 for row, name in enumerate(y)], dtype=object),
    "texts of NumPy": lambda y: np.array([name if row % 2 else -1 for row, name in enumerate(y)]),
    "texts of NaN": lambda y: np.array([name if row % 2 else float("nan") for row, name in enumerate(y)]),
    "texts of None": lambda y: [str(name if row % 2 else None) for row, name in enumerate(y)],
    "strings of pandas": lambda y: pd.Series(FORMS["objects"](y)).astype("string"),
    "texts of pandas": lambda y: [str(name) for name in pd.Series(FORMS["objects"](y)).astype("string")],
    "categories of pandas": lambda y: pd.Series(FORMS["objects"](y)).astype("category"),
    "a column": lambda y: pd.DataFrame({"label": FORMS["objects"](y)}),
}


@pytest.mark.filterwarnings("ignore:A column-vector y was passed")
@pytest.mark.parametrize("form", FORMS)
def test_hidden_labels_of_every_form_are_no_class(form):
    X, names = drawn_vectors()
    y = FORMS[form](names)
    model = CellClassifier(None, clf="lr").fit(X, y)
    assert model.classes_.tolist() == sorted(set(names))
    known = CellClassifier(None, clf="lr").fit(X[1::2], names[1::2])
    assert np.array_equal(model.predict_proba(X), known.predict_proba(X))
    assert model.score(X, y) == np.mean(model.predict(X)[1::2] == names[1::2])


def test_hidden_labels_among_numbers_are_no_class():
    X, names = drawn_vectors()
    numbers = np.where(np.arange(len(names)) % 2, names == "blast", -1)
    wanted = CellClassifier(None, clf="lr").fit(X[1::2], numbers[1::2]).predict_proba(X)
    missing = pd.Series(np.where(numbers < 0, None, numbers).tolist(), dtype="Int64")
    for y in (numbers, np.where(numbers < 0, np.nan, numbers), missing, numbers.astype(str)):
        model = CellClassifier(None, clf="lr").fit(X, y)
        assert len(model.classes_) == 2
        assert np.array_equal(model.predict_proba(X), wanted)
    with pytest.raises(ValueError, match="Unknown label type"):
        CellClassifier(None, clf="lr").fit(X, np.where(numbers < 0, np.nan, X[:, 0]))


def test_the_text_of_a_hidden_label_in_a_table_is_no_class(two_tables):
    first, _ = two_tables
    shown = first.assign(label=np.where(np.arange(len(first)) % 3, first["label"], "-1"))
    found = CellClassifier(**COLOUR, clf="lr").fit(shown)
    assert found.classes_.tolist() == sorted(set(first["label"]))


def test_cells_without_a_label_are_not_scored(two_tables):
    first, _ = two_tables
    model = CellClassifier(**COLOUR, clf="lr").fit(first)
    y = first["label"].astype(object)
    y[:10] = None
    assert model.score(first, y) == np.mean(model.predict(first)[10:] == first["label"][10:])
    weight = np.arange(20.0)
    by_weight = np.average(model.predict(first) == first["label"], weights=weight)
    assert model.score(first, first["label"], sample_weight=weight) == by_weight
    with pytest.raises(ValueError, match="no cell has a label to score"):
        model.score(first, [-1] * 20)


@pytest.mark.parametrize("nothing", [None, "", float("nan"), -1])
def test_hidden_labels_are_left_out_of_what_learns_from_labels(two_tables, nothing):
    first, _ = two_tables
    y = first["label"].astype(object)
    y[::3] = nothing
    model = CellClassifier(**COLOUR, clf="lr").fit(first, y.tolist())
    known = [row for row in range(len(first)) if row % 3]
    other = CellClassifier(**COLOUR, clf="lr").fit(first.iloc[known], first["label"].iloc[known])
    assert np.array_equal(model.predict_proba(first), other.predict_proba(first))
    assert model.classes_.tolist() == sorted(set(first["label"]))
    assert model.notes_ == ["7 of 20 cells have no label and are left out of the fit"]


def test_labels_of_a_manifest_or_table_are_taken_and_y_goes_before(small_laboratories, drawn_table):
    model = CellClassifier(**COLOUR, clf="lr")
    assert np.array_equal(
        model.fit(small_laboratories).predict_proba(drawn_table), model.fit(drawn_table).predict_proba(drawn_table)
    )
    assert model.fit(drawn_table, drawn_table["domain"]).classes_.tolist() == ["lab-a", "lab-b", "lab-c"]
    numbers = model.fit(drawn_table, np.arange(len(drawn_table)) % 2).predict(drawn_table)
    assert numbers.dtype.kind == "i"


def test_a_method_that_learns_from_labels_gives_features_of_hidden_cells_too(two_tables):
    first, _ = two_tables
    y = first["label"].astype(object)
    y[::4] = None
    features = CellFeatures(**COLOUR, align="balanced-lda")
    assert np.array_equal(features.fit_transform(first, y), features.transform(first))
    assert features.fit_transform(first, y).shape == (len(first), features.n_features_out_)


def test_y_goes_before_the_labels_of_a_manifest(small_laboratories, drawn_table):
    in_order = drawn_table.sort_values("id")
    other = in_order["domain"].to_numpy()
    model = CellClassifier(**COLOUR, clf="lr").fit(small_laboratories, other)
    by_table = CellClassifier(**COLOUR, clf="lr").fit(in_order.drop(columns="label"), other)
    assert np.array_equal(model.predict_proba(drawn_table), by_table.predict_proba(drawn_table))


def test_a_vocabulary_chooses_among_labels_and_never_among_cells(drawn_table, tmp_path):
    """Neither of a target, nor of new cells, nor beside y: words without a class, and unknown ones, change nothing."""
    first, second = (drawn_table[drawn_table["domain"] == name].sort_values("id") for name in ("lab-a", "lab-b"))

    def written(cells, label):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.csv"
        cells.assign(label=label, mask_path="").to_csv(path, index=False)
        return path

    some = np.where(np.arange(20) % 4, second["label"], "erythroblast")  # known words, and no class of the five
    settings = {**COLOUR, "align": "coral", "clf": "lr", "labels": "five-class"}
    model = CellClassifier(**settings, target=written(second, second["label"])).fit(written(first, first["label"]))
    wanted = model.predict_proba(second)
    for label in (some, "unheard-of", ""):
        other = CellClassifier(**settings, target=written(second, label)).fit(written(first, first["label"]))
        assert np.array_equal(other.predict_proba(written(second, label)), wanted)
    beside = CellClassifier(**settings, target=second).fit(written(first, "unheard-of"), first["label"])
    assert np.array_equal(beside.predict_proba(second), wanted)
    partly = CellClassifier(**settings).fit(written(second, some))
    assert "erythroblast" not in partly.classes_
    assert partly.notes_ == ["5 of 20 cells have no label and are left out of the fit"]
    features = CellFeatures(**COLOUR, align="per-domain-z", labels="five-class")
    assert features.fit_transform(written(second, some)).shape[0] == 20


def test_no_label_of_a_target_reaches_a_grid(drawn_table):
    cells = drawn_table[["path", "domain", "id"]]
    found = []
    for label in (drawn_table["label"], drawn_table["label"].to_numpy()[::-1], "basophil"):
        target = cells.assign(label=label)
        for model in (
            CellClassifier(**COLOUR, clf="lr", target=target),
            make_pipeline(CellFeatures(**COLOUR, target=target), LogisticRegression(max_iter=50)),
        ):
            name = "align" if isinstance(model, CellClassifier) else "cellfeatures__align"
            grid = GridSearchCV(model, {name: ["self-trained-lda"]}, cv=2, error_score="raise")
            found.append(grid.fit(cells, drawn_table["label"]).predict_proba(cells))
    assert np.array_equal(found[0], found[2])
    assert np.array_equal(found[0], found[4])
    assert np.array_equal(found[1], found[3])
    assert np.array_equal(found[1], found[5])


# Scores


def test_a_scorer_leaves_hidden_labels_out():
    X, names = drawn_vectors()
    y = np.where(np.arange(len(names)) % 3 == 1, "", names)
    y[1:9] = names[1:9]
    model = CellClassifier(None, clf="lr").fit(X, y)
    known = y != ""
    told = balanced_accuracy_score(y[known], model.predict(X)[known])
    assert scorer("balanced_accuracy")(model, X, y) == told
    assert scorer("balanced_accuracy")(model, X.tolist(), y.tolist()) == told
    weight = np.arange(1.0, len(y) + 1)
    assert scorer("accuracy")(model, X, y, sample_weight=weight) == model.score(X, y, sample_weight=weight)
    assert scorer()(model, X, np.where(y == "", None, names)) == told


def test_a_scorer_of_names_and_of_numbers_serves_grids():
    X, names = drawn_vectors()
    hide = np.arange(len(names)) % 4 == 1
    for y in (np.where(hide, "", names), np.where(hide, -1, np.unique(names, return_inverse=True)[1])):
        folds = KFold(3, shuffle=True, random_state=0)
        found = cross_val_score(CellClassifier(None, clf="lr"), X, y, cv=folds, scoring=scorer(), n_jobs=1)
        for score, (train, test) in zip(found, folds.split(X), strict=True):
            kept = test[~hide[test]]
            told = CellClassifier(None, clf="lr").fit(X[train], y[train]).predict(X[kept])
            assert score == balanced_accuracy_score(y[kept], told)


def test_what_no_scorer_can_score_is_refused():
    X, names = drawn_vectors()
    with pytest.raises(CellfeatError, match=r"no scorer of scikit-learn named 'acuracy'\. Did you mean 'accuracy'"):
        scorer("acuracy")
    with pytest.raises(ValueError, match="no cell has a label to score with balanced_accuracy"):
        scorer()(CellClassifier(None, clf="lr").fit(X, names), X, [None] * len(names))
