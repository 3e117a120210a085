"""Samples with as many of every kind as there can be."""

from __future__ import annotations

import numpy as np

from cellfeat.sampling import balanced


def test_a_sample_gives_every_stratum_as_much_as_any_other():
    strata = np.repeat(["a", "b", "c"], [100, 10, 3])
    rows = balanced(strata, 30, seed=1)
    assert np.unique(strata[rows], return_counts=True)[1].tolist() == [17, 10, 3]
    assert (np.diff(rows) > 0).all()
    assert np.array_equal(rows, balanced(strata, 30, seed=1))
    assert not np.array_equal(rows, balanced(strata, 30, seed=2))
    assert np.unique(strata[balanced(strata, 30, 1, of_each=2)], return_counts=True)[1].tolist() == [2, 2, 2]
    assert len(balanced(strata, 2, 1)) == 2
    assert len(balanced(np.arange(500).astype(str), 40, 1)) == 40
    assert len(balanced(strata, 1000, 1)) == 113


def test_every_domain_keeps_cells_where_there_are_more_strata_than_places():
    domain, label = np.repeat(np.arange(10), 40).astype(str), np.tile(np.arange(8), 50)
    strata = np.array([f"{d} {c}" for d, c in zip(domain, label, strict=True)])
    rows = balanced(strata, 72, seed=1, of_each=3, within=domain)
    assert sorted(np.unique(domain[rows], return_counts=True)[1]) == [7] * 8 + [8] * 2
    assert len(set(strata[rows])) == 72
    assert set(label[rows]) == set(range(8))
    assert len(set(domain[balanced(strata, 6, 1, within=domain)])) == 6
