"""Which cells make up the batches of the autoencoders' training, and what is said of domains that are missing there."""

from __future__ import annotations

import numpy as np
import pytest
from cellfeat_cae.ae_cfe import AeCfe
from cellfeat_cae.bc_sam import BcSamAe
from cellfeat_cae.cae import Cae
from cellfeat_cae.diagnosis import tell
from cellfeat_cae.order import check_balanced, epoch_batches, missing_from
from cellfeat_cae.train import Trainer
from torch import nn

from cellfeat import CellfeatError
from cellfeat.testing import cpu_context, toy_cells

COUNTS = (30, 3, 8)  # cells of a large, a small and a middling domain
DOMAIN = np.random.default_rng(0).permutation(np.repeat(np.arange(3), COUNTS))


def batches(batch_size: int, balanced: bool, seed: int = 0, domain: np.ndarray = DOMAIN) -> list[np.ndarray]:
    return epoch_batches(domain, batch_size, balanced, np.random.default_rng(seed))


def notes_of(method, cells, folder, first_epoch) -> list[str]:
    """What is said of this first epoch; the network plays no part."""
    context = cpu_context(folder)
    trainer = Trainer(nn.Linear(1, 1), cells, method, "here", context)
    tell(trainer, first_epoch)
    return [note for note in context.reporter.notes if "warm-up" not in note]


@pytest.fixture(scope="module")
def cells():
    """Nine cells: of here rows 0 to 2, of there 3 to 5, of elsewhere 6 to 8."""
    return toy_cells(per_class=1)


@pytest.mark.parametrize(("batch_size", "last"), [(8, 1), (41, 41), (64, 41), (1, 1), (10, 1), (12, 5)])
def test_shuffled_has_every_cell_once_and_a_short_last_batch(batch_size, last):
    found = batches(batch_size, balanced=False)
    assert [len(rows) for rows in found] == [batch_size] * (len(found) - 1) + [last]
    assert sorted(np.concatenate(found).tolist()) == list(range(41))
    assert np.concatenate(found).tolist() != list(range(41))


def test_shuffled_batches_of_another_epoch_are_other_ones():
    assert len({tuple(batches(8, balanced=False, seed=seed)[0].tolist()) for seed in range(5)}) == 5


@pytest.mark.parametrize(("batch_size", "quotas"), [(9, (3, 3, 3)), (10, (4, 3, 3)), (11, (4, 4, 3)), (3, (1, 1, 1))])
def test_balanced_has_the_same_share_of_every_domain_to_one(batch_size, quotas):
    found = batches(batch_size, balanced=True)
    assert len(found) == -(-41 // batch_size)
    for rows in found:
        assert np.bincount(DOMAIN[rows], minlength=3).tolist() == list(quotas)


def test_a_balanced_batch_of_more_cells_than_there_are():
    (rows,) = batches(60, balanced=True)
    assert np.bincount(DOMAIN[rows]).tolist() == [20, 20, 20]


@pytest.mark.parametrize("batch_size", [5, 9, 10, 60])
def test_no_row_comes_again_before_all_others_of_its_domain_came(batch_size):
    order = np.concatenate(batches(batch_size, balanced=True))
    for number, count in enumerate(COUNTS):
        stream = order[DOMAIN[order] == number]
        rounds = [stream[start : start + count].tolist() for start in range(0, len(stream), count)]
        assert all(len(set(round_)) == len(round_) for round_ in rounds)
        if number == 1:  # the small domain: in another order every time
            assert len(rounds) > 4
            assert len({tuple(round_) for round_ in rounds[:-1]}) > 1


def test_the_rows_of_a_large_domain_all_come_over_the_epochs():
    large = set(np.flatnonzero(DOMAIN == 0).tolist())
    epochs = [set(np.concatenate(batches(9, balanced=True, seed=seed)).tolist()) & large for seed in range(12)]
    assert all(len(rows) == 15 for rows in epochs)  # five batches of three
    assert set.union(*epochs) == large


@pytest.mark.parametrize("accumulate", [2, 3, 4])
def test_parts_of_a_balanced_batch_are_balanced(accumulate):
    for rows in batches(14, balanced=True):
        for part in np.array_split(rows, accumulate):
            counts = np.bincount(DOMAIN[part], minlength=3)
            assert counts.min() >= 1
            assert counts.max() - counts.min() <= 1


def test_one_domain_alone_can_be_balanced():
    found = batches(4, balanced=True, domain=np.zeros(10, int))
    assert [len(rows) for rows in found] == [4, 4, 4]
    assert set(np.concatenate(found).tolist()) == set(range(10))


@pytest.mark.parametrize("balanced", [False, True])
def test_the_order_is_a_function_of_the_generators_seed(balanced):
    first, again, other = (np.concatenate(batches(9, balanced, seed)).tolist() for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_a_batch_too_small_for_all_domains():
    check_balanced("cae", ["a", "b", "c"], 3)
    with pytest.raises(CellfeatError) as caught:
        check_balanced("cae", ["a", "b", "c"], 2)
    assert str(caught.value) == (
        "align 'cae': a balanced batch has cells of every domain, but batch_size is 2 and there are 3 domains "
        "(a, b, c); set align.batch_size to at least 3"
    )


def test_parts_too_small_for_all_domains(tmp_path):
    check_balanced("cae", ["a", "b", "c"], 6, accumulate=2)
    with pytest.raises(CellfeatError) as caught:
        Cae(batches="balanced", batch_size=5, accumulate=2).fit(toy_cells(per_class=1), cpu_context(tmp_path))
    assert str(caught.value) == (
        "align 'cae': a balanced batch has cells of every domain, but batch_size is 5, in 2 parts, and there are 3 "
        "domains (elsewhere, here, there); set align.batch_size to at least 6"
    )


def test_a_balanced_batch_too_small_for_covariances(cells, tmp_path):
    params = {"batches": "balanced", "discrepancy": "coral"}
    assert notes_of(Cae(**params, batch_size=6), cells, tmp_path, [np.array([0, 1, 3, 4, 6, 7])]) == []
    with pytest.raises(CellfeatError) as caught:
        Cae(**params, batch_size=5).fit(cells, cpu_context(tmp_path))
    assert str(caught.value) == (
        "align 'cae': a balanced batch has 2 cells of every domain, but batch_size is 5 and there are 3 domains "
        "(elsewhere, here, there); set align.batch_size to at least 6"
    )


def test_shares_of_the_batches_without_a_domain():
    domain = np.array([0, 0, 0, 0, 1, 1, 2])
    found = [np.array([0, 4]), np.array([1, 5]), np.array([2, 3]), np.array([6, 0])]
    assert missing_from(found, domain, 4).tolist() == [0, 0.5, 0.75, 1]
    assert missing_from(found, domain, 4, least=2).tolist() == [0.75, 1, 1, 1]


# What is said -----------------------------------------------------------------------------------------------------


EPOCH = [np.array([0, 1, 3, 6]), np.array([2, 4, 5]), np.array([7, 8])]


def test_a_domain_that_is_missing_from_batches_is_named_with_the_remedy(cells, tmp_path):
    assert notes_of(Cae(batch_size=4), cells, tmp_path, EPOCH) == [
        f"cae: 33% of the batches have no cell of domain {name!r} (3 of 9 cells), which is not compared there; "
        "--set align.batches=balanced gives every batch some of each"
        for name in ("elsewhere", "here", "there")
    ]


def test_the_remedy_is_named_where_there_is_one(cells, tmp_path):
    assert notes_of(BcSamAe(batch_size=4), cells, tmp_path, EPOCH[:2]) == [
        "bc-sam-ae: 50% of the batches have no cell of domain 'elsewhere' (3 of 9 cells), which is not compared there"
    ]


def test_covariances_are_of_two_cells_at_least(cells, tmp_path):
    batches = [np.array([0, 1, 3, 4, 6, 7]), np.array([2, 5, 8, 3, 4])]
    assert notes_of(Cae(batch_size=6), cells, tmp_path, batches) == []
    for method in (AeCfe(batch_size=6), Cae(batch_size=6, discrepancy="coral")):
        remedy = "; --set align.batches=balanced gives every batch some of each" if method.name == "cae" else ""
        assert notes_of(method, cells, tmp_path, batches) == [
            f"{method.name}: 50% of the batches have fewer than 2 cells of domain {name!r} (3 of 9 cells), which is "
            "not compared there" + remedy
            for name in ("elsewhere", "here")
        ]


def test_nothing_is_said_where_no_domain_is_missing(cells, tmp_path):
    balanced = Cae(batch_size=3, batches="balanced")
    assert notes_of(balanced, cells, tmp_path, [np.array([0, 3, 6]), np.array([1, 4, 7])]) == []


def test_a_small_share_is_not_called_none(cells, tmp_path):
    (note,) = notes_of(Cae(), cells, tmp_path, [np.arange(9)] * 299 + [np.arange(6)])
    assert note.startswith("cae: less than 1% of the batches have no cell of domain 'elsewhere'")


def test_domains_are_missing_from_the_parts_that_a_batch_is_computed_in(cells, tmp_path):
    together = np.array([0, 3, 6, 1, 4])
    assert notes_of(Cae(batch_size=5), cells, tmp_path, [together]) == []
    (note,) = notes_of(Cae(batch_size=5, accumulate=2), cells, tmp_path, [together])  # (0, 3, 6) and (1, 4)
    assert note.startswith("cae: 50% of the batches' parts have no cell of domain 'elsewhere' (3 of 9 cells)")
    assert notes_of(Cae(batch_size=5, accumulate=5), cells, tmp_path, [together[:3]])[0].startswith("cae: 67% of")
