"""Aligner `tca`: the paper's eigenvectors, no worse than skada's, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import sklearn
from cellfeat_da.tca import TransferComponents
from da_cells import cells_of, drawn, unsigned
from helpers import check_variant

from cellfeat import CellfeatError
from cellfeat.testing import cpu_context


@pytest.fixture
def context(tmp_path):
    return cpu_context(tmp_path)


def matrices(data: dict[str, np.ndarray], kernel: str) -> tuple[np.ndarray, np.ndarray, float]:
    """K, L and the scale, written as in the paper; the source is the first domain."""
    rows = np.concatenate(list(data.values()))
    n, ns = len(rows), len(next(iter(data.values())))
    if kernel == "linear":
        scale = float((rows**2).sum(axis=1).mean())
        values = rows @ rows.T / scale
    else:
        squares = ((rows[:, None] - rows) ** 2).sum(-1)
        scale = float(np.median(squares[np.triu_indices(n, 1)]))
        values = np.exp(-squares / scale)
    discrepancy = np.full((n, n), -1 / (ns * (n - ns)))
    discrepancy[:ns, :ns], discrepancy[ns:, ns:] = 1 / ns**2, 1 / (n - ns) ** 2
    return values, discrepancy, scale


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
@pytest.mark.parametrize("mu", [0.1, 10.0])
def test_the_papers_eigenvectors(context, kernel, mu):
    data = drawn({"s": 20, "t": 15})
    values, discrepancy, _ = matrices(data, kernel)
    centring = np.eye(35) - 1 / 35
    product = np.linalg.solve(values @ discrepancy @ values + mu * np.eye(35), values @ centring @ values)
    found, vectors = scipy.linalg.eig(product)
    leading = vectors[:, np.argsort(-found.real)[:3]].real
    expected = centring @ values @ leading
    expected /= expected.std(axis=0)
    cells = cells_of(data, ("t",))
    out = TransferComponents(components=3, kernel=kernel, mu=mu).fit(cells, context).transform(cells, context)
    np.testing.assert_allclose(unsigned(out), unsigned(expected), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(out.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(out.std(axis=0), 1, rtol=1e-4)


def test_no_worse_than_skada_at_what_both_maximise(context):
    """skada takes a product that is not symmetric for symmetric; the optimum is ours."""
    data = drawn({"s": 20, "t": 15})
    values, discrepancy, scale = matrices(data, "linear")
    values, mu = values * scale, 1.0  # skada's kernel is not scaled
    objective = {}
    with sklearn.config_context(enable_metadata_routing=True):
        skada = pytest.importorskip("skada")
        adapter = skada.TransferComponentAnalysisAdapter(kernel="linear", n_components=3, mu=1 / mu)
        adapter.fit(np.concatenate(list(data.values())), sample_domain=np.repeat([1, -2], [20, 15]))
    assert not sklearn.get_config()["enable_metadata_routing"]
    method = TransferComponents(components=3, kernel="linear", mu=mu / scale**2).fit(cells_of(data, ("t",)), context)
    above = values @ (np.eye(35) - 1 / 35) @ values
    below = values @ discrepancy @ values + mu * np.eye(35)
    for name, weights in (("skada", adapter.eigvects_), ("ours", method.weights_)):
        objective[name] = np.trace(np.linalg.solve(weights.T @ below @ weights, weights.T @ above @ weights))
    best = scipy.linalg.eigvalsh(above, below)[-3:].sum()
    assert objective["ours"] == pytest.approx(best, rel=1e-6)
    assert objective["skada"] <= best * (1 + 1e-6)


def test_the_smaller_mu_the_nearer_the_domains(context):
    cells = cells_of(drawn({"s": 40, "t": 30}), ("t",))

    def distance(mu):
        out = TransferComponents(components=2, mu=mu).fit(cells, context).transform(cells, context)
        return np.linalg.norm(out[~cells.is_target].mean(axis=0) - out[cells.is_target].mean(axis=0))

    near, far = distance(1e-3), distance(1e3)
    assert near < 0.05
    assert far > 1.0


def test_without_targets_variance_alone_counts(context):
    data = drawn({"a": 25})
    cells = cells_of(data, ())
    out = TransferComponents(components=3).fit(cells, context).transform(cells, context)
    scale = np.median(((data["a"][:, None] - data["a"]) ** 2).sum(-1)[np.triu_indices(25, 1)])
    kernel = np.exp(-((data["a"][:, None] - data["a"]) ** 2).sum(-1) / scale)
    leading = np.linalg.svd(kernel - kernel.mean(axis=0))[0][:, :3]
    np.testing.assert_allclose(unsigned(out), unsigned(leading / leading.std(axis=0)), rtol=1e-3, atol=1e-3)


def test_new_cells_of_any_domain_are_placed_by_their_kernel_values(context):
    data = drawn({"s": 20, "t": 15})
    cells = cells_of(data, ("t",))
    method = TransferComponents(components=3).fit(cells, context)
    renamed = cells_of({"never-seen": data["t"][:4]}, ())
    np.testing.assert_allclose(method.transform(renamed, context), method.transform(cells, context)[20:24], atol=1e-5)


@pytest.mark.parametrize(("sizes", "drawn_targets"), [((60, 50), 10), ((60, 4), 4), ((7, 60), 13)])
def test_so_many_cells_are_fitted_half_of_them_targets(context, sizes, drawn_targets):
    data = drawn({"s": sizes[0], "t": sizes[1]})
    cells = cells_of(data, ("t",))
    method = TransferComponents(max_cells=20, components=2).fit(cells, context)
    targets = {tuple(row) for row in data["t"]}
    assert len(method.fitted_) == 20
    assert sum(tuple(row) in targets for row in method.fitted_) == drawn_targets
    assert method.transform(cells, context).shape == (sum(sizes), 2)


def test_linear_kernel_keeps_the_contract_and_notes_what_is_missing(context, tmp_path):
    check_variant(TransferComponents, tmp_path, kernel="linear")
    cells = cells_of(drawn({"s": 20, "t": 15}), ("t",))
    out = TransferComponents(kernel="linear").fit(cells, context).transform(cells, context)
    assert out.shape == (35, 5)
    assert "tca: 5 of 50 components, all that cells and features allow" in context.reporter.notes


def test_cells_that_are_all_alike_and_parameters_that_mean_nothing_are_refused(context):
    with pytest.raises(CellfeatError, match="align 'tca' got cells whose features are all alike"):
        TransferComponents().fit(cells_of({"s": np.ones((5, 3)), "t": np.ones((4, 3))}, ("t",)), context)
    with pytest.raises(CellfeatError, match="align 'tca' needs at least 2 cells, got 1"):
        TransferComponents().fit(cells_of({"s": np.ones((1, 3))}, ()), context)
    with pytest.raises(CellfeatError, match="align 'tca' got no source cells to fit on"):
        TransferComponents().fit(cells_of(drawn({"t": 5}), ("t",)), context)
    for params, message in (
        ({"components": 0}, "components must be at least 1, got 0"),
        ({"mu": 0}, "mu must be above 0, got 0"),
        ({"max_cells": 1001}, "max_cells must be between 2 and 1000, got 1001"),
    ):
        with pytest.raises(CellfeatError, match=f"align 'tca': {message}"):
            TransferComponents(**params)
