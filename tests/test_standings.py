"""Tables of methods: scores and intervals against plain computations, groups against the test of two methods."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from cellfeat import metrics
from cellfeat.comparison import Answers, Truth, compare
from cellfeat.standings import SWAPS, Field, Standings

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


def test_the_paired_test_is_that_of_two_methods():
    rng = np.random.default_rng(2)
    models = [answers(rng, 0.85), answers(rng, 0.8), answers(rng, 0.72)]
    fields = {"a → b": field_of(models), "c → b": field_of([models[1], models[0], models[2]])}
    standings = Standings(fields, 3)
    names = {i: dict(zip(field.id.tolist(), LABEL.astype(str).tolist(), strict=True)) for i, field in fields.items()}
    every = fields["a → b"].id.tolist()
    truth = Truth(label=names["a → b"], domain=dict.fromkeys(every, "b"), group={name: name for name in every})
    own = [{key: Answers(field.id, field.right[:, i].astype(float)) for key, field in fields.items()} for i in range(3)]
    swapped = np.mean([standings._swapped[name][1] for name in fields], axis=0)
    for other in (1, 2):
        pair = compare(own[0], own[other], truth)
        exceeding = np.sum(np.abs(swapped[:, 0] - swapped[:, other]) >= abs(pair.difference) - 1e-6)
        assert (1 + exceeding) / (1 + SWAPS) == pytest.approx(pair.p, abs=0.02)


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


def test_of_equal_methods_hardly_any_is_taken_for_worse():
    """Under the hypothesis the first group holds nearly all, whatever their number (Holm)."""
    rng = np.random.default_rng(5)
    models = [answers(rng, 0.7, models=1) for _ in range(60)]
    table = Standings({"a → b": field_of(models)}, 60).table(["a → b"], "balanced_accuracy", everyone(60))
    assert sum(one.group == 1 for one in table) >= 55


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
