"""Tables of methods: scores and intervals against plain computations, groups against the test of two methods."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from cellfeat import metrics
from cellfeat.comparison import Answers, Truth, compare
from cellfeat.standings import Field, Standings, told_apart

N, CLASSES = 120, 3
LABEL = np.repeat(np.arange(CLASSES), N // CLASSES)


def answers(rng, share: float, models: int = 2, label=LABEL) -> np.ndarray:
    """(n, m) answers of which about this share is right."""
    wrong = (label[:, None] + rng.integers(1, CLASSES, (len(label), models))) % CLASSES
    return np.where(rng.random((len(label), models)) < share, label[:, None], wrong).astype(np.int16)


def field_of(models, target="b", label=LABEL, group=None) -> Field:
    ids = np.array([f"{target}{i:04d}" for i in range(len(label))])
    return Field(target, ids, label, ids if group is None else np.asarray(group), group is not None, models)


def everyone(methods: int) -> np.ndarray:
    return np.ones(methods, bool)


@pytest.mark.parametrize("metric", metrics.SCORES)
@pytest.mark.parametrize("grouped", [False, True])
def test_scores_and_intervals_are_those_of_one_method_alone(metric, grouped):
    rng = np.random.default_rng(0)
    label = np.append(LABEL, [3] * 5)  # a class with too few cells
    models = [answers(rng, 0.8, label=label), answers(rng, 0.5, models=3, label=label)]
    group = np.array([f"p{i % 30:02d}" for i in range(len(label))]) if grouped else None
    table = Standings({"a → b": field_of(models, label=label, group=group)}, 2).table(["a → b"], metric, everyone(2))
    for one in table:
        alone = metrics.evaluate(label, models[one.method].T, 4, replicates=4000, groups=group)
        assert one.mean == pytest.approx(alone.mean[metric], abs=1e-6)
        assert [one.low, one.high] == pytest.approx([alone.low[metric], alone.high[metric]], abs=0.015)


def test_a_mean_over_transfers_draws_a_cell_in_all_transfers_to_its_laboratory_at_once():
    """The interval of the mean of twice the same answers is that of one of them."""
    rng = np.random.default_rng(1)
    models = [answers(rng, 0.7)]
    fields = {"a → b": field_of(models), "c → b": field_of(models), "a → c": field_of(models, target="c")}
    standings = Standings(fields, 1)
    [one] = standings.table(["a → b"], "accuracy", everyone(1))
    [same] = standings.table(["a → b", "c → b"], "accuracy", everyone(1))
    [other] = standings.table(["a → b", "a → c"], "accuracy", everyone(1))
    assert (same.low, same.high) == (one.low, one.high)
    assert other.high - other.low == pytest.approx((one.high - one.low) / np.sqrt(2), rel=0.15)


def compared(fields, one: int, other: int) -> float:
    """p-value of two methods, by `compare`."""
    ids = np.unique(np.concatenate([field.id for field in fields.values()])).tolist()
    label = {name: str(kind) for field in fields.values() for name, kind in zip(field.id, field.label, strict=True)}
    truth = Truth(label=label, domain={name: name[0] for name in ids}, group={name: name for name in ids})
    own = [
        {key: Answers(field.id, field.right[:, i].astype(float)) for key, field in fields.items()} for i in (one, other)
    ]
    return compare(*own, truth).p


def test_of_two_methods_the_paired_test_decides_as_the_comparison_does():
    seen = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        models = [answers(rng, 0.82), answers(rng, 0.75)]
        fields = {"a → b": field_of(models), "c → b": field_of(models[::-1] if seed % 2 else models)}
        p = compared(fields, 0, 1)
        table = Standings(fields, 2).table(list(fields), "balanced_accuracy", everyone(2))
        apart = table[-1].group == 2
        if p < 0.04 or p > 0.06:  # draws of the two differ
            assert apart == (p < 0.05), (seed, p)
            seen.add((apart, p < 0.1))
    assert seen == {(True, True), (False, True), (False, False)}, "a one-sided test would find what has p = 0.06 to 0.1"


def test_which_pairs_are_told_apart_is_the_maximum_statistic_word_for_word():
    rng = np.random.default_rng(7)
    alike = rng.normal(size=(1000, 5)) * [1, 2, 1, 3, 1]
    alike[:, 4] = alike[:, 0]  # answered every cell as the first did
    means = np.array([5.0, 0.0, -1.0, 6.0, 5.0])
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j and {i, j} != {0, 4}]
    error = {pair: np.sqrt(np.mean((alike[:, pair[0]] - alike[:, pair[1]]) ** 2)) for pair in pairs}
    largest = np.max([np.abs(alike[:, i] - alike[:, j]) / error[i, j] for i, j in pairs], axis=0)
    expected = np.zeros((5, 5), bool)
    for i, j in pairs:
        expected[i, j] = abs(means[i] - means[j]) > np.quantile(largest, 0.95) * error[i, j]
    assert np.array_equal(told_apart(means, alike), expected)
    assert expected.any()
    assert not expected.all()


def test_cells_are_drawn_within_their_class_and_groups_are_not():
    """Right in one class, wrong in the other: within classes there is nothing to vary."""
    label = np.repeat([0, 1], 60)
    models = [np.zeros((120, 1), np.int16)]
    group = np.array([f"p{i // 10:02d}" for i in range(120)])
    spread = {}
    for grouped in (False, True):
        field = field_of(models, label=label, group=group if grouped else None)
        [one] = Standings({"a → b": field}, 1).table(["a → b"], "accuracy", everyone(1))
        spread[grouped] = one.high - one.low
    assert spread[False] == 0
    assert spread[True] == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(12), rel=0.2), "twelve groups of one class each"


@pytest.mark.parametrize("metric", metrics.SCORES)
def test_rows_that_cannot_be_told_apart_are_one_group_and_others_are_not(metric):
    rng = np.random.default_rng(3)
    best = answers(rng, 0.95)
    level = best.copy()
    level[:1] = (LABEL[:1, None] + 1) % CLASSES
    models = [answers(rng, 0.45), level, best, answers(rng, 0.45), None]
    fields = {"a → b": field_of(models)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = Standings(fields, 5).table(["a → b"], metric, everyone(5))
    assert [one.group for one in table] == [1, 1, 2, 2, None]
    assert {one.method for one in table[:2]} == {1, 2}
    assert table[-1].method == 4
    assert np.isnan(table[-1].mean)


def test_a_method_that_may_not_rank_is_in_no_group_and_lets_the_others_lead():
    rng = np.random.default_rng(4)
    models = [answers(rng, 0.95), answers(rng, 0.6)]
    ranked = np.array([False, True])
    table = Standings({"a → b": field_of(models)}, 2).table(["a → b"], "accuracy", ranked)
    assert [(one.method, one.group) for one in table] == [(1, 1), (0, None)]
    assert table[1].mean > table[0].mean


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1"])
def test_a_table_of_equal_methods_is_one_group_but_in_one_of_twenty(metric):
    """Whichever of them happens to lead: the chance is that of any false difference in the table."""
    split = 0
    for seed in range(100):
        rng = np.random.default_rng(1000 + seed)
        models = [answers(rng, 0.7, models=1) for _ in range(20)]
        table = Standings({"a → b": field_of(models)}, 20).table(["a → b"], metric, everyone(20))
        split += table[-1].group != 1
    assert (
        split <= 12
    )  # 5 are expected (7 by the bootstrap of macro-F1); more than 12 have a chance of 1 to 20 in 1,000


@pytest.mark.parametrize("metric", metrics.SCORES)
def test_many_methods_are_told_apart_where_they_differ(metric):
    rng = np.random.default_rng(8)
    models = [answers(rng, share) for share in np.linspace(0.95, 0.4, 40)]
    table = Standings({"a → b": field_of(models)}, 40).table(["a → b"], metric, everyone(40))
    assert table[-1].group >= 3


def test_models_that_were_not_asked_about_a_cell_do_not_count_for_it():
    asked = np.stack([LABEL, np.where(np.arange(N) % 2, -1, (LABEL + 1) % CLASSES)], axis=1).astype(np.int16)
    field = field_of([asked])
    assert field.right[:2, 0].tolist() == [0.5, 1.0]
    standings = Standings({"a → b": field}, 1)
    assert standings.mean("a → b", "accuracy")[0] == pytest.approx(0.75)
    assert standings.mean("a → b", "macro_f1")[0] == pytest.approx(0.5), "one model is always right, the other never"


def test_classes_that_are_all_too_small_give_no_mean_and_no_rank():
    label = np.repeat([0, 1], 6)
    field = field_of([answers(np.random.default_rng(0), 0.8, label=label)], label=label)
    [one] = Standings({"a → b": field}, 1).table(["a → b"], "balanced_accuracy", everyone(1))
    assert np.isnan([one.mean, one.low, one.high]).all()
    assert one.group is None


def test_equal_input_gives_equal_tables():
    models = [answers(np.random.default_rng(6), share) for share in (0.7, 0.8)]
    tables = [Standings({"a → b": field_of(models)}, 2).table(["a → b"], "accuracy", everyone(2)) for _ in range(2)]
    assert tables[0] == tables[1]
