"""Aligners of cached features: the contract of all, and `none`, `per-domain-z`, `mean-centre` and `coral`: the
statistics they promise, and what they refuse."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from cellfeat_da import cellfeat_align
from sklearn.covariance import LedoitWolf

from cellfeat import CellfeatError, Cells, UnseenDomainError
from cellfeat.testing import cpu_context, toy_cells

OWN_FILE = {"balanced-lda", "self-trained-lda", "skada"}  # test_da_discriminant.py, test_da_skada.py
FACTORIES = {
    name: factory for name, factory in cellfeat_align().items() if factory.writes == "pooled" and name not in OWN_FILE
}


@pytest.fixture
def context(tmp_path):
    return cpu_context(tmp_path)


def drawn_cells(sizes: dict[str, int], targets: tuple[str, ...], features: int = 5, seed: int = 0) -> Cells:
    """Correlated features, each domain with its own mean and covariance."""
    rng = np.random.default_rng(seed)
    parts = [
        rng.normal(size=(n, features)) @ (np.eye(features) + 0.3 * rng.normal(size=(features, features)))
        + 10 * rng.normal(size=features)
        for n in sizes.values()
    ]
    domain = np.repeat(list(sizes), list(sizes.values()))
    order = rng.permutation(len(domain))
    pooled = np.concatenate(parts).astype(np.float32)[order]
    domain = domain[order]
    return Cells.from_arrays(np.full(len(domain), -1), domain=domain, is_target=np.isin(domain, targets), pooled=pooled)


def aligned(name: str, cells: Cells, context, **params) -> np.ndarray:
    return FACTORIES[name](**params).fit(cells, context).transform(cells, context)


def root(matrix: np.ndarray, power: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(values**power) @ vectors.T


def test_names_and_what_they_may_see():
    assert set(FACTORIES) == {
        *("none", "per-domain-z", "mean-centre", "coral", "subspace"),
        *("ot-linear", "ot-entropic", "tca", "importance", "label-shift"),
    }
    assert {name for name, factory in FACTORIES.items() if factory().uses_target} == set(FACTORIES) - {"none"}
    assert {name for name, factory in FACTORIES.items() if factory().uses_labels} == {"label-shift"}
    for factory in FACTORIES.values():
        assert (factory().reads, factory().writes) == (("pooled",), "pooled")


def test_import_loads_no_heavy_library():
    heavy = "('torch', 'sklearn', 'ot')"
    code = f"import sys, cellfeat_da as p; p.cellfeat_align(); print([m in sys.modules for m in {heavy}])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[False, False, False]"


def test_none_gives_the_pooled_features_themselves(context):
    cells = drawn_cells({"a": 4, "b": 3}, ("b",))
    np.testing.assert_array_equal(aligned("none", cells, context), cells.pooled)


def test_per_domain_z_standardises_every_domain(context):
    cells = drawn_cells({"a": 30, "b": 7, "c": 12}, ("b", "c"))
    out = aligned("per-domain-z", cells, context)
    for name in "abc":
        rows = out[cells.domain == name]
        np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(rows.std(axis=0), 1, rtol=1e-5)


def test_per_domain_z_uses_what_fit_saw(context):
    cells = drawn_cells({"a": 30, "b": 20}, ("b",))
    method = FACTORIES["per-domain-z"]().fit(cells[:25], context)
    seen, new = cells[:25], cells[25:]
    known = seen.pooled[seen.domain == "a"].astype(np.float64)
    rows = new.domain == "a"
    expected = (new.pooled[rows] - known.mean(axis=0)) / known.std(axis=0)
    np.testing.assert_allclose(method.transform(new, context)[rows], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6])
def test_per_domain_z_divides_a_constant_feature_by_one(context, constant):
    cells = drawn_cells({"a": 900, "b": 8}, ("b",))
    pooled = cells.pooled
    pooled[cells.domain == "a", 2] = constant
    pooled[np.flatnonzero(cells.domain == "a")[0], 2] *= 1 + 1.2e-7  # one step of float32: rounding, not signal
    out = aligned("per-domain-z", cells.with_column("pooled", pooled), context)
    assert np.abs(out[cells.domain == "a", 2]).max() < 0.2  # taken for signal, that one cell would be at 30
    np.testing.assert_allclose(out[cells.domain == "b", 2].std(), 1, rtol=1e-5)


def test_mean_centre_moves_means_and_nothing_else(context):
    cells = drawn_cells({"a": 30, "b": 7}, ("b",))
    out = aligned("mean-centre", cells, context)
    for name in "ab":
        rows, before = out[cells.domain == name], cells.pooled[cells.domain == name]
        np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(rows - rows[0], before - before[0], atol=1e-5)


@pytest.mark.parametrize("regularise", ["ledoit-wolf", "identity"])
def test_coral_with_one_target_is_the_closed_form(context, regularise):
    cells = drawn_cells({"source": 40, "target": 30}, ("target",))
    pooled = cells.pooled
    pooled[np.flatnonzero(cells.is_target)[0], 0] = 1e-20  # lost by whitening and recolouring, even in float64
    cells = cells.with_column("pooled", pooled)
    out = aligned("coral", cells, context, regularise=regularise)
    source, target = (cells.pooled[cells.domain == name].astype(np.float64) for name in ("source", "target"))

    def covariance(rows):
        if regularise == "identity":
            return np.cov(rows, rowvar=False) + np.eye(5)
        return LedoitWolf().fit(rows).covariance_

    whiten, colour = root(covariance(source), -0.5), root(covariance(target), 0.5)
    expected = (source - source.mean(axis=0)) @ whiten @ colour + target.mean(axis=0)
    np.testing.assert_allclose(out[cells.domain == "source"], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(out[cells.domain == "target"], cells.pooled[cells.domain == "target"])


def test_coral_makes_moments_equal_where_cells_are_many(context):
    cells = drawn_cells({"s1": 4000, "s2": 3000, "t1": 3500, "t2": 2500}, ("t1", "t2"))
    out = aligned("coral", cells, context)
    targets = cells[cells.is_target]
    centre = targets.pooled.mean(axis=0)
    within = [targets.pooled[targets.domain == name] for name in ("t1", "t2")]
    pooled = np.cov(np.concatenate([rows - rows.mean(axis=0) for rows in within]), rowvar=False)
    for name in ("s1", "s2", "t1", "t2"):
        rows = out[cells.domain == name]
        np.testing.assert_allclose(rows.mean(axis=0), centre, atol=1e-3)
        np.testing.assert_allclose(np.cov(rows, rowvar=False), pooled, atol=0.06 * np.abs(pooled).max())


def test_coral_without_targets_takes_the_sources_space(context):
    cells = drawn_cells({"a": 30}, ())
    np.testing.assert_array_equal(aligned("coral", cells, context), cells.pooled)


def test_coral_survives_features_that_never_vary(context):
    cells = drawn_cells({"a": 30, "b": 20}, ("b",))
    pooled = cells.pooled
    pooled[:, 1] = 0
    for regularise in ("ledoit-wolf", "identity"):
        out = aligned("coral", cells.with_column("pooled", pooled), context, regularise=regularise)
        assert np.isfinite(out).all()
        assert np.abs(out).max() < 100 * np.abs(pooled).max()
    pooled[cells.domain == "a"] = 3
    assert np.isfinite(aligned("coral", cells.with_column("pooled", pooled), context)).all()


def test_coral_needs_two_cells_of_a_domain(context):
    cells = drawn_cells({"a": 9, "lonely": 1}, ())
    with pytest.raises(CellfeatError, match=r"at least 2 cells for a covariance and domain 'lonely' has 1; use mean-"):
        aligned("coral", cells, context)


@pytest.mark.parametrize("name", ["per-domain-z", "mean-centre", "coral", "subspace", "ot-linear", "ot-entropic"])
def test_an_unseen_domain_is_refused_by_name(name, context):
    cells = drawn_cells({"a": 9, "b": 8, "new": 3}, ("b", "new"))
    method = FACTORIES[name]().fit(cells[cells.domain != "new"], context)
    with pytest.raises(UnseenDomainError, match=f"align '{name}' cannot place the new domain 'new'; .* on a, b"):
        method.transform(cells, context)


@pytest.mark.parametrize("name", FACTORIES)
def test_saving_keeps_every_bit_and_odd_domain_names(name, context, tmp_path):
    cells = drawn_cells({"lab/2 µ": 9, "b": 8}, ("b",))
    cells = replace(cells, label=np.where(cells.is_target, -1, np.arange(len(cells)) % 3))
    method = FACTORIES[name]().fit(cells, context)
    folder = tmp_path / "saved"
    folder.mkdir()
    method.save(folder)
    loaded = type(method).load(folder)
    np.testing.assert_array_equal(loaded.transform(cells, context), method.transform(cells, context))


def test_coral_keeps_its_parameter_when_saved(context, tmp_path):
    FACTORIES["coral"](regularise="identity").fit(toy_cells(), context).save(tmp_path)
    assert FACTORIES["coral"].load(tmp_path).regularise == "identity"


def test_chained_aligners_read_what_the_one_before_wrote(context):
    cells = drawn_cells({"a": 40, "b": 30}, ("b",))
    centred = cells.with_column("pooled", aligned("mean-centre", cells, context))
    out = aligned("per-domain-z", centred, context)
    np.testing.assert_allclose(out, aligned("per-domain-z", cells, context), atol=1e-4)
