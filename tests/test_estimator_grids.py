"""The transformer and the classifier in grids and pipelines of scikit-learn, and what scores say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sklearn
from estimating import COLOUR, drawn_vectors
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, LeaveOneGroupOut, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from cellfeat import CellClassifier, CellfeatError, CellFeatures
from cellfeat.encoding import BatchEncoder
from cellfeat.images import read_rgb

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """How many images each forward pass was given, as they come."""
    counts: list[int] = []
    compute = BatchEncoder.compute

    def counted(self, batch, columns):
        counts.append(len(batch))
        return compute(self, batch, columns)

    monkeypatch.setattr(BatchEncoder, "compute", counted)
    return counts


# Grids


def test_a_grid_over_aligners_encodes_every_image_once(drawn_table, encoded, tmp_path, monkeypatch):
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path))
    model = Pipeline(
        [("features", CellFeatures(**COLOUR, target=drawn_table)), ("clf", LogisticRegression(max_iter=50))]
    )
    aligners = ["none", "per-domain-z", "coral", ["mean-centre", "subspace"]]
    cells = drawn_table[["path", "domain", "id"]]
    grid = GridSearchCV(model, {"features__align": aligners}, cv=LeaveOneGroupOut(), error_score="raise")
    grid.fit(cells, drawn_table["label"], groups=drawn_table["domain"])
    assert sum(encoded) == len(drawn_table)
    scores = grid.cv_results_["mean_test_score"]
    assert len(set(scores.round(6))) > 1, "the aligners changed nothing"
    assert scores.max() > scores[0], "no aligner is better than none on drawn laboratories"
    assert grid.predict(cells).shape == (len(drawn_table),)


def test_what_a_grid_scores_is_what_a_fit_by_hand_scores(drawn_table):
    model = CellClassifier(**COLOUR, align="per-domain-z", clf="lr", target=drawn_table)
    found = cross_validate(
        model,
        drawn_table[["path", "domain"]],
        drawn_table["label"],
        cv=LeaveOneGroupOut(),
        groups=drawn_table["domain"],
    )
    for lab, score in zip(sorted(set(drawn_table["domain"])), found["test_score"], strict=True):
        rows = drawn_table["domain"] == lab
        by_hand = CellClassifier(**COLOUR, align="per-domain-z", clf="lr", target=drawn_table[rows]).fit(
            drawn_table[~rows]
        )
        assert by_hand.score(drawn_table[rows], drawn_table["label"][rows]) == score


def test_a_grid_in_two_processes_gives_what_one_gives(two_tables):
    first, _ = two_tables
    cells, label = first[["path", "domain"]], first["label"]
    model = make_pipeline(CellFeatures(**COLOUR), LogisticRegression(max_iter=50))
    grids = [
        GridSearchCV(model, {"cellfeatures__align": ["none", "per-domain-z"]}, cv=2, n_jobs=jobs, error_score="raise")
        for jobs in (None, 2)
    ]
    one, two_jobs = (grid.fit(cells, label).cv_results_["mean_test_score"] for grid in grids)
    assert one == pytest.approx(two_jobs)
    fitted = cross_validate(model, cells, label, cv=2, n_jobs=2, return_estimator=True)["estimator"]
    assert all(each.predict(cells).shape == label.shape for each in fitted), "fitted objects come back from a process"


def test_groups_and_domains_are_routed(two_tables):
    first, _ = two_tables
    label, group = first["label"].to_numpy(), np.arange(len(first)) % 5
    with sklearn.config_context(enable_metadata_routing=True):
        model = CellClassifier(**COLOUR, align="per-domain-z", clf="lr")
        model.set_fit_request(domain=True, group=True).set_predict_request(domain=True).set_score_request(domain=True)
        paths = first["path"].tolist()
        names = np.where(np.arange(len(paths)) % 2, "odd", "even")
        found = cross_validate(
            model,
            paths,
            label,
            cv=GroupKFold(2),
            params={"domain": names, "group": group, "groups": group},
            error_score="raise",
            return_estimator=True,
        )
        assert [each.domains_ for each in found["estimator"]] == [["even", "odd"]] * 2
        features = (
            CellFeatures(**COLOUR, align="per-domain-z").set_fit_request(domain=True).set_transform_request(domain=True)
        )
        routed = Pipeline([("features", features), ("scale", StandardScaler()), ("clf", RandomForestClassifier(5))])
        assert routed.fit(paths, label, domain=names).predict(paths, domain=names).shape == label.shape
    by_hand = CellFeatures(**COLOUR, align="per-domain-z").fit_transform(first.assign(domain=names))
    assert np.array_equal(CellFeatures(**COLOUR, align="per-domain-z").fit_transform(paths, domain=names), by_hand)


# Cells that do not say their laboratory


@pytest.mark.parametrize("kind", ["classifier", "pipeline"])
@pytest.mark.parametrize("cells", ["vectors", "images"])
def test_a_grid_with_a_target_scores_cells_that_do_not_say_their_laboratory(cells, kind, two_tables):
    if cells == "vectors":
        X, y = drawn_vectors()
        target, settings = X + 1, {"backbone": None}
    else:
        X, y, target, settings = two_tables[0]["path"].tolist(), two_tables[0]["label"], two_tables[1]["path"], COLOUR
    if kind == "classifier":
        model, name = CellClassifier(**settings, clf="lr", target=target), "align"
    else:
        model = make_pipeline(CellFeatures(**settings, target=target), LogisticRegression(max_iter=50))
        name = "cellfeatures__align"
    grid = GridSearchCV(model, {name: ["none", "coral"]}, cv=3, error_score="raise").fit(X, y)
    assert np.isfinite(grid.cv_results_["mean_test_score"]).all()
    said = CellFeatures(**settings, align="coral", target=target).fit(X)
    assert np.array_equal(said.transform(X), said.transform(X, domain="source"))


@pytest.mark.parametrize("kind", ["vectors", "arrays", "paths"])
def test_cells_of_the_target_are_not_taken_for_those_of_the_source(kind, two_tables):
    first, second = two_tables
    X, target, settings = first["path"].tolist(), second["path"].tolist(), COLOUR
    if kind == "arrays":
        X, target = ([read_rgb(Path(path)) for path in paths] for paths in (X, target))
    if kind == "vectors":
        X, settings = drawn_vectors()[0], {"backbone": None}
        target = X[:20] + 1
    model = CellFeatures(**settings, align="coral", target=target).fit(X)
    with pytest.raises(CellfeatError, match="X has 5 cells of target= and does not say of which laboratory they are"):
        model.transform(target[:5])
    assert not np.array_equal(
        model.transform(target[:5], domain="target"), model.transform(target[:5], domain="source")
    )
