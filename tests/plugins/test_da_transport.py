"""Aligners `ot-linear` and `ot-entropic`: closed forms, POT's and skada's numbers, and what they refuse."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import sklearn
from cellfeat_da.entropic import EntropicTransport
from cellfeat_da.transport import LinearTransport
from da_cells import cells_of, drawn
from sklearn.covariance import LedoitWolf

from cellfeat import CellfeatError
from cellfeat.testing import cpu_context

ot = pytest.importorskip("ot")
pytest.importorskip("ot.da")


@pytest.fixture
def context(tmp_path):
    return cpu_context(tmp_path)


def root(matrix: np.ndarray, power: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values**power) @ vectors.T


def monge(own: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The one symmetric positive matrix with A own A = wanted."""
    half, back = root(own, 0.5), root(own, -0.5)
    return back @ root(half @ wanted @ half, 0.5) @ back


def aligned(method, cells, context):
    return method.fit(cells, context).transform(cells, context)


# ot-linear


def test_linear_gives_every_source_the_targets_mean_and_covariance(context):
    data = drawn({"s1": 60, "s2": 30, "t1": 40, "t2": 20})
    cells = cells_of(data, ("t1", "t2"))
    out = aligned(LinearTransport(shrinkage=0), cells, context)
    targets = np.concatenate([data["t1"], data["t2"]])
    for name in ("s1", "s2"):
        rows = out[cells.domain == name]
        np.testing.assert_allclose(rows.mean(axis=0), targets.mean(axis=0), atol=1e-4)
        np.testing.assert_allclose(np.cov(rows.T, bias=True), np.cov(targets.T, bias=True), rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(out[cells.is_target], cells.pooled[cells.is_target])


@pytest.mark.parametrize("shrinkage", [None, 0.3])
def test_linear_is_the_closed_form_of_shrunk_covariances(context, shrinkage):
    data = drawn({"s": 30, "t": 25})

    def covariance(rows):
        if shrinkage is None:
            return LedoitWolf().fit(rows).covariance_
        plain = np.cov(rows.T, bias=True)
        return 0.7 * plain + 0.3 * np.trace(plain) / 5 * np.eye(5)

    source, target = data["s"], data["t"]
    matrix = monge(covariance(source), covariance(target))
    np.testing.assert_allclose(matrix @ covariance(source) @ matrix, covariance(target), atol=1e-9)
    expected = target.mean(axis=0) + (source - source.mean(axis=0)) @ matrix
    out = aligned(LinearTransport(shrinkage), cells_of(data, ("t",)), context)
    np.testing.assert_allclose(out[:30], expected, rtol=1e-4, atol=1e-4)


def test_linear_is_skadas(context):
    data = drawn({"s": 60, "t": 50})
    with sklearn.config_context(enable_metadata_routing=True):
        skada = pytest.importorskip("skada")
        adapter = skada.LinearOTMappingAdapter(reg=1e-10)
        stacked, domain = np.concatenate([data["s"], data["t"]]), np.repeat([1, -2], [60, 50])
        expected = adapter.fit_transform(stacked, sample_domain=domain)
    assert not sklearn.get_config()["enable_metadata_routing"]
    out = aligned(LinearTransport(shrinkage=0), cells_of(data, ("t",)), context)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def test_linear_survives_features_that_never_vary(context):
    data = drawn({"s": 8, "t": 7}, features=12)
    for values in data.values():
        values[:, 1] = 0
    for shrinkage in (None, 0.0):
        out = aligned(LinearTransport(shrinkage), cells_of(data, ("t",)), context)
        assert np.isfinite(out).all()
        assert np.abs(out).max() < 1e3
    data["s"][:] = 3
    assert np.isfinite(aligned(LinearTransport(), cells_of(data, ("t",)), context)).all()


def test_linear_needs_two_cells_of_a_domain(context):
    with pytest.raises(CellfeatError, match=r"at least 2 cells for a covariance and domain 'lonely' has 1; use mean-"):
        aligned(LinearTransport(), cells_of(drawn({"a": 9, "lonely": 1, "t": 9}), ("t",)), context)
    with pytest.raises(CellfeatError, match="the targets together has 1"):
        aligned(LinearTransport(), cells_of(drawn({"a": 9, "t": 1}), ("t",)), context)


# ot-entropic


def test_entropic_is_pots_also_for_cells_that_were_not_fitted(context):
    data = drawn({"s": 30, "t": 25, "u": 10})
    method = EntropicTransport(reg=0.1).fit(cells_of(data, ("t", "u")), context)
    reference = ot.da.SinkhornTransport(reg_e=0.1, norm="median", tol=1e-9, out_of_sample_map="ferradans")
    reference.fit(Xs=data["s"], Xt=np.concatenate([data["t"], data["u"]]))
    fitted = method.transform(cells_of({"s": data["s"]}, ()), context)
    np.testing.assert_allclose(fitted, reference.transform(data["s"]), rtol=1e-4, atol=1e-4)
    new = drawn({"s": 12}, seed=4)["s"]
    found = method.transform(cells_of({"s": new}, ()), context)
    np.testing.assert_allclose(found, reference.transform(new), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(method.transform(cells_of({"u": new}, ()), context), new.astype(np.float32))


@pytest.mark.parametrize("reg", [0.05, 5e-3])  # the second underflows unless it is computed in logarithms
def test_entropic_plan_has_uniform_marginals_and_the_gibbs_form(context, reg):
    data = drawn({"s": 12, "t": 9})
    method = EntropicTransport(reg=reg, iterations=5000)
    cost = ((data["s"][:, None] - data["t"]) ** 2).sum(-1)
    assert (cost.max() / np.median(cost) / reg > 500) == (reg < 0.05)
    plan = method._plan(cost / np.median(cost), np.full(12, -1), "s", context)
    np.testing.assert_allclose(plan.sum(axis=0), 1 / 9, rtol=1e-3)
    np.testing.assert_allclose(plan.sum(axis=1), 1 / 12, rtol=1e-3)
    if reg == 0.05:  # log plan + cost / reg is a sum of a term of the row and one of the column
        potential = np.log(plan) + cost / np.median(cost) / reg
        rank_two = potential - potential.mean(axis=0) - potential.mean(axis=1, keepdims=True) + potential.mean()
        np.testing.assert_allclose(rank_two, 0, atol=1e-8)


def test_entropic_barycentres_keep_the_targets_mean_source_by_source(context):
    data = drawn({"s1": 30, "s2": 12, "t": 20})
    cells = cells_of(data, ("t",))
    out = aligned(EntropicTransport(), cells, context)
    for name in ("s1", "s2"):
        np.testing.assert_allclose(out[cells.domain == name].mean(axis=0), data["t"].mean(axis=0), atol=1e-3)


def test_entropic_moves_an_unfitted_cell_as_its_nearest_fitted_one(context):
    data = drawn({"s": 50, "t": 40})
    cells = cells_of(data, ("t",))
    method = EntropicTransport(max_cells=10).fit(cells, context)
    fitted, image = method.fitted_["s"], method.image_["s"]
    assert fitted.shape == (10, 5)
    assert {tuple(row) for row in fitted} <= {tuple(row) for row in data["s"]}
    out = method.transform(cells, context)[:50]
    nearest = ((data["s"][:, None] - fitted) ** 2).sum(-1).argmin(axis=1)
    np.testing.assert_allclose(out, image[nearest] + data["s"] - fitted[nearest], rtol=1e-5, atol=1e-5)
    drawn_rows = [int(np.flatnonzero((data["s"] == row).all(axis=1))[0]) for row in fitted]
    np.testing.assert_array_equal(out[drawn_rows], image.astype(np.float32))


def labelled(seed: int = 0):
    """Two classes in either domain; the target is shifted so that plain transport mixes the classes."""
    rng = np.random.default_rng(seed)
    kind = np.repeat([0, 1], 15)
    source = np.stack([4.0 * kind, np.zeros(30)], 1) + 0.3 * rng.normal(size=(30, 2))
    target = np.stack([4.0 * kind + 2, np.ones(30)], 1) + 0.3 * rng.normal(size=(30, 2))
    return {name: values.astype(np.float32).astype(float) for name, values in {"s": source, "t": target}.items()}, kind


@pytest.mark.filterwarnings("ignore:Sinkhorn did not converge")  # of the reference
def test_class_regularisation_is_pots(context):
    data, kind = labelled()
    cells = cells_of(data, ("t",), label=np.concatenate([kind, np.full(30, -1)]))
    out = aligned(EntropicTransport(reg=1.0, class_regularisation=1.0, iterations=200), cells, context)
    reference = ot.da.SinkhornLpl1Transport(reg_e=1.0, reg_cl=1.0, norm="median", max_iter=10, max_inner_iter=200)
    expected = reference.fit(Xs=data["s"], ys=kind, Xt=data["t"]).transform(data["s"])
    np.testing.assert_allclose(out[:30], expected, rtol=1e-4, atol=1e-4)
    plain = aligned(EntropicTransport(reg=1.0), cells, context)
    assert np.abs(plain[:30] - out[:30]).max() > 0.01


def test_labels_are_used_only_with_class_regularisation(context):
    assert EntropicTransport().uses_labels is False
    assert EntropicTransport(class_regularisation=0.1).uses_labels is True
    data, kind = labelled()
    first, second = (
        aligned(EntropicTransport(), cells_of(data, ("t",), label=np.concatenate([label, kind])), context)
        for label in (kind, 1 - kind)
    )
    np.testing.assert_array_equal(first, second)


def test_revealed_target_labels_keep_other_classes_away(context):
    """The target's classes lie the other way round: geometry alone would send every class to the other one."""
    data, kind = labelled()
    hidden = np.full(30, -1)
    few = hidden.copy()
    few[[0, 1, 2, 15, 16, 17]] = 1 - kind[[0, 1, 2, 15, 16, 17]]
    goal = {0: data["t"][15:].mean(axis=0), 1: data["t"][:15].mean(axis=0)}

    def towards_own_class(label):
        cells = cells_of(data, ("t",), label=np.concatenate([kind, label]))
        out = aligned(EntropicTransport(reg=0.1, class_regularisation=0.1), cells, context)[:30]
        return np.mean([np.linalg.norm(out[kind == k] - goal[k], axis=1).mean() for k in (0, 1)])

    assert towards_own_class(1 - kind) < 0.7  # all are revealed
    assert towards_own_class(few) < towards_own_class(hidden) - 0.5


def test_class_regularisation_keeps_its_promises_when_saved(context, tmp_path):
    data, kind = labelled()
    cells = cells_of(data, ("t",), label=np.concatenate([kind, np.full(30, -1)]))
    method = EntropicTransport(class_regularisation=0.1).fit(cells, context)
    (tmp_path / "saved").mkdir()
    method.save(tmp_path / "saved")
    loaded = EntropicTransport.load(tmp_path / "saved")
    assert loaded.uses_labels is True
    np.testing.assert_array_equal(loaded.transform(cells, context), method.transform(cells, context))
    again = EntropicTransport(class_regularisation=0.1).fit(cells.hide_labels(cells.is_target), context)
    np.testing.assert_array_equal(again.transform(cells, context), method.transform(cells, context))


def test_class_regularisation_needs_labels(context):
    with pytest.raises(CellfeatError, match="class_regularisation needs labelled cells and domain 's' has none; set"):
        aligned(EntropicTransport(class_regularisation=0.1), cells_of(labelled()[0], ("t",)), context)


def test_a_plan_that_cannot_be_found_is_refused_and_one_cut_short_is_noted(context):
    data, kind = labelled()
    cells = cells_of(data, ("t",), label=np.concatenate([kind, np.full(30, -1)]))
    with pytest.raises(CellfeatError, match="no transport plan for domain 's' with reg=1e-06: too small for these"):
        aligned(EntropicTransport(reg=1e-6, class_regularisation=0.1), cells, context)
    assert not context.reporter.notes
    aligned(EntropicTransport(reg=0.02, iterations=1), cells, context)
    assert any("of the mass of domain 's' is not where it belongs after 1 iter" in n for n in context.reporter.notes)


# both


@pytest.mark.parametrize("method", [LinearTransport, EntropicTransport])
def test_without_targets_nothing_moves(method, context):
    cells = cells_of(drawn({"a": 9, "b": 7}), ())
    np.testing.assert_array_equal(aligned(method(), cells, context), cells.pooled)


@pytest.mark.parametrize("method", [LinearTransport, EntropicTransport])
def test_only_targets_are_refused(method, context):
    with pytest.raises(CellfeatError, match="got no source cells to fit on"):
        aligned(method(), cells_of(drawn({"t": 9}), ("t",)), context)


@pytest.mark.parametrize("method", [LinearTransport, EntropicTransport])
def test_revealed_target_labels_change_nothing_without_a_use_for_them(method, context):
    cells = cells_of(drawn({"a": 20, "b": 15}), ("b",))
    revealed = replace(cells, label=np.arange(35) % 3)
    np.testing.assert_array_equal(aligned(method(), cells, context), aligned(method(), revealed, context))


@pytest.mark.parametrize(("method", "name"), [(LinearTransport, "ot-linear"), (EntropicTransport, "ot-entropic")])
def test_without_pot_the_run_stops_before_any_work(method, name, context, monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    wanted = rf"align '{name}' needs POT, .*: pip install \"cellfeat\[alignment\]\""
    with pytest.raises(CellfeatError, match=wanted):
        method().prepare(context)
    with pytest.raises(CellfeatError, match=wanted):
        method().fit(cells_of(drawn({"a": 9, "b": 8}), ("b",)), context)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearTransport(shrinkage=1.5), "'ot-linear': shrinkage must be between 0 and 1, or none, got 1.5"),
        (lambda: EntropicTransport(reg=0), "'ot-entropic': reg must be above 0, got 0"),
        (lambda: EntropicTransport(max_cells=5000), "max_cells must be between 2 and 2000, got 5000"),
        (lambda: EntropicTransport(class_regularisation=-1), "class_regularisation must be at least 0, got -1"),
        (lambda: EntropicTransport(iterations=0), "iterations must be at least 1, got 0"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(make, message):
    with pytest.raises(CellfeatError, match=message):
        make()
