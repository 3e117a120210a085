"""Paired comparisons against scikit-learn, plain loops and what is known of a test under its hypothesis."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, recall_score

from cellfeat.comparison import Answers, Truth, compare, holm


def truth_of(labels, domains, groups=None) -> Truth:
    """Cells c0, c1, ...; without groups each is its own."""
    ids = [f"c{i:04d}" for i in range(len(labels))]
    named = [dict(zip(ids, map(str, values), strict=True)) for values in (labels, domains, groups or ids)]
    return Truth(*named)


def answers_of(rows, right) -> Answers:
    return Answers(np.array([f"c{i:04d}" for i in rows]), np.asarray(right, float))


def drawn(n=60, share=0.5, seed=0, classes=3):
    """Labels of n cells of one domain, and two methods that are right with a probability each."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), n // classes)
    shares = share if isinstance(share, tuple) else (share, share)
    return labels, [(rng.random(len(labels)) < p).astype(float) for p in shares]


def test_the_difference_is_that_of_scikit_learns_balanced_accuracies_over_classes_with_ten_cells():
    labels = np.repeat([0, 1, 2], [30, 10, 9])
    truth = truth_of(labels, ["b"] * len(labels))
    rng = np.random.default_rng(3)
    predicted = rng.integers(0, 3, (2, len(labels)))
    methods = [{"a → b": answers_of(range(len(labels)), row == labels)} for row in predicted]
    found = compare(*methods, truth, replicates=50)
    one, other = (recall_score(labels, row, labels=[0, 1], average="macro") for row in predicted)
    assert found.difference == pytest.approx(one - other)
    assert found.classes == {"a → b": ["0", "1"]}
    enough = labels < 2
    values = [balanced_accuracy_score(labels[enough], np.where(row == 2, 1 - labels, row)[enough]) for row in predicted]
    assert found.transfers == {"a → b": pytest.approx(values[0] - values[1])}


def test_the_mean_is_over_transfers_that_both_have_and_cells_that_both_answered():
    labels = np.repeat([0, 1], 20)
    truth = truth_of(labels, ["b"] * 40)
    first = {"a → b": answers_of(range(40), np.arange(40) % 2), "c → b": answers_of(range(40), np.ones(40))}
    first["d → b"] = answers_of(range(40), np.ones(40))
    second = {"c → b": answers_of(range(5, 40)[::-1], (np.arange(5, 40) < 20)[::-1])}
    second["a → b"] = answers_of(range(40), np.zeros(40))
    found = compare(first, second, truth, replicates=20)
    assert found.transfers == {"a → b": pytest.approx(0.5), "c → b": pytest.approx(0.5)}
    assert found.difference == pytest.approx(0.5)
    alone = compare({"c → b": first["c → b"]}, {"c → b": second["c → b"]}, truth, replicates=20)
    assert alone.difference == pytest.approx(0.5)


def test_shares_of_several_models_count_by_their_share():
    labels = np.repeat([0, 1], 10)
    truth = truth_of(labels, ["b"] * 20)
    found = compare(
        {"a → b": answers_of(range(20), np.full(20, 0.75))}, {"a → b": answers_of(range(20), np.full(20, 0.5))}, truth
    )
    assert (found.difference, found.low, found.high) == (0.25, 0.25, 0.25)


def test_p_is_uniform_where_the_methods_are_alike():
    values = []
    labels, _ = drawn()
    truth = truth_of(labels, ["b"] * 60)
    for seed in range(150):
        one, other = np.random.default_rng(seed).random((2, 60))  # shares of many models, so that there are no ties
        pair = [{"a → b": answers_of(range(60), right)} for right in (one, other)]
        values.append(compare(*pair, truth, seed, replicates=99).p)
    values = np.array(values)
    assert np.mean(values <= 0.05) < 0.11  # binomial(150, 0.05): 16 or more in 0.4 % of such tests
    assert np.mean(values <= 0.5) == pytest.approx(0.5, abs=0.15)
    assert np.mean(values <= 0.2) > 0.08, "the test is so careful that it finds nothing"


def test_p_is_small_and_the_interval_away_from_zero_for_a_planted_difference():
    labels, (one, other) = drawn(n=150, share=(0.9, 0.6), seed=1)
    truth = truth_of(labels, ["b"] * 150)
    found = compare({"a → b": answers_of(range(150), one)}, {"a → b": answers_of(range(150), other)}, truth)
    assert found.p < 0.001
    assert 0 < found.low < found.difference < found.high < 1
    assert found.p >= 1 / 10_001, "no test by draws can say 0"


def test_alike_answers_have_p_one():
    labels, (one, _) = drawn()
    truth = truth_of(labels, ["b"] * 60)
    found = compare({"a → b": answers_of(range(60), one)}, {"a → b": answers_of(range(60), one)}, truth, replicates=30)
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_the_interval_covers_as_often_as_it_says():
    inside = []
    for seed in range(120):
        labels, (one, other) = drawn(n=120, share=(0.8, 0.6), seed=seed)
        truth = truth_of(labels, ["b"] * 120)
        pair = [{"a → b": answers_of(range(120), right)} for right in (one, other)]
        found = compare(*pair, truth, seed, replicates=250)
        inside.append(found.low <= 0.2 <= found.high)
    assert 0.88 <= np.mean(inside) <= 0.99


def test_exchange_of_the_two_turns_the_sign_and_nothing_else():
    labels, (one, other) = drawn(share=(0.7, 0.6))
    truth = truth_of(labels, ["b"] * 60)
    first, second = ({"a → b": answers_of(range(60), right)} for right in (one, other))
    there, back = compare(first, second, truth, 5, 500), compare(second, first, truth, 5, 500)
    assert there.p == back.p
    assert there.difference == -back.difference
    assert (there.low, there.high) == (pytest.approx(-back.high), pytest.approx(-back.low))
    assert compare(first, second, truth, 5, 500) == there
    assert compare(first, second, truth, 6, 500) != there


# A cell that is target of two transfers


def two_transfers(alike: bool, seed=2, n=40):
    """Two transfers to one domain; the second's answers are the first's, or others."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], n // 2)
    one, other, third, fourth = (rng.random((4, n)) < 0.5).astype(float)
    first = {"a → b": answers_of(range(n), one), "c → b": answers_of(range(n), one if alike else third)}
    second = {"a → b": answers_of(range(n), other), "c → b": answers_of(range(n), other if alike else fourth)}
    return truth_of(labels, ["b"] * n), labels, first, second


def gaps_of(first, second) -> np.ndarray:
    return np.stack([first[name].right - second[name].right for name in first])


@pytest.mark.parametrize("alike", [True, False])
def test_a_cell_is_swapped_in_all_its_transfers_at_once(alike):
    truth, labels, first, second = two_transfers(alike)
    found = compare(first, second, truth, replicates=4000)
    gaps, rng = gaps_of(first, second), np.random.default_rng(7)

    def mean_of(signed):
        return np.mean([np.mean([gap[labels == c].mean() for c in (0, 1)]) for gap in signed])

    signs = rng.choice([-1.0, 1.0], (4000, len(labels)))  # one for a cell, whatever the transfer
    brute = np.array([mean_of(gaps * sign) for sign in signs])
    exceeding = np.mean(np.abs(brute) >= abs(mean_of(gaps)) - 1e-12)
    assert found.difference == pytest.approx(mean_of(gaps))
    assert found.p == pytest.approx(exceeding, abs=0.04)
    # As a check of this test: swapped in each transfer by itself, the answers that are alike would look more certain.
    apart = np.array([mean_of(gaps * rng.choice([-1.0, 1.0], gaps.shape)) for _ in range(2000)])
    assert (apart.std() < 0.85 * brute.std()) == alike


def test_a_cell_is_drawn_in_all_its_transfers_at_once():
    truth, _, first, second = two_transfers(alike=True)
    both = compare(first, second, truth, replicates=1000)
    single = compare({"a → b": first["a → b"]}, {"a → b": second["a → b"]}, truth, replicates=1000)
    assert (both.low, both.high, both.p) == (single.low, single.high, single.p), "the same cells twice tell no more"


# Groups


def clustered(seed=4, groups=12, size=10):
    """Whole groups are right or wrong; every group has both classes."""
    rng = np.random.default_rng(seed)
    labels = np.tile([0, 1], groups * size // 2)
    names = [f"g{i // size}" for i in range(groups * size)]
    one, other = (np.repeat(rng.random((2, groups)) < 0.5, size, axis=1)).astype(float)
    return labels, names, one, other


def test_whole_groups_are_drawn_and_swapped():
    labels, names, one, other = clustered()
    n = len(labels)
    pair = [{"a → b": answers_of(range(n), right)} for right in (one, other)]
    grouped = compare(*pair, truth_of(labels, ["b"] * n, names), replicates=4000)
    single = compare(*pair, truth_of(labels, ["b"] * n), replicates=4000)
    assert grouped.difference == pytest.approx(single.difference)
    assert grouped.high - grouped.low > 2 * (single.high - single.low), "ten cells of a patient are no ten patients"
    gap, member = one - other, np.array([int(name[1:]) for name in names])

    def mean_of(weight, sign):
        rows = weight[member]
        return np.mean([np.average((gap * sign[member])[labels == c], weights=rows[labels == c]) for c in (0, 1)])

    rng = np.random.default_rng(11)
    ones = np.ones(12)
    swapped = np.array([mean_of(ones, rng.choice([-1.0, 1.0], 12)) for _ in range(4000)])
    exceeding = np.mean(np.abs(swapped) >= abs(mean_of(ones, ones)) - 1e-12)
    assert grouped.p == pytest.approx(exceeding, abs=0.04)
    boot = [mean_of(np.bincount(rng.integers(0, 12, 12), minlength=12).astype(float), ones) for _ in range(4000)]
    assert [grouped.low, grouped.high] == pytest.approx(np.quantile(boot, [0.025, 0.975]), abs=0.06)


def test_groups_of_one_name_in_two_laboratories_are_two():
    labels = np.tile([0, 1], 40)
    domains = ["b"] * 40 + ["c"] * 40
    names = [f"g{i % 40 // 10}" for i in range(80)]
    one, other = (np.random.default_rng(5).random((2, 80)) < 0.5).astype(float)
    first, second = (
        {"a → b": answers_of(range(40), right[:40]), "a → c": answers_of(range(40, 80), right[40:])}
        for right in (one, other)
    )
    apart = [f"{domain}{name}" for domain, name in zip(domains, names, strict=True)]
    assert compare(first, second, truth_of(labels, domains, names), replicates=300) == compare(
        first, second, truth_of(labels, domains, apart), replicates=300
    )


# What cannot be compared


def test_no_common_transfer_is_refused():
    truth = truth_of([0] * 10, ["b"] * 10)
    with pytest.raises(ValueError, match="no transfer in common"):
        compare({"a → b": answers_of(range(10), np.ones(10))}, {"c → b": answers_of(range(10), np.ones(10))}, truth)


def test_a_transfer_in_which_no_class_has_ten_cells_says_nothing():
    labels = np.array([0] * 12 + [1] * 12 + [0] * 5 + [1] * 5)
    truth = truth_of(labels, ["b"] * 24 + ["c"] * 10)
    few, enough = range(24, 34), range(24)
    first = {"a → b": answers_of(enough, np.ones(24)), "a → c": answers_of(few, np.ones(10))}
    second = {"a → c": answers_of(few, np.zeros(10)), "a → b": answers_of(enough, np.arange(24) % 2)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare(first, second, truth, replicates=200)
        assert found.transfers == {"a → b": 0.5}
        assert found.difference == 0.5
        with pytest.raises(ValueError, match="no class with at least 10"):
            compare({"a → c": first["a → c"]}, {"a → c": second["a → c"]}, truth)


# Many p-values


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04; the last may not fall below the third.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.04, 0.02]) == pytest.approx([0.04, 0.04])
    assert holm([0.6, 0.9]) == [1, 1]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
