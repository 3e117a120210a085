"""Aligners `balanced-lda` and `self-trained-lda`: their formulas, label shift, few labels, what they refuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cellfeat_da.discriminant import BalancedLDA, SelfTrainedLDA, balanced, fit_discriminant, one_hot, place_sources
from cellfeat_da.moments import PerDomainZ
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression

from cellfeat import CellfeatError, Cells, UnseenDomainError
from cellfeat.testing import check_align, cpu_context

BOTH = [BalancedLDA, SelfTrainedLDA]
FEATURES = 12
CENTRES = 1.6 * np.random.default_rng(3).normal(size=(3, FEATURES))


@pytest.fixture
def context(tmp_path):
    return cpu_context(tmp_path)


def laboratory(counts: tuple[int, ...], seed: int, moved: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """So many cells of every class; a moved laboratory has another offset and gain in every feature."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(len(counts)), counts)
    values = CENTRES[label] + rng.normal(size=(len(label), FEATURES))
    if moved:
        values = values * rng.uniform(0.5, 2.0, FEATURES) + 6 * rng.normal(size=FEATURES)
    return values, label


def cells_of(labs: dict[str, tuple], targets: tuple[str, ...] = ("target",)) -> tuple[Cells, np.ndarray]:
    """Cells with the targets' labels hidden, and the true labels."""
    domain = np.repeat(list(labs), [len(label) for _, label in labs.values()])
    truth = np.concatenate([label for _, label in labs.values()])
    hidden = np.where(np.isin(domain, targets), -1, truth)
    pooled = np.concatenate([values for values, _ in labs.values()]).astype(np.float32)
    return Cells.from_arrays(hidden, domain=domain, is_target=np.isin(domain, targets), pooled=pooled), truth


def shifted() -> tuple[Cells, np.ndarray]:
    """Half of the source, but 5 % of the target, belongs to the first class."""
    return cells_of({"source": laboratory((100, 50, 50), 0), "target": laboratory((10, 30, 160), 1, moved=True)})


def balanced_accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    return float(np.mean([(predicted[truth == k] == k).mean() for k in np.unique(truth)]))


def recall_in_target(method, cells: Cells, truth: np.ndarray, context) -> float:
    out = method.fit(cells, context).transform(cells, context)
    known = LogisticRegression(max_iter=300).fit(out[~cells.is_target], truth[~cells.is_target])
    return balanced_accuracy(truth[cells.is_target], known.predict(out[cells.is_target]))


@pytest.mark.parametrize("factory", BOTH)
def test_contract(factory, tmp_path):
    check_align(factory, tmp_path)


def test_a_changed_mixture_of_classes_misleads_standardisation_and_not_self_training(context):
    cells, truth = shifted()
    assert recall_in_target(PerDomainZ(), cells, truth, context) < 0.85
    assert recall_in_target(BalancedLDA(), cells, truth, context) < 0.8
    assert recall_in_target(SelfTrainedLDA(), cells, truth, context) > 0.93


def test_the_discriminant_is_the_closed_form():
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1, 2], (5, 20, 40))
    values = rng.normal(size=(65, 4)) @ rng.normal(size=(4, 4)) + 3 * rng.normal(size=(3, 4))[label]
    found = fit_discriminant(values, balanced(one_hot(label, np.arange(3))), 0.25)
    within = np.mean([np.cov(values[label == k], rowvar=False, bias=True) for k in range(3)], axis=0)
    covariance = 0.75 * within + 0.25 * np.trace(within) / 4 * np.eye(4)
    for k in range(3):
        mean = values[label == k].mean(axis=0)
        np.testing.assert_allclose(found.weight[:, k], np.linalg.solve(covariance, mean), rtol=1e-9)
        np.testing.assert_allclose(found.bias[k], -mean @ np.linalg.solve(covariance, mean) / 2, rtol=1e-9)


def test_the_intensity_is_ledoit_and_wolfs_where_it_is_above_the_floor():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(60, 30)) * np.linspace(0.5, 2, 30)
    label = np.repeat([0, 1], 30)
    values[label == 1] += 2
    centred = np.concatenate([values[label == k] - values[label == k].mean(axis=0) for k in (0, 1)])
    covariance = LedoitWolf(assume_centered=True).fit(centred).covariance_
    found = fit_discriminant(values, balanced(one_hot(label, np.arange(2))), 0.0)
    mean = values[label == 0].mean(axis=0)
    np.testing.assert_allclose(found.weight[:, 0], np.linalg.solve(covariance, mean), rtol=1e-8)


@pytest.mark.parametrize("factory", BOTH)
def test_repeating_the_cells_of_one_source_class_changes_nothing(factory, context):
    values, label = laboratory((30, 30, 30), 4)
    many = np.concatenate([np.arange(90), *[np.arange(30)] * 4])
    parameters = {"shrinkage": 0.6}  # above the estimated intensity, which the number of cells does change
    parts = []
    for rows in (np.arange(90), many):
        cells, _ = cells_of({"source": (values[rows], label[rows])})
        parts.append(factory(**parameters).fit(cells, context).transform(cells, context)[:90])
    np.testing.assert_allclose(parts[0], parts[1], atol=1e-4)


def test_balanced_lda_places_any_domain_and_gives_its_own_posteriors(context):
    cells, truth = shifted()
    method = BalancedLDA().fit(cells[~cells.is_target], context)
    named = replace(cells, domain=np.array(["new"] * len(cells)))
    proba = method.predict_proba(named, context)
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_array_equal(proba.astype(np.float32), method.transform(named, context))
    source = ~cells.is_target
    assert balanced_accuracy(truth[source], proba[source].argmax(axis=1)) > 0.95


def test_an_offset_and_gain_of_the_target_change_nothing(context):
    cells, _ = shifted()
    first = SelfTrainedLDA().fit(cells, context).transform(cells, context)
    pooled = cells.pooled.astype(np.float64)
    pooled[cells.is_target] = 3 * pooled[cells.is_target] - 7
    other = cells.with_column("pooled", pooled.astype(np.float32))
    np.testing.assert_allclose(SelfTrainedLDA().fit(other, context).transform(other, context), first, atol=2e-3)


def test_every_target_is_placed_by_itself(context):
    labs = {"source": laboratory((50, 50, 50), 0), "t1": laboratory((20, 30, 40), 1, True)}
    alone, _ = cells_of(labs, ("t1",))
    both, _ = cells_of({**labs, "t2": laboratory((40, 5, 5), 2, True)}, ("t1", "t2"))
    one, two = (SelfTrainedLDA().fit(cells, context) for cells in (alone, both))
    rows = alone[alone.domain == "t1"]
    np.testing.assert_allclose(two.transform(rows, context), one.transform(rows, context), atol=1e-6)


def test_revealed_labels_settle_a_target_that_misleads(context):
    # Two classes have changed places: nothing but labels can tell.
    values, label = laboratory((60, 60, 60), 5)
    swapped = np.array([1, 0, 2])[label]
    cells, truth = cells_of({"source": laboratory((40, 40, 40), 6), "target": (values, swapped)})
    target = np.flatnonzero(cells.is_target)

    def right(shown):
        known = cells.label.copy()
        known[shown] = truth[shown]
        method = SelfTrainedLDA().fit(replace(cells, label=known), context)
        hidden = np.setdiff1d(target, shown)
        return balanced_accuracy(truth[hidden], method.predict_proba(cells[hidden], context).argmax(axis=1))

    few = np.concatenate([target[swapped == k][:45] for k in range(3)])
    assert right(np.array([], int)) < 0.4
    assert right(few) > right(np.array([], int)) + 0.1


def test_classes_absent_from_the_target_and_tiny_domains(context):
    cells, truth = cells_of({"source": laboratory((40, 40, 40), 0), "target": laboratory((30, 30), 1, moved=True)})
    assert recall_in_target(SelfTrainedLDA(), cells, truth, context) > 0.85
    for size in (1, 2, 7):
        few = cells[np.r_[0:120, 120 : 120 + size]]
        out = SelfTrainedLDA().fit(few, context).transform(few, context)
        assert np.isfinite(out).all()


def test_a_source_that_lacks_a_class_lies_where_its_classes_lie_in_the_other():
    full, lacking = laboratory((40, 40, 40), 0), laboratory((0, 60, 20), 1)
    values, label = (np.concatenate(parts) for parts in zip(full, lacking, strict=True))
    domain = np.repeat(["full", "lacking"], (120, 80))
    share = one_hot(label, np.arange(3))
    placed, _ = place_sources(values, share, domain, np.ones(200, bool), ["full", "lacking"])
    means = [[placed[(domain == d) & (label == k)].mean(axis=0) for k in (1, 2)] for d in ("full", "lacking")]
    np.testing.assert_allclose(np.mean(means[0], axis=0), np.mean(means[1], axis=0), atol=1e-9)
    assert np.abs(np.mean(means[0], axis=0)).max() > 0.1, "the class that is missing must have pulled the mean"


def test_without_a_target_the_sources_discriminant_is_kept(context):
    cells, truth = cells_of({"a": laboratory((40, 10, 40), 0), "b": laboratory((10, 40, 40), 1, moved=True)}, ())
    proba = SelfTrainedLDA().fit(cells, context).predict_proba(cells, context)
    assert balanced_accuracy(truth, proba.argmax(axis=1)) > 0.95


@pytest.mark.parametrize("factory", BOTH)
def test_features_that_never_vary_do_no_harm(factory, context):
    cells, _ = shifted()
    pooled = cells.pooled
    pooled[:, 3] = 7
    cells = cells.with_column("pooled", pooled)
    assert np.isfinite(factory().fit(cells, context).transform(cells, context)).all()


@pytest.mark.parametrize("factory", BOTH)
def test_saving_keeps_every_bit_and_odd_domain_names(factory, context, tmp_path):
    cells, _ = cells_of({"lab/2 µ": laboratory((9, 9, 9), 0), "target": laboratory((9, 9, 9), 1)})
    method = factory(components=5, shrinkage=0.2).fit(cells, context)
    folder = tmp_path / "saved"
    folder.mkdir()
    method.save(folder)
    loaded = factory.load(folder)
    np.testing.assert_array_equal(loaded.transform(cells, context), method.transform(cells, context))
    assert (loaded.components, loaded.shrinkage) == (5, 0.2)


def test_mistakes_are_told(context):
    cells, _ = shifted()
    method = SelfTrainedLDA().fit(cells, context)
    with pytest.raises(UnseenDomainError, match="align 'self-trained-lda' cannot place the new domain 'new'"):
        method.transform(replace(cells[:2], domain=np.array(["new"] * 2)), context)
    for factory, name in zip(BOTH, ("balanced-lda", "self-trained-lda"), strict=True):
        with pytest.raises(CellfeatError, match=rf"align '{name}' learns .* the labelled cells have 1; give a source"):
            factory().fit(cells[:5], context)
        with pytest.raises(CellfeatError, match="components=0 is not possible: give at least 1"):
            factory(components=0)
        with pytest.raises(CellfeatError, match=r"shrinkage=1.5 is not possible: give a number from 0 to 1"):
            factory(shrinkage=1.5)
    targets = cells[cells.is_target]
    with pytest.raises(CellfeatError, match="'self-trained-lda' got no labelled source cell; it needs a labelled"):
        SelfTrainedLDA().fit(replace(targets, label=np.arange(len(targets)) % 3), context)
