"""Aligner `subspace`: the paper's formula, skada's numbers, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import sklearn
from cellfeat_da.subspace import SubspaceAlignment
from da_cells import cells_of, drawn, unsigned

from cellfeat import CellfeatError
from cellfeat.testing import cpu_context


@pytest.fixture
def context(tmp_path):
    return cpu_context(tmp_path)


def axes(rows: np.ndarray, count: int) -> np.ndarray:
    return np.linalg.svd(rows, full_matrices=False)[2][:count].T


def aligned(cells, context, **params):
    return SubspaceAlignment(**params).fit(cells, context).transform(cells, context)


def test_the_papers_formula_with_each_domain_centred_by_itself(context):
    data = drawn({"s1": 30, "s2": 20, "t1": 25, "t2": 9}, features=6)
    cells = cells_of(data, ("t1", "t2"))
    out = unsigned(aligned(cells, context, components=3))
    centred = {name: values - values.mean(axis=0) for name, values in data.items()}
    sources, targets = (np.concatenate([centred[a], centred[b]]) for a, b in (("s1", "s2"), ("t1", "t2")))
    own, wanted = axes(sources, 3), axes(targets, 3)
    expected = np.concatenate([sources @ own @ own.T @ wanted, targets @ wanted])
    np.testing.assert_allclose(out, unsigned(expected), rtol=1e-4, atol=1e-5)


def test_one_source_and_one_target_are_skadas(context):
    data = drawn({"s": 40, "t": 30}, features=7)
    cells = cells_of(data, ("t",))
    with sklearn.config_context(enable_metadata_routing=True):
        skada = pytest.importorskip("skada")
        adapter = skada.SubspaceAlignmentAdapter(n_components=4)
        expected = adapter.fit_transform(
            np.concatenate([data["s"], data["t"]]), sample_domain=np.repeat([1, -2], [40, 30])
        )
    assert not sklearn.get_config()["enable_metadata_routing"]
    np.testing.assert_allclose(
        unsigned(aligned(cells, context, components=4)), unsigned(expected), rtol=1e-4, atol=1e-5
    )


def test_two_views_of_the_same_cells_agree_once_aligned(context):
    """The target is the source rotated within its plane and moved: its own axes undo that, up to noise."""
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(400, 2)) * (3, 1)
    rotated = plane @ np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    data = {"s": np.pad(plane, ((0, 0), (0, 6))), "t": np.pad(rotated, ((0, 0), (2, 4))) + 5}
    out = aligned(cells_of({k: v + 0.01 * rng.normal(size=v.shape) for k, v in data.items()}, ("t",)), context)
    assert out.shape[1] == 8
    np.testing.assert_allclose(out.reshape(2, 400, 8).mean(axis=1), 0, atol=1e-4)


def test_without_targets_these_are_principal_components(context):
    data = drawn({"a": 40}, features=6)
    out = aligned(cells_of(data, ()), context, components=2)
    centred = data["a"] - data["a"].mean(axis=0)
    np.testing.assert_allclose(unsigned(out), unsigned(centred @ axes(centred, 2)), rtol=1e-4, atol=1e-5)


def test_revealed_target_labels_change_nothing(context):
    cells = cells_of(drawn({"a": 20, "b": 15}), ("b",))
    revealed = replace(cells, label=np.arange(35) % 3)
    np.testing.assert_array_equal(aligned(cells, context), aligned(revealed, context))


@pytest.mark.parametrize(("targets", "left"), [(9, 6), (4, 3)])
def test_too_many_components_are_lowered_and_noted(context, targets, left):
    out = aligned(cells_of(drawn({"a": 20, "b": targets}, features=6), ("b",)), context, components=50)
    assert out.shape == (20 + targets, left)
    assert f"subspace: {left} of 50 components, all that cells and features allow" in context.reporter.notes


def test_lonely_cells_are_refused(context):
    with pytest.raises(CellfeatError, match=r"2 cells in a domain for principal axes and each target domain has fewer"):
        aligned(cells_of(drawn({"a": 20, "b": 1, "c": 1}), ("b", "c")), context)


def test_a_count_that_means_nothing_is_refused():
    with pytest.raises(CellfeatError, match="align 'subspace': components must be at least 1, got 0"):
        SubspaceAlignment(components=0)
