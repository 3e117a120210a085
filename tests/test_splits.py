"""Splits depend on ids and seeds alone, never divide a group, and are those of the published protocol."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold

from cellfeat.errors import CellfeatError
from cellfeat.splits import halves, k_fold, splits
from cellfeat.types import Cells


def make_cells(per_domain: int = 60, n_classes: int = 3, group_size: int = 1, seed: int = 0) -> Cells:
    """Three domains with classes at random; groups of neighbouring cells."""
    rng = np.random.default_rng(seed)
    n = 3 * per_domain
    return Cells.from_arrays(
        rng.integers(0, n_classes, size=n),
        domain=np.repeat(["a", "b", "c"], per_domain),
        group=[f"g{i // group_size}" for i in range(n)],
    )


def all_splits(cells: Cells, protocol: str = "cross-domain", folds: int = 5, seed: int = 1234, **which) -> list:
    return list(splits(protocol, cells, folds=folds, seed=seed, **which))


def test_folds_are_those_of_the_published_notebooks():
    cells = make_cells()
    for split, domain in zip(all_splits(cells), "abc", strict=True):
        rows = np.flatnonzero(cells.domain == domain)
        splitter = StratifiedKFold(5, shuffle=True, random_state=1234)
        published = list(splitter.split(np.zeros(len(rows)), cells.label[rows]))
        assert len(split.folds) == 5
        for fold, (train, test) in zip(split.folds, published, strict=True):
            np.testing.assert_array_equal(fold.train, rows[train])
            np.testing.assert_array_equal(fold.test, rows[test])


def test_each_model_is_tested_on_the_whole_of_every_other_domain():
    cells = make_cells()
    found = all_splits(cells)
    assert [split.source for split in found] == [("a",), ("b",), ("c",)]
    assert [list(split.targets) for split in found] == [["b", "c"], ["a", "c"], ["a", "b"]]
    np.testing.assert_array_equal(found[0].targets["c"], np.flatnonzero(cells.domain == "c"))
    np.testing.assert_array_equal(found[0].rows, np.flatnonzero(cells.domain == "a"))
    assert found[0].name == "a"


def test_every_source_row_is_held_out_once():
    for split in all_splits(make_cells()):
        held_out = np.concatenate([fold.test for fold in split.folds])
        assert sorted(held_out) == split.rows.tolist()
        for fold in split.folds:
            assert not set(fold.train) & set(fold.test)
            assert sorted({*fold.train, *fold.test}) == split.rows.tolist()


def test_sources_and_targets_can_be_named_in_any_order():
    cells = make_cells()
    [split] = all_splits(cells, sources=["b", "b"], targets=["c", "b"])
    assert (split.source, list(split.targets)) == (("b",), ["c"])
    assert [split.name for split in all_splits(cells, sources=["c", "a"])] == ["a", "c"]
    [split] = all_splits(cells, sources=["a"], targets=["a"])
    assert split.targets == {}  # its own folds alone


def test_leaving_one_domain_out_trains_on_all_others():
    cells = make_cells()
    found = all_splits(cells, "leave-one-domain-out")
    assert [(split.name, list(split.targets)) for split in found] == [("b+c", ["a"]), ("a+c", ["b"]), ("a+b", ["c"])]
    np.testing.assert_array_equal(found[1].rows, np.flatnonzero(cells.domain != "b"))
    [split] = all_splits(cells, "leave-one-domain-out", targets=["c"], sources=["c", "a"])
    assert (split.name, list(split.targets)) == ("a", ["c"])
    assert all_splits(cells, "leave-one-domain-out", targets=["c"], sources=["c"]) == []


def test_one_source_named_is_one_split_however_many_are_left_out():
    (split,) = all_splits(make_cells(), "leave-one-domain-out", sources=["b"])
    assert split.source == ("b",)
    assert set(split.targets) == {"a", "c"}


def test_unknown_names_are_answered_with_the_nearest():
    cells = make_cells()
    with pytest.raises(CellfeatError, match=r"no domain named 'd'. Available: a, b, c"):
        all_splits(cells, sources=["d"])
    with pytest.raises(CellfeatError, match="no domain named 'd'"):
        all_splits(cells, targets=["d"])
    with pytest.raises(CellfeatError, match=r"no protocol named 'cros-domain'. Did you mean 'cross-domain'"):
        all_splits(cells, "cros-domain")


@pytest.mark.parametrize("protocol", ["cross-domain", "leave-one-domain-out"])
@pytest.mark.parametrize("seed", range(3))
def test_no_fold_divides_a_group(protocol, seed):
    cells = make_cells(group_size=4, seed=seed)
    for split in all_splits(cells, protocol, seed=seed):
        for fold in split.folds:
            assert len(fold.test)
            assert not set(cells.group[fold.train]) & set(cells.group[fold.test])
        assert sorted(np.concatenate([fold.test for fold in split.folds])) == split.rows.tolist()


def test_a_class_with_fewer_cells_than_folds_is_left_out_and_counted():
    cells = make_cells(n_classes=2)
    label = cells.label.copy()
    in_a = np.flatnonzero(cells.domain == "a")
    label[in_a[:4]], label[in_a[4:9]], label[in_a[9:11]] = 2, 3, 5
    cells = replace(cells, label=label)
    first, second, _ = all_splits(cells)
    assert first.left_out == {2: 4, 5: 2}
    assert not set(first.rows) & {*in_a[:4], *in_a[9:11]}
    assert set(first.rows) >= set(in_a[4:9])  # as many as folds is enough
    assert all(3 in cells.label[fold.test] for fold in first.folds)
    np.testing.assert_array_equal(second.targets["a"], in_a)  # targets keep every class
    assert second.left_out == {}
    assert all_splits(cells, folds=2)[0].left_out == {}


def test_cells_without_a_label_neither_train_nor_test():
    cells = make_cells()
    hidden = np.arange(0, len(cells), 7)
    first, second, _ = all_splits(cells.hide_labels(hidden))
    assert not set(hidden) & {*first.rows, *second.targets["a"]}


def test_a_source_with_too_little_to_learn_is_refused():
    cells = make_cells(n_classes=2)
    label = cells.label.copy()
    label[cells.domain == "b"] = 1
    with pytest.raises(CellfeatError) as error:
        all_splits(replace(cells, label=label))
    assert str(error.value) == (
        "source b has fewer than 2 classes with at least 5 labelled cells (or groups); use fewer folds (--folds) "
        "or name the sources that have more (--source)"
    )


def test_fewer_groups_than_folds_are_refused():
    cells = make_cells(group_size=20)
    with pytest.raises(CellfeatError, match="fewer than 2 classes with at least 5 labelled cells"):
        all_splits(cells)
    with pytest.raises(CellfeatError, match="3 groups cannot be divided into 5 folds; use --folds"):
        list(k_fold(cells, np.flatnonzero(cells.domain == "a"), 5, 1))


def test_a_class_that_lies_in_few_groups_is_left_out_and_named():
    cells = make_cells()
    group = cells.group.copy()
    first = (cells.domain == "a") & (cells.label == 0)
    group[first] = "one-patient"
    split = all_splits(replace(cells, group=group))[0]
    assert split.left_out == {0: int(first.sum())}
    assert not set(split.rows) & set(np.flatnonzero(first))


def test_a_domain_without_labels_is_adaptable_and_neither_source_nor_scored():
    cells = make_cells()
    cells = cells.hide_labels(cells.domain == "b")
    found = {split.name: split for split in all_splits(cells)}
    assert "b" not in found
    assert "b" not in found["a"].targets
    np.testing.assert_array_equal(found["a"].adaptable["b"], np.flatnonzero(cells.domain == "b"))


def test_another_seed_gives_other_folds_and_the_same_seed_the_same():
    cells = make_cells()
    one, same, other = (all_splits(cells, seed=seed)[0].folds[0].test for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("group_size", [1, 3])
def test_folds_and_halves_do_not_depend_on_where_a_cell_stands(group_size):
    cells = make_cells(group_size=group_size)
    shuffled = cells[np.random.default_rng(1).permutation(len(cells))]
    for one, other in zip(all_splits(cells), all_splits(shuffled), strict=True):
        for fold, same in zip(one.folds, other.folds, strict=True):
            assert sorted(cells.id[fold.test]) == sorted(shuffled.id[same.test])
        for name in one.targets:
            pairs = halves(cells, one.targets[name]), halves(shuffled, other.targets[name])
            for half, twin in zip(*pairs, strict=True):
                assert sorted(cells.id[half]) == sorted(shuffled.id[twin])


def test_folds_do_not_look_at_anything_but_the_rows_given():
    cells = make_cells()
    rows = np.flatnonzero(cells.domain == "b")
    alone = [cells.id[rows][fold.test] for fold in k_fold(cells[rows], np.arange(len(rows)), 5, 7)]
    for fold, ids in zip(k_fold(cells, rows, 5, 7), alone, strict=True):
        np.testing.assert_array_equal(cells.id[fold.test], ids)


@pytest.mark.parametrize("group_size", [1, 4, 7])
def test_halves_are_disjoint_complete_and_do_not_divide_groups(group_size):
    cells = make_cells(group_size=group_size)
    rows = np.flatnonzero(cells.domain == "b")
    one, two = halves(cells, rows)
    assert sorted([*one, *two]) == rows.tolist()
    assert not set(cells.group[one]) & set(cells.group[two])
    assert abs(len(one) - len(two)) <= group_size
    assert one.tolist() == sorted(one)
    assert two.tolist() == sorted(two)


def test_halves_alternate_by_id_so_that_both_reach_over_the_whole_data_set():
    cells = make_cells()
    one, two = halves(cells, np.arange(10, 20))
    assert one.tolist() == [10, 12, 14, 16, 18]
    assert two.tolist() == [11, 13, 15, 17, 19]


def test_halves_are_blind_to_labels():
    cells = make_cells(group_size=2)
    rows = np.flatnonzero(cells.domain == "c")
    for half, blind in zip(halves(cells, rows), halves(cells.hide_labels(), rows), strict=True):
        np.testing.assert_array_equal(half, blind)


def test_a_target_of_one_group_cannot_be_halved():
    cells = make_cells(group_size=60)
    with pytest.raises(CellfeatError) as error:
        halves(cells, np.flatnonzero(cells.domain == "b"))
    assert str(error.value) == (
        "domain b has 1 group of cells, which cannot be halved: --adapt heldout needs two; use --adapt test or none"
    )


# Few-shot, fewer folds, one target at a time


def few_shot(cells: Cells, shots: int = 3, **which) -> list:
    return all_splits(cells, "few-shot", shots=shots, **which)


def test_few_shot_shows_so_many_cells_of_every_class_and_scores_the_others():
    cells = make_cells()
    whole = all_splits(cells)
    for split, other in zip(few_shot(cells), whole, strict=True):
        assert set(split.shown) == set(split.targets) == set(split.adaptable)
        for name, rows in split.shown.items():
            assert np.bincount(cells.label[rows]).tolist() == [3, 3, 3]
            assert set(cells.domain[rows]) == {name}
            assert rows.tolist() == sorted(rows)
            assert sorted([*rows, *split.targets[name]]) == other.targets[name].tolist()
            np.testing.assert_array_equal(split.adaptable[name], split.targets[name])
        for fold, same in zip(split.folds, other.folds, strict=True):
            np.testing.assert_array_equal(fold.train, same.train)


def test_few_shot_shows_at_most_half_of_a_class():
    cells = make_cells(n_classes=2)
    label, in_b = cells.label.copy(), np.flatnonzero(cells.domain == "b")
    label[in_b[:5]], label[in_b[5]] = 2, 3
    cells = replace(cells, label=label)
    [split] = few_shot(cells, 10, sources=["a"], targets=["b"])
    counts = np.bincount(label[split.shown["b"]], minlength=4)
    assert counts.tolist() == [10, 10, 2, 0]
    assert set(label[split.targets["b"]]) == {0, 1, 2, 3}


def test_shown_cells_are_drawn_by_the_seed_and_not_by_where_they_stand():
    cells = make_cells()
    one, same, other = (few_shot(cells, seed=seed)[0].shown["b"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    shuffled = cells[np.random.default_rng(1).permutation(len(cells))]
    moved = few_shot(shuffled, seed=1)[0].shown["b"]
    assert sorted(shuffled.id[moved]) == sorted(cells.id[one])


def test_groups_of_shown_cells_are_adapted_to_and_not_scored():
    cells = make_cells(group_size=4)
    for split in few_shot(cells, 1):
        for name, rows in split.shown.items():
            assert not set(cells.group[rows]) & set(cells.group[split.targets[name]])
            mates = np.flatnonzero((cells.domain == name) & np.isin(cells.group, cells.group[rows]))
            assert len(mates) > len(rows)
            assert set(split.adaptable[name]) == set(np.flatnonzero(cells.domain == name)) - set(rows)
            assert len(split.targets[name]) + len(mates) == 60


def test_few_shot_that_leaves_nothing_to_score_is_refused():
    cells = make_cells(group_size=30)
    cells = replace(cells, group=np.where(cells.domain == "a", cells.id, cells.group))
    with pytest.raises(CellfeatError) as error:
        few_shot(cells, 5, sources=["a"])
    assert str(error.value) == (
        "after 5 labelled cells per class, and the groups they belong to, no cell of b, c is left to be scored; "
        "ask for fewer (--set protocol.shots=1)"
    )


def test_a_target_without_labels_is_shown_none():
    cells = make_cells()
    cells = cells.hide_labels(cells.domain == "b")
    split = few_shot(cells)[0]
    assert (set(split.shown), set(split.targets), set(split.adaptable)) == ({"c"}, {"c"}, {"b", "c"})


def test_no_other_protocol_shows_labels():
    cells = make_cells()
    for protocol in ("cross-domain", "leave-one-domain-out"):
        assert all(split.shown == {} for split in all_splits(cells, protocol, shots=5))


@pytest.mark.parametrize("protocol", ["cross-domain", "leave-one-domain-out", "few-shot"])
def test_fitted_folds_are_the_first_of_all(protocol):
    cells = make_cells()
    more = {"shots": 2} if protocol == "few-shot" else {}
    for split, whole in zip(
        all_splits(cells, protocol, fitted_folds=2, **more), all_splits(cells, protocol, **more), strict=True
    ):
        assert len(split.folds) == 2
        for fold, same in zip(split.folds, whole.folds, strict=False):
            np.testing.assert_array_equal(fold.train, same.train)
            np.testing.assert_array_equal(fold.test, same.test)
        assert sorted(split.rows) == sorted(whole.rows), "the source is whole, however few models are fitted"
        assert len(all_splits(cells, protocol, fitted_folds=9, **more)[0].folds) == 5


def test_a_split_for_each_target_has_that_target_alone():
    cells = make_cells()
    split = few_shot(cells)[0]
    parts = split.for_each_target()
    assert [[list(part.targets), list(part.adaptable), list(part.shown)] for part in parts] == [
        [["b"]] * 3,
        [["c"]] * 3,
    ]
    for part, name in zip(parts, "bc", strict=True):
        assert (part.source, part.folds, part.left_out) == (split.source, split.folds, split.left_out)
        np.testing.assert_array_equal(part.targets[name], split.targets[name])
        np.testing.assert_array_equal(part.shown[name], split.shown[name])
        np.testing.assert_array_equal(part.adaptable[name], split.adaptable[name])


def test_a_target_without_labels_is_not_fitted_for_alone():
    cells = make_cells()
    split = few_shot(cells.hide_labels(cells.domain == "c"))[0]
    assert [list(part.adaptable) for part in split.for_each_target()] == [["b"]]
