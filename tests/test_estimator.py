"""The transformer and the classifier for scikit-learn: its contracts, kinds of X, the numbers of the command line."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn
from estimating import COLOUR, drawn_vectors, work
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator

from cellfeat import (
    CellClassifier,
    CellfeatError,
    CellFeatures,
    UnseenDomainError,
    cell_estimator,
    fitted_pipelines,
    images,
    use,
)
from cellfeat.compose import recipe
from cellfeat.fitted_pipelines import checkpoints
from cellfeat.given import given
from cellfeat.pipeline import resolve
from cellfeat.registry import installed
from cellfeat.workplace import make_encoder

pytestmark = pytest.mark.usefixtures("own_cache")


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


def test_features_are_those_of_extract_bit_for_bit(small_laboratories, drawn_table, tmp_path):
    asked = recipe(data=str(small_laboratories), backbone="colour", sets=["backbone.bins=2"])
    use.extract(asked, tmp_path / "features.parquet", work())
    written = pd.read_parquet(tmp_path / "features.parquet").set_index("id")
    wanted = written.loc[drawn_table["id"], [name for name in written if name.startswith("f")]].to_numpy()
    features = CellFeatures(**COLOUR)
    pixels = [images.read_rgb(Path(path)) for path in drawn_table["path"]]
    for X in (drawn_table, drawn_table["path"].tolist(), drawn_table["path"], pixels, np.stack(pixels)):
        found = features.fit_transform(X)
        assert found.dtype == np.float32
        assert np.array_equal(found, wanted)
        assert np.array_equal(features.transform(X), wanted)
    in_order = written[[name for name in written if name.startswith("f")]].to_numpy()
    assert np.array_equal(features.fit_transform(str(small_laboratories)), in_order)
    assert np.array_equal(features.fit_transform(small_laboratories.parent / "images"), in_order)
    assert features.get_feature_names_out().tolist() == [name for name in written if name.startswith("f")]


def test_a_laboratory_that_was_not_fitted_on_is_refused(two_tables):
    first, second = two_tables
    features = CellFeatures(**COLOUR, align="per-domain-z").fit(first)
    with pytest.raises(UnseenDomainError, match="cannot place the new domain 'lab-b'"):
        features.transform(second)
    adapted = CellFeatures(**COLOUR, align="per-domain-z", target=second).fit(first)
    assert adapted.domains_ == ["lab-a", "lab-b"]
    assert np.abs(adapted.transform(second).mean(axis=0)).max() < 1e-5


def test_labels_of_the_target_are_never_looked_at(two_tables):
    first, second = two_tables
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


def test_target_cells_of_the_sources_own_laboratory_are_left_out(drawn_table, two_tables):
    first, second = two_tables
    both = pd.concat([first, second])
    one = CellFeatures(**COLOUR, align="per-domain-z", target=both).fit(first.iloc[::2])
    other = CellFeatures(**COLOUR, align="per-domain-z", target=second).fit(first.iloc[::2])
    assert np.array_equal(one.transform(both), other.transform(both))
    assert one.notes_ == [
        "20 of 40 cells of target= are of laboratories of X, which are fitted on already, and are left out"
    ]
    assert not other.notes_


def test_methods_that_read_or_write_images_take_arrays_as_they_take_files(two_tables):
    first, second = (table[["path", "domain"]] for table in two_tables)  # without ids, whose order is that of a fit

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


@pytest.mark.parametrize("align", ["coral", "subspace", "self-trained-lda"])
def test_no_result_on_features_depends_on_their_order(align):
    X, names = drawn_vectors()
    order = np.random.default_rng(1).permutation(len(X))
    one = CellClassifier(None, align=align, clf="svm-linear", target=X + 1).fit(X, names)
    other = CellClassifier(None, align=align, clf="svm-linear", target=X[order] + 1).fit(X[order], names[order])
    assert np.array_equal(one.predict_proba(X), other.predict_proba(X))
    twice = CellFeatures(None).fit_transform(np.concatenate([X, X]))
    assert np.array_equal(twice, np.concatenate([X, X]).astype(np.float32)), "equal cells are told apart"


def test_a_fit_goes_on_from_its_own_checkpoints_alone(monkeypatch):
    X, names = drawn_vectors()
    folders = []

    @contextmanager
    def kept(*given):
        with checkpoints(*given) as context:
            folders.append(context.scratch)
            yield context

    def fit(labs, target=X + 1):
        CellClassifier(None, align="per-domain-z", clf="lr", target=(target, labs)).fit(X, names)

    monkeypatch.setattr(cell_estimator, "checkpoints", kept)
    for labs in (["b"] * 45, ["b"] * 30 + ["c"] * 15, ["b"] * 10 + ["c"] * 35):
        fit(labs)
    fit(["b"] * 45, X + 2)
    monkeypatch.setattr(cell_estimator, "made_by", lambda recipe, registry: ["toys 2.0"])
    fit(["b"] * 45)
    assert len(set(folders)) == 5
    monkeypatch.undo()
    assert fitted_pipelines.made_by(CellFeatures(None, align=["none", "cae"])._asked(1, installed()), installed()) == [
        f"{offer.distribution} {offer.version}"
        for name in ("none", "cae")
        for offer in [installed().find("align", name)]
    ]


# Own heads and corrections


def test_a_method_with_a_head_of_its_own_classifies(two_tables):
    first, second = two_tables
    settings = {"epochs": 2, "iterations_per_epoch": 2}
    model = CellClassifier(**COLOUR, align="dann", align_params=settings, clf=None, target=second).fit(first)
    assert model.predict_proba(second).shape == (len(second), 5)
    assert model.features(second).shape[0] == len(second)
    with pytest.raises(CellfeatError, match="has no head of its own"):
        CellClassifier(**COLOUR, align="none", clf=None).fit(first)


def test_what_corrects_probabilities_needs_the_classifier(two_tables):
    first, second = two_tables
    plain = CellClassifier(**COLOUR, clf="lr").fit(first).predict_proba(second)
    shifted = CellClassifier(**COLOUR, clf="lr", align="label-shift", target=second).fit(first).predict_proba(second)
    assert not np.allclose(plain, shifted)
    for name in ("label-shift", "importance"):
        with pytest.raises(CellfeatError, match=rf"CellClassifier\(align='{name}'"):
            CellFeatures(**COLOUR, align=name, target=second).fit(first)
