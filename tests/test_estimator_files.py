"""What was fitted in Python as files, and what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from estimating import COLOUR, drawn_vectors, work
from sklearn.base import clone

import cellfeat
from cellfeat import CellClassifier, CellfeatError, CellFeatures, use

pytestmark = pytest.mark.usefixtures("own_cache")


# Outputs and files


def test_tables_come_out_where_they_are_asked_for(two_tables):
    first, _ = two_tables
    out = CellFeatures(**COLOUR).set_output(transform="pandas").fit_transform(first.iloc[::-1])
    assert list(out.columns[:2]) == ["f0", "f1"]
    assert out.index.equals(first.index[::-1])


@pytest.mark.parametrize("way", ["pickle", "folder"])
@pytest.mark.parametrize("kind", [CellFeatures, CellClassifier])
def test_what_was_fitted_comes_back(kind, way, two_tables, tmp_path):
    first, second = two_tables
    more = {"clf": "lr"} if kind is CellClassifier else {}
    fitted = kind(**COLOUR, align=["per-domain-z", "coral"], target=second, **more).fit(first)
    if way == "pickle":
        found = pickle.loads(pickle.dumps(fitted))
        assert b"torch" not in pickle.dumps(fitted.__getstate__()["pipeline_"])
    else:
        fitted.save(tmp_path / "kept")
        found = cellfeat.load(tmp_path / "kept", device="cpu")
        assert found.target is None
        with pytest.raises(CellfeatError, match="kept exists and is never overwritten"):
            fitted.save(tmp_path / "kept")
    assert type(found) is kind
    assert found.domains_ == fitted.domains_
    assert found.recipe_ == fitted.recipe_
    if kind is CellFeatures:
        assert np.array_equal(found.transform(second), fitted.transform(second))
        assert list(found.get_feature_names_out()) == list(fitted.get_feature_names_out())
    else:
        assert np.array_equal(found.predict_proba(second), fitted.predict_proba(second))
        assert np.array_equal(found.predict(second), fitted.predict(second))


def test_the_command_line_predicts_with_what_python_saved(two_tables, tmp_path):
    first, _ = two_tables
    fitted = CellClassifier(**COLOUR, clf="lr").fit(first)
    fitted.save(tmp_path / "kept")
    files = [Path(path) for path in first["path"]]
    use.predict(tmp_path / "kept", files, tmp_path / "out.csv", "new", None, False, work())
    told = pd.read_csv(tmp_path / "out.csv").set_index("path").loc[first["path"], "label"]
    assert told.tolist() == fitted.predict(first).tolist()
    with pytest.raises(CellfeatError, match="was fitted in Python and does not say where its cells lie"):
        use.predict(tmp_path / "kept", files, tmp_path / "more.csv", "new", None, True, work())


def test_what_cannot_be_kept_or_read_back_is_refused(two_tables, tmp_path):
    first, _ = two_tables
    fitted = CellFeatures(**COLOUR, random_state=np.random.RandomState(3)).fit(first)
    with pytest.raises(CellfeatError, match="CellFeatures cannot be saved: Object of type RandomState"):
        fitted.save(tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
    fitted.set_params(random_state=3).save(tmp_path / "kept")
    about = tmp_path / "kept" / "pipeline.json"
    told = json.loads(about.read_text())
    told["facts"]["weights_sha256"] = "abc"
    about.write_text(json.dumps(told))
    with pytest.raises(CellfeatError, match="sha256 abc, but here they have None; put the old weights back"):
        cellfeat.load(tmp_path / "kept", device="cpu")


def test_numbers_of_numpy_are_kept_as_numbers(tmp_path):
    X, names = drawn_vectors()
    fitted = CellClassifier(
        None,
        align=np.array(["mean-centre", "subspace"]),
        align_params={"subspace": {"components": np.arange(2, 4)[0]}},
        clf="lr",
        clf_params={"max_iter": np.int64(60)},
        target=X[:9] + 1,
        random_state=np.int64(3),
    ).fit(X, names)
    fitted.save(tmp_path / "kept")
    found = cellfeat.load(tmp_path / "kept", device="cpu")
    assert (found.random_state, found.clf_params) == (3, {"max_iter": 60})
    assert found.recipe_ == fitted.recipe_
    assert np.array_equal(found.predict_proba(X), fitted.predict_proba(X))


# Mistakes

GREY = np.zeros((4, 4), np.uint8)
BAD = {
    "float": ([np.zeros((4, 4, 3))], r"row 0 is float64 \(4, 4, 3\); an image is a \(H, W, 3\) uint8 RGB array"),
    "grey": ([GREY], r"row 0 is uint8 \(4, 4\)"),
    "mixed": (["a.png", GREY], "row 0 is str"),
    "nothing": ([], "X has no cells"),
    "number": (3, "X is a int; possible is a list of image paths"),
    "mapping": ({"path": ["a.png"]}, "X is a dict"),
    "absent": (["absent.png"], "X: row 0: absent.png: no such file"),
    "one path": ("cell.png", r"X is the text 'cell.png'; a single image is a list of one, \['cell.png'\]"),
    "no column": (pd.DataFrame({"file": ["a"]}), "a table without a column 'path'; it has file"),
    "empty table": (pd.DataFrame({"path": []}), "X has no cells"),
    "domain": (pd.DataFrame({"path": [__file__], "domain": ["a/b"]}), "row 0: domain 'a/b' cannot name a folder"),
    "no domain": (pd.DataFrame({"path": [__file__], "domain": [None]}), "row 0: domain is empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_cells_is_refused(name):
    X, text = BAD[name]
    with pytest.raises(CellfeatError, match=text):
        CellFeatures(**COLOUR).fit(X)


def test_wrong_metadata_is_refused(two_tables):
    first, second = two_tables
    paths = first["path"].tolist()
    model = CellFeatures(**COLOUR)
    with pytest.raises(CellfeatError, match="the domain of X has 2 entries for 20 cells"):
        model.fit(paths, domain=["a", "b"])
    with pytest.raises(CellfeatError, match="cannot name a folder"):
        model.fit(paths, domain="a/b")
    with pytest.raises(CellfeatError, match="X: a domain is empty"):
        model.fit(paths, domain=[None] * 20)
    with pytest.raises(ValueError, match="y has 2 labels for 20 cells"):
        model.fit(paths, [1, 2])
    adapted = CellFeatures(**COLOUR, align="per-domain-z", target=second).fit(first)
    with pytest.raises(
        CellfeatError, match="X does not say of which laboratory its cells are, and the fit knew lab-a, lab-b"
    ):
        adapted.transform(paths)
    assert np.array_equal(adapted.transform(paths, domain="lab-a"), adapted.transform(first))
    told = clone(adapted).set_params(domain="lab-a").fit(first)
    assert np.array_equal(told.transform(paths), adapted.transform(first))


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"align": "cea"}, "no align named 'cea'. Did you mean"),
        ({"align": "a,,b"}, "align='a,,b': give a name, or a chain"),
        ({"align": []}, r"align=\[\]: give a name"),
        ({"align": "none,coral", "align_params": {"cae": {}}}, "align_params has cae, which is none of none, coral"),
        ({"align": "coral", "align_params": {"epochs": 3}}, "no parameter of align 'coral' named 'epochs'"),
        ({"backbone_params": {"bnis": 3}}, "no parameter of backbone 'colour' named 'bnis'"),
        ({"segmenter": "osu"}, "no segmenter named 'osu'"),
        ({"align": "balanced-lda"}, "align balanced-lda learns from labels and requires y to be passed"),
        ({"device": "gpu"}, "no device named 'gpu'"),
    ],
)
def test_wrong_parameters_are_refused(params, text, two_tables):
    with pytest.raises(CellfeatError, match=text):
        CellFeatures(**{**COLOUR, **params}).fit(two_tables[0]["path"].tolist())


def test_labels_that_teach_nothing_are_refused(two_tables):
    first, _ = two_tables
    model = CellClassifier(**COLOUR, clf="lr")
    with pytest.raises(ValueError, match="y has one class, 1; None, NaN, '' and -1 mean a hidden label"):
        model.fit(first, [-1, 1] * 10)
    with pytest.raises(ValueError, match="y has no class"):
        model.fit(first, [None] * 20)
    with pytest.raises(ValueError, match="of several kinds"):
        model.fit(first, ["a", 1] * 10)


def test_features_alone_have_no_images():
    X = np.zeros((6, 3))
    with pytest.raises(CellfeatError, match="align macenko reads image of cells, but backbone=None brings features"):
        CellFeatures(backbone=None, align="macenko").fit(X)
    with pytest.raises(CellfeatError, match="which no segmenter can change"):
        CellFeatures(backbone=None, segmenter="otsu").fit(X)
