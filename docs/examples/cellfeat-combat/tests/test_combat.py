"""Align `combat` against an independent ComBat, and where that one has no answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cellfeat_combat import empirical_bayes
from cellfeat_combat.combat import Combat

from cellfeat import CellfeatError, Cells, UnseenDomainError
from cellfeat.testing import cpu_context

REFERENCE = json.loads(Path(__file__).with_name("reference.json").read_text())


def reference_cells() -> Cells:
    pooled = np.array(REFERENCE["cells"], np.float32)
    return Cells.from_arrays(np.full(len(pooled), -1), domain=REFERENCE["domain"], is_target=True, pooled=pooled)


def cells_of(**domains: list[list[float]]) -> Cells:
    pooled = np.concatenate([np.array(rows, np.float32) for rows in domains.values()])
    names = np.repeat(list(domains), [len(rows) for rows in domains.values()])
    return Cells.from_arrays(np.full(len(pooled), -1), domain=names, is_target=True, pooled=pooled)


@pytest.fixture
def context(tmp_path):
    return cpu_context(tmp_path)


# Its program ends once nothing moves by more than 1e-4 of itself, ours where nothing moves any more.
@pytest.mark.parametrize(("found", "digits"), [("published", 1e-3), ("settled", 1e-8)])
@pytest.mark.parametrize("reference", [None, "lab-b"])
def test_it_gives_the_numbers_of_an_independent_combat(context, found, digits, reference):
    wanted = REFERENCE["found"][found if reference is None else f"{found}, reference {reference}"]
    cells = reference_cells()
    method = Combat(reference=reference, tolerance=1e-12).fit(cells, context)
    for number, name in enumerate(REFERENCE["domains"]):
        np.testing.assert_allclose(method.gamma_star_[name], wanted["gamma"][number], rtol=0, atol=digits)
        np.testing.assert_allclose(method.delta_star_[name], wanted["delta"][number], rtol=0, atol=digits)
    np.testing.assert_allclose(method.transform(cells, context), wanted["adjusted"], rtol=1e-6, atol=3 * digits)


def test_the_tolerance_sets_digits_and_nothing_else(context):
    cells = reference_cells()
    coarse, fine = (Combat(tolerance=value).fit(cells, context) for value in (1e-3, 1e-12))
    difference = np.abs(coarse.transform(cells, context) - fine.transform(cells, context)).max()
    assert 0 < difference < 1e-2


def test_a_reference_stays_to_the_last_bit(context):
    cells = reference_cells()
    out = Combat(reference="lab-b").fit(cells, context).transform(cells, context)
    np.testing.assert_array_equal(out[cells.domain == "lab-b"], cells.pooled[cells.domain == "lab-b"])
    assert np.abs(out - cells.pooled)[cells.domain != "lab-b"].max() > 0.1


def test_domains_agree_better_than_before_and_less_than_by_their_own_means(context):
    cells = reference_cells()
    out = Combat().fit(cells, context).transform(cells, context)

    def apart(values: np.ndarray) -> float:
        return float(np.std([values[cells.domain == name].mean(axis=0) for name in REFERENCE["domains"]], axis=0).max())

    assert 0 < apart(out) < 0.2 * apart(cells.pooled)  # drawn together, and not onto one point as by mean-centre


def test_a_domain_of_one_cell_has_its_location_adjusted_and_its_scale_left(context):
    """With delta 1, gamma is (spread * z + centre) / (spread + 1), in the mean and variance of its own features."""
    cells = cells_of(many=[[0, 1], [2, 5], [4, 3]], one=[[5, 1]])
    method = Combat().fit(cells, context)
    pooled = cells.pooled.astype(float)
    deviation = np.sqrt(3 / 4 * pooled[:3].var(axis=0))
    z = (pooled[3] - pooled.mean(axis=0)) / deviation
    np.testing.assert_allclose(method.gamma_star_["one"], (z.var(ddof=1) * z + z.mean()) / (z.var(ddof=1) + 1))
    np.testing.assert_array_equal(method.delta_star_["one"], 1)
    assert np.isfinite(method.transform(cells, context)).all()


def test_equal_cells_have_no_scale_either(context):
    cells = cells_of(many=[[0, 1], [2, 5], [4, 3]], equal=[[5, 1], [5, 1], [5, 1]])
    method = Combat().fit(cells, context)
    np.testing.assert_array_equal(method.delta_star_["equal"], 1)
    assert np.isfinite(method.transform(cells, context)).all()


def test_one_feature_alone_is_drawn_nowhere(context):
    cells = cells_of(a=[[1], [2], [6]], b=[[10], [30], [35]])
    method = Combat().fit(cells, context)
    z = (cells.pooled[:, 0] - method.grand_mean_) / np.sqrt(method.pooled_variance_)
    np.testing.assert_allclose(method.gamma_star_["a"], z[:3].mean(), rtol=1e-6)
    np.testing.assert_allclose(method.delta_star_["a"], z[:3].var(ddof=1), rtol=1e-6)


def test_a_feature_that_varies_inside_no_domain_stays_and_does_not_change_the_others(context):
    first, second = [[0, 1], [2, 5], [4, 3]], [[9, 1], [5, 2], [5, 8]]
    without = Combat().fit(cells_of(a=first, b=second), context)
    cells = cells_of(a=[[*row, 0.1] for row in first], b=[[*row, 0.7] for row in second])
    method = Combat().fit(cells, context)
    out = method.transform(cells, context)
    np.testing.assert_array_equal(out[:, 2], cells.pooled[:, 2])
    np.testing.assert_array_equal(method.gamma_star_["a"][:2], without.gamma_star_["a"])


def test_a_domain_alone_stays_and_that_is_said(context):
    cells = cells_of(a=[[0, 1], [2, 5], [4, 3]])
    np.testing.assert_array_equal(Combat().fit(cells, context).transform(cells, context), cells.pooled)
    assert "one domain alone" in context.reporter.notes[0]


def test_domains_of_one_cell_each_stay_and_that_is_said(context):
    cells = cells_of(a=[[0, 1]], b=[[2, 5]])
    np.testing.assert_array_equal(Combat().fit(cells, context).transform(cells, context), cells.pooled)
    assert "no feature that varies inside a domain" in context.reporter.notes[0]


def test_rows_are_answered_by_what_fit_learned(context):
    cells = reference_cells()
    method = Combat().fit(cells, context)
    whole = method.transform(cells, context)
    np.testing.assert_array_equal(method.transform(cells[5:6], context), whole[5:6])
    with pytest.raises(UnseenDomainError, match="cannot place the new domain 'lab-x'"):
        method.transform(cells_of(**{"lab-x": [[0.0] * 6]}), context)


def test_mistakes_are_told_with_their_remedy(context, monkeypatch):
    with pytest.raises(CellfeatError, match="tolerance must be above 0, got 0; the default is 1e-6"):
        Combat(tolerance=0)
    cells = cells_of(a=[[0, 1], [2, 5]], b=[[1, 1]])
    for reference in ("b", "c"):
        with pytest.raises(CellfeatError, match=rf"reference '{reference}' must be .* there are a \(2\), b \(1\)"):
            Combat(reference=reference).fit(cells, context)
    monkeypatch.setattr(empirical_bayes, "MOST_ITERATIONS", 1)
    with pytest.raises(CellfeatError, match=r"did not come to rest within 1 iterations; .* --set align.tolerance"):
        Combat().fit(reference_cells(), context)
