"""The conformance kit: right toys pass, and every wrong one is caught by the check that is meant for it."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch

from cellfeat.errors import UnseenDomainError
from cellfeat.testing import (
    check_align,
    cpu_context,
    toy_cells,
    toy_images,
)
from cellfeat.types import UNLABELED


class Centre:
    """A right aligner: minus the mean of the source rows' classes, with a head, weights and a correction."""

    reads, writes, uses_target, uses_labels = ("pooled",), "pooled", True, True

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def fit(self, cells, context):
        source = ~cells.is_target
        self.means_ = np.stack([cells.pooled[source & (cells.label == c)].mean(0) for c in range(3)])
        self.domains_ = sorted(set(cells.domain.tolist()))
        return self

    def transform(self, cells, context):
        if not set(cells.domain) <= set(self.domains_):
            raise UnseenDomainError("centre", cells.domain, self.domains_)
        return ((cells.pooled - self.means_.mean(0)) * self.scale).astype(np.float32)

    def predict_proba(self, cells, context):
        distance = np.square(cells.pooled[:, None] - self.means_).sum(-1)
        score = np.exp(-distance + distance.min(1, keepdims=True))
        return score / score.sum(1, keepdims=True)

    def sample_weight(self, cells):
        return np.ones(len(cells))

    def adjust(self, proba, cells):
        return proba

    def save(self, folder):
        state = {"scale": self.scale, "means": self.means_.tolist(), "domains": self.domains_}
        (folder / "state.json").write_text(json.dumps(state))

    @classmethod
    def load(cls, folder):
        state = json.loads((folder / "state.json").read_text())
        method = cls(state["scale"])
        method.means_, method.domains_ = np.array(state["means"], np.float32), state["domains"]
        return method


class Paint:
    """A right aligner that writes images and looks at no label and no target."""

    reads, writes, uses_target, uses_labels = ("image",), "image", False, False

    def fit(self, cells, context):
        self.shift_ = int(cells.image.mean()) // 10
        return None  # allowed: the method itself is meant

    def transform(self, cells, context):
        return np.clip(cells.image.astype(int) + self.shift_, 0, 255).astype(np.uint8)

    def save(self, folder):
        (folder / "shift.txt").write_text(str(self.shift_))

    @classmethod
    def load(cls, folder):
        method = cls()
        method.shift_ = int((folder / "shift.txt").read_text())
        return method


class AsksForContext(Centre):
    def __init__(self, *, context) -> None:
        super().__init__()
        self.device = context.device

    @classmethod
    def load(cls, folder):
        state = Centre.load(folder)
        method = cls.__new__(cls)
        vars(method).update(vars(state))
        return method


@pytest.mark.parametrize(("factory", "params"), [(Centre, {}), (Centre, {"scale": 2.0}), (Paint, {})])
def test_right_aligners_pass(factory, params, tmp_path):
    method = check_align(factory, tmp_path, **params)
    assert isinstance(method, factory)
    assert getattr(method, "scale", None) == params.get("scale", getattr(factory(), "scale", None))


def test_a_factory_that_asks_for_the_context_is_handed_one(tmp_path):
    assert check_align(AsksForContext, tmp_path).device == torch.device("cpu")


def test_an_aligner_can_be_checked_on_cells_of_ones_own(tmp_path):
    class Wide(Centre):
        def transform(self, cells, context):
            assert cells.column("pooled").shape[1:] == (20,)
            return super().transform(cells, context)

    check_align(Wide, tmp_path, toy_cells(channels=20))


def wrong(base=Centre, **members):
    return type("Wrong", (base,), members)


def transformed(change, base=Centre):
    """A method whose transform is changed afterwards."""
    return wrong(base, transform=lambda self, cells, context: change(base.transform(self, cells, context), cells))


def fitted(change):
    """A method whose fit does something more."""

    def fit(self, cells, context):
        Centre.fit(self, cells, context)
        change(self, cells, context)
        return self

    return wrong(fit=fit)


def draw_globally(self, cells, context):
    self.means_ = self.means_ + torch.rand(1).numpy()


def use_revealed_labels(self, cells, context):
    self.means_ = self.means_ + cells.label[cells.is_target].sum()


def whitened(values, cells):
    return ((values - values.mean(0)) / (values.std(0) + 1e-6)).astype(np.float32)


def save_pickle(self, folder):
    Centre.save(self, folder)
    (folder / "more.pkl").write_bytes(pickle.dumps(1))


def forget_the_scale(folder):
    method = Centre.load(folder)
    method.means_ = method.means_ * 0
    return method


def other_head(folder):
    class Changed(Centre):
        def predict_proba(self, cells, context):
            return np.full((len(cells), 3), 1 / 3)

    method = Centre.load(folder)
    method.__class__ = Changed
    return method


class Sneak(Paint):
    """Says that it uses no labels, and does."""

    def fit(self, cells, context):
        self.shift_ = int(cells.label.max())
        return self


WRONG_ALIGNERS = {
    "no save": (
        type("Half", (), {"reads": ("pooled",), "writes": "pooled", "fit": 0}),
        "the align lacks uses_target, ",
    ),
    "reads a string": (wrong(reads="pooled"), "reads must be a tuple of column names, not 'pooled'"),
    "reads the unknown": (wrong(reads=("pooled", "token")), "reads names token; there are image, mask, map, pooled"),
    "writes maps": (wrong(writes="map"), "writes must be 'pooled' or 'image', not 'map'"),
    "flag": (wrong(uses_target=None), "uses_target must be True or False, not None"),
    "reads more than it says": (wrong(reads=("image",)), "no column of these cells named 'pooled'"),
    "tensor": (transformed(lambda v, cells: torch.from_numpy(v)), "transform must give a NumPy array, not Tensor"),
    "float64": (transformed(lambda v, cells: v.astype(float)), "transform must give float32, not float64"),
    "rows": (transformed(lambda v, cells: v[:-1]), "36 cells went in, 35 rows came out"),
    "shape": (transformed(lambda v, cells: v[:, :, None]), r"transform gave the shape \(36, 8, 1\)"),
    "NaN": (transformed(lambda v, cells: v * np.float32("nan")), "transform gave NaN or infinite values"),
    "image float": (transformed(lambda v, cells: v / 1, Paint), "transform must give uint8, not float64"),
    "image size": (
        transformed(lambda v, cells: v[:, :, :9], Paint),
        r"images of the shape \(12, 3, 9, 32\), not \(12, ",
    ),
    "random": (fitted(draw_globally), "two fits with one seed differ: draw from context.generator only"),
    "order": (
        transformed(lambda v, cells: v[np.argsort(cells.domain, kind="stable")]),
        "rows are not answered in the order they came",
    ),
    "batch": (transformed(whitened), "one row alone is answered differently"),
    "all labels": (Sneak, "labels that should not matter changed the answer"),
    "labels in use": (
        transformed(lambda v, cells: v + (cells.label != UNLABELED)[:, None].astype(np.float32)),
        "transform looks at labels",
    ),
    "unseen": (
        wrong(
            transform=lambda self, cells, context: (
                Centre.transform(self, cells, context) if set(cells.domain) <= set(self.domains_) else {}["never-seen"]
            )
        ),
        "an unseen domain must be placed or refused by UnseenDomainError, not KeyError",
    ),
    "unseen NaN": (
        wrong(
            transform=lambda self, cells, context: (
                Centre.transform(self, cells, context)
                if set(cells.domain) <= set(self.domains_)
                else np.full((len(cells), 8), np.nan, np.float32)
            )
        ),
        "transform gave NaN or infinite values",
    ),
    "proba shape": (
        wrong(predict_proba=lambda self, cells, context: np.ones((len(cells), 4)) / 4),
        r"predict_proba gave \(36, 4\), must be \(cells, classes\) = \(36, 3\)",
    ),
    "proba sum": (
        wrong(predict_proba=lambda self, cells, context: np.ones((len(cells), 3))),
        "the rows of predict_proba do not sum to 1",
    ),
    "adjust": (wrong(adjust=lambda self, proba, cells: proba - 1), "adjust gave negative probabilities"),
    "weight": (wrong(sample_weight=lambda self, cells: np.ones(3)), r"sample_weight gave \(3,\) for 12 cells"),
    "negative weight": (wrong(sample_weight=lambda self, cells: -np.ones(len(cells))), "sample_weight gave negative"),
    "weight NaN": (wrong(sample_weight=lambda self, cells: np.full(len(cells), np.nan)), "sample_weight gave NaN"),
    "pickle": (wrong(save=save_pickle), "more.pkl: a pickle was saved; use safetensors, JSON or skops"),
    "load": (wrong(load=staticmethod(forget_the_scale)), "a loaded copy answers differently"),
    "load head": (wrong(load=staticmethod(other_head)), "a loaded copy gives other probabilities"),
}


@pytest.mark.parametrize("kind", WRONG_ALIGNERS)
def test_wrong_aligners_are_caught(kind, tmp_path):
    factory, message = WRONG_ALIGNERS[kind]
    expected = AttributeError if kind == "reads more than it says" else AssertionError
    with pytest.raises(expected, match=message):
        check_align(factory, tmp_path)


def test_the_cells_of_the_caller_cannot_be_spoiled(tmp_path):
    def spoil(self, cells, context):
        cells.column("pooled").array[:] = 0

    with pytest.raises(ValueError, match="read-only"):
        check_align(fitted(spoil), tmp_path)


def test_toy_cells_are_as_described():
    cells = toy_cells(per_class=2, size=20, channels=5, grid=7)
    assert len(cells) == 18
    shapes = {name: cells.column(name).shape[1:] for name in cells.columns}
    assert shapes == {
        "image": (3, 20, 20),
        "mask": (20, 20),
        "map": (5, 7, 7),
        "pooled": (5,),
        "crop": (3, 128, 128),
    }
    assert {name: str(cells.column(name).dtype) for name in cells.columns} == {
        "image": "uint8",
        "mask": "bool",
        "map": "float32",
        "pooled": "float32",
        "crop": "uint8",
    }
    assert set(cells.domain[~cells.is_target]) == {"here"}
    assert set(cells.label[cells.is_target]) == {UNLABELED}
    assert np.bincount(cells.label[~cells.is_target]).tolist() == [2, 2, 2]
    np.testing.assert_array_equal(toy_cells(seed=3).image, toy_cells(seed=3).image)
    assert not np.array_equal(toy_cells(seed=3).image, toy_cells(seed=4).image)


def test_labels_of_target_cells_may_be_used_where_they_are_revealed(tmp_path):
    check_align(fitted(use_revealed_labels), tmp_path)


def test_toy_images_show_something_dark_in_the_middle():
    images = toy_images(2, 40)
    assert images.shape == (2, 3, 40, 40)
    assert images.dtype == torch.uint8
    assert images[:, :, 18:22, 18:22].float().mean() < 120 < 200 < images[:, :, :4, :4].float().mean()


def test_the_context_is_seeded_and_quiet(tmp_path, capsys):
    context = cpu_context(tmp_path / "new", seed=5)
    context.note("a fallback")
    assert context.seed == 5
    assert context.scratch.is_dir()
    assert context.reporter.notes == ["a fallback"]
    assert capsys.readouterr() == ("", "")
