"""Classes drawn by probabilities, with the source's shares or with their own, and a classifier's prior."""

from __future__ import annotations

import numpy as np
import pytest

from cellfeat.class_shares import drawn_counts, implied_prior, likeliest, shifted_counts


def answers(labels: np.ndarray, fitted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Probabilities of one number that is normal around the class's, right for the shares `fitted`."""
    centres = 2.0 * np.arange(len(fitted))
    place = centres[labels] + rng.normal(size=len(labels))
    density = fitted * np.exp(-((place[:, None] - centres) ** 2) / 2)
    return density / density.sum(axis=1, keepdims=True)


def test_the_class_of_a_cell_is_drawn_from_its_probabilities():
    rng = np.random.default_rng(0)
    proba = np.array([[0.5, 0.3, 0.2]] * 400 + [[0.0, 1.0, 0.0]] * 7)
    drawn = drawn_counts(proba, 500, rng)
    assert set(drawn.sum(axis=1)) == {407}
    assert drawn.mean(axis=0) == pytest.approx([200, 127, 80], abs=2)
    assert drawn[:, 0].std() == pytest.approx(np.sqrt(400 * 0.25), rel=0.15)


@pytest.mark.parametrize("fitted", [(1 / 3, 1 / 3, 1 / 3), (0.1, 0.2, 0.7), (0.6, 0.3, 0.1)])
def test_the_prior_is_the_classifiers_whatever_the_cells_shares(fitted):
    rng = np.random.default_rng(0)
    labels = rng.choice(3, 4000, p=[0.1, 0.2, 0.7])
    proba = answers(labels, np.array(fitted), rng)
    assert implied_prior(proba, labels) == pytest.approx(fitted, abs=0.035)
    assert np.abs(proba.mean(axis=0) - fitted).max() > 0.035 or fitted == (0.1, 0.2, 0.7), "their mean does not tell it"


def test_a_prior_of_sure_answers_or_of_few_cells_is_above_nothing():
    labels = np.array([0, 0, 0, 1])
    assert implied_prior(np.eye(3)[labels], labels) == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    wrong = implied_prior(np.array([[1.0, 0, 0]] * 4), np.array([1, 1, 1, 1]))
    assert np.all((wrong > 0) & np.isfinite(wrong))
    assert wrong.sum() == pytest.approx(1)


def test_shares_are_found_where_they_are_not_the_classifiers():
    rng, shares = np.random.default_rng(1), np.array([0.05, 0.25, 0.7])
    labels = rng.choice(3, 3000, p=shares)
    proba = answers(labels, np.array([0.6, 0.3, 0.1]), rng)
    even = proba / np.array([0.6, 0.3, 0.1])
    assert likeliest(even / even.sum(axis=1, keepdims=True)) == pytest.approx(shares, abs=0.03)
    first, second = shifted_counts(proba, np.array([0.6, 0.3, 0.1]), np.arange(3000) % 3 > 0, 350, rng)
    assert first.shape == second.shape == (350, 3)
    assert set(first.sum(axis=1)) == {2000}
    assert set(second.sum(axis=1)) == {1000}
    truth = np.bincount(labels, minlength=3)
    draws = first + second
    assert np.all(np.abs(draws.mean(axis=0) - truth) < 3 * draws.std(axis=0))
    assert np.all(draws.std(axis=0) < 70)
    assert np.abs(proba.sum(axis=0) - truth).max() > 200, "as they are, the probabilities are wrong"


def test_draws_are_of_the_posterior():
    """Two classes and three cells: the counts' distribution summed over all cases, under a Beta(1/2, 1/2) share."""
    from itertools import product

    from scipy.special import betaln

    proba = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    exact = np.zeros(4)
    for classes in product((0, 1), repeat=3):
        likelihood = np.prod(proba[np.arange(3), list(classes)] / np.array([0.7, 0.3])[list(classes)])
        ones = sum(classes)
        exact[ones] += likelihood * np.exp(betaln(3 - ones + 0.5, ones + 0.5))
    drawn, _ = shifted_counts(proba, np.array([0.7, 0.3]), np.ones(3, bool), 20_000, np.random.default_rng(0))
    found = np.bincount(drawn[:, 1], minlength=4) / len(drawn)
    assert found == pytest.approx(exact / exact.sum(), abs=0.02)


def test_sure_cells_are_counted_and_none_are_none():
    rng = np.random.default_rng(0)
    first, second = shifted_counts(np.eye(3)[[0, 0, 2]], np.ones(3) / 3, np.array([True, False, True]), 5, rng)
    assert first.tolist() == [[1, 0, 1]] * 5
    assert second.tolist() == [[1, 0, 0]] * 5
    first, second = shifted_counts(np.zeros((0, 3)), np.ones(3) / 3, np.zeros(0, bool), 5, rng)
    assert not first.any()
    assert not second.any()
