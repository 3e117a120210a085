"""The transformer and the classifier for scikit-learn: contracts, kinds of X, grids, files, a run's numbers."""

from __future__ import annotations

import json
import pickle
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, LeaveOneGroupOut, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import cellfeat
from cellfeat import CellClassifier, CellfeatError, CellFeatures, UnseenDomainError, images, use
from cellfeat.compose import recipe
from cellfeat.console import SilentReporter
from cellfeat.demo import write_demo
from cellfeat.encoding import BatchEncoder
from cellfeat.fitted_pipelines import checkpoints
from cellfeat.given import given
from cellfeat.pipeline import resolve
from cellfeat.registry import installed
from cellfeat.workplace import Workplace, make_encoder

COLOUR = {"backbone": "colour", "backbone_params": {"bins": 2}, "device": "cpu"}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """One cache for the module, so that the drawn cells are encoded once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELLFEAT_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """Four cells of each of five classes in each of three drawn laboratories, 32 px."""
    return write_demo(tmp_path_factory.mktemp("drawn") / "demo", per_class=4, size=32)


@pytest.fixture(scope="module")
def table(manifest) -> pd.DataFrame:
    """The manifest as a table, paths absolute, rows in another order than the ids."""
    read = pd.read_csv(manifest)
    read["path"] = [str(manifest.parent / path) for path in read["path"]]
    return read.sample(frac=1, random_state=0).reset_index(drop=True)


@pytest.fixture(scope="module")
def two(table) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The cells of one laboratory and those of another."""
    return tuple(table[table["domain"] == name].reset_index(drop=True) for name in ("lab-a", "lab-b"))


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


def work() -> Workplace:
    return Workplace(installed(), SilentReporter(), "cpu")


def statuses(estimator, expected: dict[str, str] | None = None) -> dict[str, list[str]]:
    """{status: names of scikit-learn's checks}."""
    found: dict[str, list[str]] = {}
    for one in check_estimator(estimator, expected_failed_checks=expected, on_skip=None):
        found.setdefault(one["status"], []).append(one["check_name"])
    return found


# scikit-learn's own checks

SKIPPED = ["check_array_api_input"]  # asks for SCIPY_ARRAY_API=1 in the environment


@pytest.mark.parametrize("align", ["none", "per-domain-z"])
def test_the_transformer_of_features_passes_every_check(align):
    found = statuses(CellFeatures(backbone=None, align=align))
    assert found.pop("skipped") == SKIPPED
    assert list(found) == ["passed"]
    assert len(found["passed"]) > 40


def test_the_classifier_of_features_passes_every_check_but_one():
    reason = {"check_classifiers_classes": "it also fits the classes -1 and 1, and here -1 is a hidden label"}
    found = statuses(CellClassifier(backbone=None, clf="lr"), reason)
    assert found.pop("skipped") == SKIPPED
    assert found.pop("xfail") == list(reason)
    assert list(found) == ["passed"]
    assert len(found["passed"]) > 50


def test_the_checks_that_ask_for_no_numbers_hold_for_images_too():
    from sklearn.utils import estimator_checks as checks

    for estimator in (CellFeatures(), CellClassifier()):
        name = type(estimator).__name__
        assert not sklearn.utils.get_tags(estimator).input_tags.two_d_array
        for check in (
            checks.check_parameters_default_constructible,
            checks.check_estimator_cloneable,
            checks.check_estimator_repr,
            checks.check_no_attributes_set_in_init,
            checks.check_get_params_invariance,
            checks.check_set_params,
            checks.check_do_not_raise_errors_in_init_or_set_params,
            checks.check_mixin_order,
            checks.check_valid_tag_types,
        ):
            check(name, clone(estimator))


# The command line's numbers


def test_features_are_those_of_extract_bit_for_bit(manifest, table, tmp_path):
    asked = recipe(data=str(manifest), backbone="colour", sets=["backbone.bins=2"])
    use.extract(asked, tmp_path / "features.parquet", work())
    written = pd.read_parquet(tmp_path / "features.parquet").set_index("id")
    wanted = written.loc[table["id"], [name for name in written if name.startswith("f")]].to_numpy()
    features = CellFeatures(**COLOUR)
    pixels = [images.read_rgb(Path(path)) for path in table["path"]]
    for X in (table, table["path"].tolist(), table["path"], pixels, np.stack(pixels)):
        found = features.fit_transform(X)
        assert found.dtype == np.float32
        assert np.array_equal(found, wanted)
        assert np.array_equal(features.transform(X), wanted)
    in_order = written[[name for name in written if name.startswith("f")]].to_numpy()
    assert np.array_equal(features.fit_transform(str(manifest)), in_order)
    assert np.array_equal(features.fit_transform(manifest.parent / "images"), in_order)
    assert features.get_feature_names_out().tolist() == [name for name in written if name.startswith("f")]


def test_a_laboratory_that_was_not_fitted_on_is_refused(two):
    first, second = two
    features = CellFeatures(**COLOUR, align="per-domain-z").fit(first)
    with pytest.raises(UnseenDomainError, match="cannot place the new domain 'lab-b'"):
        features.transform(second)
    adapted = CellFeatures(**COLOUR, align="per-domain-z", target=second).fit(first)
    assert adapted.domains_ == ["lab-a", "lab-b"]
    assert np.abs(adapted.transform(second).mean(axis=0)).max() < 1e-5


def test_labels_of_the_target_are_never_looked_at(two):
    first, second = two
    shown = {
        name: CellClassifier(**COLOUR, align="self-trained-lda", clf="lr", target=frame)
        for name, frame in {
            "true": second,
            "wrong": second.assign(label="basophil"),
            "none": second.drop(columns="label"),
        }.items()
    }
    found = [one.fit(first).predict_proba(second) for one in shown.values()]
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def said_of(model) -> list[str]:
    """What a fit noted, but for the images that an earlier test had encoded."""
    return [note for note in model.notes_ if "encoded before" not in note]


def test_target_cells_of_the_sources_own_laboratory_are_left_out(table, two):
    first, second = two
    both = pd.concat([first, second])
    one = CellFeatures(**COLOUR, align="per-domain-z", target=both).fit(first.iloc[::2])
    other = CellFeatures(**COLOUR, align="per-domain-z", target=second).fit(first.iloc[::2])
    assert np.array_equal(one.transform(both), other.transform(both))
    assert said_of(one) == [
        "20 of 40 cells of target= are of laboratories of X, which are fitted on already, and are left out"
    ]
    assert not said_of(other)


def test_methods_that_read_or_write_images_take_arrays_as_they_take_files(two):
    first, second = (table[["path", "domain"]] for table in two)  # without ids, whose order is that of a fit

    def read(table):
        return [images.read_rgb(Path(path)) for path in table["path"]]

    painted = {**COLOUR, "align": ["reinhard", "per-domain-z"]}
    files = CellFeatures(**painted, target=second).fit(first)
    arrays = CellFeatures(**painted, target=read(second), target_domain="lab-b", domain="lab-a").fit(read(first))
    assert np.array_equal(arrays.transform(read(first)), files.transform(first))
    assert np.array_equal(arrays.transform(read(second), domain="lab-b"), files.transform(second))
    recipe_ = recipe(backbone="colour", sets=["backbone.bins=2"])
    encoder = make_encoder(resolve(recipe_, installed()), work(), work().context(1, "test"))
    wanted = ("image", "mask", "crop", "pooled")
    one, _ = given(first, "x").encoded(wanted, encoder, work())
    other, _ = given(read(first), "x").encoded(wanted, encoder, work())
    for name in wanted:
        assert np.array_equal(one.read(name), other.read(name)), name


def test_a_fit_that_was_stopped_is_gone_on_from_and_no_two_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path))
    with suppress(KeyboardInterrupt), checkpoints(work(), 1, ["key"]) as context:
        (context.scratch / "epoch-3").touch()
        raise KeyboardInterrupt
    with checkpoints(work(), 1, ["key"]) as context, checkpoints(work(), 1, ["key"]) as other:
        assert [path.name for path in context.scratch.iterdir()] == ["epoch-3"]
        assert other.scratch != context.scratch
        assert list(other.scratch.iterdir()) == []
    assert not context.scratch.exists()
    assert not other.scratch.exists()


# Grids


def test_a_grid_over_aligners_encodes_every_image_once(table, encoded, tmp_path, monkeypatch):
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path))
    model = Pipeline([("features", CellFeatures(**COLOUR, target=table)), ("clf", LogisticRegression(max_iter=50))])
    aligners = ["none", "per-domain-z", "coral", ["mean-centre", "subspace"]]
    cells = table[["path", "domain", "id"]]
    grid = GridSearchCV(model, {"features__align": aligners}, cv=LeaveOneGroupOut(), error_score="raise")
    grid.fit(cells, table["label"], groups=table["domain"])
    assert sum(encoded) == len(table)
    scores = grid.cv_results_["mean_test_score"]
    assert len(set(scores.round(6))) > 1, "the aligners changed nothing"
    assert scores.max() > scores[0], "no aligner is better than none on drawn laboratories"
    assert grid.predict(cells).shape == (len(table),)


def test_what_a_grid_scores_is_what_a_fit_by_hand_scores(table):
    model = CellClassifier(**COLOUR, align="per-domain-z", clf="lr", target=table)
    found = cross_validate(
        model, table[["path", "domain"]], table["label"], cv=LeaveOneGroupOut(), groups=table["domain"]
    )
    for lab, score in zip(sorted(set(table["domain"])), found["test_score"], strict=True):
        rows = table["domain"] == lab
        by_hand = CellClassifier(**COLOUR, align="per-domain-z", clf="lr", target=table[rows]).fit(table[~rows])
        assert by_hand.score(table[rows], table["label"][rows]) == score


def test_a_grid_in_two_processes_gives_what_one_gives(two):
    first, _ = two
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


def test_groups_and_domains_are_routed(two):
    first, _ = two
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


# Labels


def test_cells_without_a_label_are_not_scored(two):
    first, _ = two
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
def test_hidden_labels_are_left_out_of_what_learns_from_labels(two, nothing):
    first, _ = two
    y = first["label"].astype(object)
    y[::3] = nothing
    model = CellClassifier(**COLOUR, clf="lr").fit(first, y.tolist())
    known = [row for row in range(len(first)) if row % 3]
    other = CellClassifier(**COLOUR, clf="lr").fit(first.iloc[known], first["label"].iloc[known])
    assert np.array_equal(model.predict_proba(first), other.predict_proba(first))
    assert model.classes_.tolist() == sorted(set(first["label"]))
    assert said_of(model) == ["7 of 20 cells have no label and are left out of the fit"]


def test_labels_of_a_manifest_or_table_are_taken_and_y_goes_before(manifest, table):
    model = CellClassifier(**COLOUR, clf="lr")
    assert np.array_equal(model.fit(manifest).predict_proba(table), model.fit(table).predict_proba(table))
    assert model.fit(table, table["domain"]).classes_.tolist() == ["lab-a", "lab-b", "lab-c"]
    numbers = model.fit(table, np.arange(len(table)) % 2).predict(table)
    assert numbers.dtype.kind == "i"


def test_a_method_that_learns_from_labels_gives_features_of_hidden_cells_too(two):
    first, _ = two
    y = first["label"].astype(object)
    y[::4] = None
    features = CellFeatures(**COLOUR, align="balanced-lda")
    assert np.array_equal(features.fit_transform(first, y), features.transform(first))
    assert features.fit_transform(first, y).shape == (len(first), features.n_features_out_)


# Own heads and corrections


def test_a_method_with_a_head_of_its_own_classifies(two):
    first, second = two
    settings = {"epochs": 2, "iterations_per_epoch": 2}
    model = CellClassifier(**COLOUR, align="dann", align_params=settings, clf=None, target=second).fit(first)
    assert model.predict_proba(second).shape == (len(second), 5)
    assert model.features(second).shape[0] == len(second)
    with pytest.raises(CellfeatError, match="has no head of its own"):
        CellClassifier(**COLOUR, align="none", clf=None).fit(first)


def test_what_corrects_probabilities_needs_the_classifier(two):
    first, second = two
    plain = CellClassifier(**COLOUR, clf="lr").fit(first).predict_proba(second)
    shifted = CellClassifier(**COLOUR, clf="lr", align="label-shift", target=second).fit(first).predict_proba(second)
    assert not np.allclose(plain, shifted)
    for name in ("label-shift", "importance"):
        with pytest.raises(CellfeatError, match=rf"CellClassifier\(align='{name}'"):
            CellFeatures(**COLOUR, align=name, target=second).fit(first)


# Features that the caller brings


def test_features_of_ones_own_are_aligned_across_laboratories():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 4))
    names = np.repeat(["a", "b"], 15)
    X[names == "b"] += 3
    aligned = CellFeatures(backbone=None, align="per-domain-z").fit_transform(X, domain=names)
    assert np.abs(aligned[names == "b"].mean(axis=0)).max() < 1e-5
    one = CellFeatures(backbone=None, align="coral", target=X[15:]).fit(X[:15])
    pair = CellFeatures(backbone=None, align="coral", target=(X[15:], names[15:])).fit(X[:15])
    assert one.domains_ == ["source", "target"]
    assert pair.domains_ == ["b", "source"]
    assert np.array_equal(one.transform(X[:15], domain="source"), pair.transform(X[:15], domain="source"))


# Outputs and files


def test_tables_come_out_where_they_are_asked_for(two):
    first, _ = two
    out = CellFeatures(**COLOUR).set_output(transform="pandas").fit_transform(first.iloc[::-1])
    assert list(out.columns[:2]) == ["f0", "f1"]
    assert out.index.equals(first.index[::-1])


@pytest.mark.parametrize("way", ["pickle", "folder"])
@pytest.mark.parametrize("kind", [CellFeatures, CellClassifier])
def test_what_was_fitted_comes_back(kind, way, two, tmp_path):
    first, second = two
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


def test_the_command_line_predicts_with_what_python_saved(two, tmp_path):
    first, _ = two
    fitted = CellClassifier(**COLOUR, clf="lr").fit(first)
    fitted.save(tmp_path / "kept")
    files = [Path(path) for path in first["path"]]
    use.predict(tmp_path / "kept", files, tmp_path / "out.csv", "new", None, False, work())
    told = pd.read_csv(tmp_path / "out.csv").set_index("path").loc[first["path"], "label"]
    assert told.tolist() == fitted.predict(first).tolist()
    with pytest.raises(CellfeatError, match="was fitted in Python and does not say where its cells lie"):
        use.predict(tmp_path / "kept", files, tmp_path / "more.csv", "new", None, True, work())


def test_what_cannot_be_kept_or_read_back_is_refused(two, tmp_path):
    first, _ = two
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


def test_wrong_metadata_is_refused(two):
    first, second = two
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
def test_wrong_parameters_are_refused(params, text, two):
    with pytest.raises(CellfeatError, match=text):
        CellFeatures(**{**COLOUR, **params}).fit(two[0]["path"].tolist())


def test_labels_that_teach_nothing_are_refused(two):
    first, _ = two
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
