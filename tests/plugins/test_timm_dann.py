"""The aligner `dann`: its loss, gradient reversal, schedule and sizes; what it learns, on features and on images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from cellfeat_timm import Dann, adapted_training, loop
from cellfeat_timm.adapted_network import AdaptedNetwork, Standardise
from cellfeat_timm.objectives import Discriminator, domain_loss, reversal_coefficient, reverse_gradient
from helpers import check_variant
from timm_helpers import SHORT, TINY_IMAGES, Interrupting, shifted

from cellfeat import CellfeatError
from cellfeat.testing import cpu_context, toy_cells

DANN = {**SHORT, "hidden": 16}


@pytest.mark.parametrize("params", [{}, TINY_IMAGES, {**TINY_IMAGES, "norm": "group", "augment": "stain"}])
def test_dann_keeps_the_aligner_contract(tmp_path, params):
    check_variant(Dann, tmp_path, **{**DANN, **params})


def test_what_it_reads_depends_on_what_it_works_on():
    assert Dann().reads == ("pooled",)
    assert Dann(inputs="images").reads == ("image",)
    assert Dann.writes == "pooled"


def test_the_defaults_are_tllibs():
    method = Dann()
    assert (method.bottleneck, method.hidden, method.batch_size) == (256, 1024, 32)
    assert (method.epochs, method.iterations_per_epoch, method.trade_off) == (20, 1000, 1)
    assert (method.learning_rate, method.trunk_factor, method.weight_decay) == (0.01, 0.1, 1e-3)
    reversal = (method.reversal_alpha, method.reversal_low, method.reversal_high, method.reversal_steps)
    assert reversal == (1, 0, 1, 1000)


@pytest.mark.parametrize(
    ("step", "coefficient"),
    [(0, 0.0), (500, 0.24491866240370913), (1000, 0.46211715726000976), (5000, 0.98661429815143)],
)
def test_the_reversal_warms_up(step, coefficient):
    assert reversal_coefficient(step, 1.0, 0.0, 1.0, 1000) == pytest.approx(coefficient, rel=1e-12)


def test_the_reversal_runs_from_low_to_high():
    assert reversal_coefficient(0, 1.0, 0.2, 0.7, 10) == pytest.approx(0.2)
    assert reversal_coefficient(10**6, 1.0, 0.2, 0.7, 10) == pytest.approx(0.7)


def test_gradients_are_reversed_and_values_are_not():
    features = torch.tensor([[1.0, -2.0], [3.0, 0.5]], requires_grad=True)
    weight = torch.tensor([[2.0, -1.0], [0.5, 4.0]])
    out = reverse_gradient(features, 0.25)
    assert torch.equal(out, features)
    (out * weight).sum().backward()
    torch.testing.assert_close(features.grad, -0.25 * weight)


def test_the_domain_loss_and_its_gradient_by_hand():
    logits = torch.tensor([0.3, -1.2, 2.0, 0.1, -0.4], dtype=torch.float64, requires_grad=True)
    is_target = torch.tensor([False, True, False, True, True])
    loss = domain_loss(logits, is_target)
    proba = 1 / (1 + np.exp(-logits.detach().numpy()))
    source, target = -np.log(proba[[0, 2]]).mean(), -np.log(1 - proba[[1, 3, 4]]).mean()
    assert loss.item() == pytest.approx((source + target) / 2, rel=1e-12)
    parts = (logits[~is_target], 1.0), (logits[is_target], 0.0)
    halves = [functional.binary_cross_entropy(part.sigmoid(), torch.full_like(part, to)) for part, to in parts]
    torch.testing.assert_close(loss, sum(halves) / 2)
    loss.backward()
    share = np.where(is_target, 1 / 6, 1 / 4)
    np.testing.assert_allclose(logits.grad, (proba - ~is_target.numpy()) * share, rtol=1e-10)
    assert domain_loss(logits[1:2], is_target[1:2]).item() == pytest.approx(-np.log(1 - proba[1]) / 2)


def test_discriminator_and_network_have_tllibs_sizes():
    layers = [type(layer).__name__ for layer in Discriminator(256, 1024)]
    assert layers == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear", "Flatten"]
    shapes = [tuple(value.shape) for value in Discriminator(256, 1024).parameters() if value.ndim == 2]
    assert shapes == [(1024, 256), (1024, 1024), (1, 1024)]
    network = AdaptedNetwork(Standardise(768), 768, 256, 5)
    assert [type(layer).__name__ for layer in network.bottleneck] == ["Linear", "BatchNorm1d", "ReLU"]
    features, logits = network(torch.randn(4, 768))
    assert (tuple(features.shape), tuple(logits.shape)) == ((4, 256), (4, 5))
    assert network.head.in_features == 256


def test_the_learning_rate_is_tllibs_and_smaller_below_the_bottleneck():
    assert adapted_training.learning_rate(0, 0.01) == 0.01
    assert adapted_training.learning_rate(1000, 0.01) == pytest.approx(0.01 * 2**-0.75)
    groups = AdaptedNetwork(torch.nn.Linear(3, 3), 3, 4, 2).groups(0.01, 0.1)
    assert [(group["lr"], group["factor"]) for group in groups] == [(pytest.approx(0.001), 0.1), (0.01, 1), (0.01, 1)]


def test_the_optimiser_is_sgd_with_nesterovs_momentum_at_the_scheduled_rate(tmp_path, monkeypatch):
    seen = []
    plain = loop.Stepper.__call__

    def watched(self, loss):
        name, groups = type(self.optimizer).__name__, self.optimizer.param_groups
        seen.append([(name, g["lr"], g["momentum"], g["nesterov"], g["weight_decay"]) for g in groups])
        plain(self, loss)

    monkeypatch.setattr(loop.Stepper, "__call__", watched)
    Dann(**{**DANN, "epochs": 2, "iterations_per_epoch": 2}).fit(shifted(), cpu_context(tmp_path))
    rates = [0.01 * (1 + 0.001 * step) ** -0.75 for step in range(4)]
    wanted = [[("SGD", pytest.approx(rate), 0.9, True, 1e-3)] * 3 for rate in rates]  # bottleneck, head, discriminator
    assert seen == wanted


def test_batches_hold_labelled_and_unlabelled_cells_and_the_term_reaches_the_features(tmp_path):
    cells = shifted()
    calls = []

    class Watched(Dann):
        def _adversarial(self, discriminator, both):
            calls.append(both)
            return super()._adversarial(discriminator, both)

    method = Watched(**{**DANN, "reversal_low": 1.0})
    method.fit(cells, cpu_context(tmp_path))
    assert [both.step for both in calls] == list(range(6))
    for both in calls:
        assert both.is_target.tolist() == [False] * 8 + [True] * 8
        assert (len(both.features), both.labelled) == (16, 8)
    plain = Dann(**{**DANN, "trade_off": 0.0}).fit(cells, cpu_context(tmp_path / "plain"))
    use = cpu_context(tmp_path)
    assert np.abs(method.transform(cells, use) - plain.transform(cells, use)).max() > 1e-3


def test_it_brings_the_domains_together_and_classifies_the_target(tmp_path):
    cells = shifted(40)
    params = {"epochs": 6, "iterations_per_epoch": 50, "batch_size": 16, "bottleneck": 16, "hidden": 32}
    method = Dann(**params, reversal_steps=100).fit(cells, cpu_context(tmp_path))
    use = cpu_context(tmp_path)
    target = cells[cells.is_target]
    truth = np.repeat([0, 1, 2], 40)
    proba = method.predict_proba(target, use)
    assert np.mean(proba.argmax(1) == truth) > 0.9
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-5)


def test_cached_features_are_standardised_by_the_labelled_source_rows(tmp_path):
    cells = shifted()
    method = Dann(**DANN).fit(cells, cpu_context(tmp_path))
    source = cells.pooled[~cells.is_target].astype(np.float64)
    np.testing.assert_allclose(method.network.trunk.mean, source.mean(0), rtol=1e-5)
    np.testing.assert_allclose(method.network.trunk.deviation, source.std(0), rtol=1e-5)


def test_without_target_cells_the_source_term_alone_is_trained_and_said(tmp_path):
    cells = shifted()
    source = cells[~cells.is_target]
    context = cpu_context(tmp_path / "alone")
    alone = Dann(**DANN).fit(source, context)
    assert context.reporter.notes == [
        "dann: no unlabelled target cells to adapt to; it learns from the labelled cells alone"
    ]
    other = Dann(**{**DANN, "hidden": 8, "trade_off": 5.0}).fit(source, cpu_context(tmp_path / "other"))
    use = cpu_context(tmp_path)
    np.testing.assert_array_equal(alone.transform(cells, use), other.transform(cells, use))


def test_revealed_target_labels_are_learned_from_and_hidden_ones_cannot_be(tmp_path):
    cells = shifted()
    rows = np.flatnonzero(cells.is_target)[::5]
    label = cells.label.copy()
    label[rows] = 2
    seen = []

    class Watched(Dann):
        def _train(self, network, material, context):
            seen.append(material)
            return super()._train(network, material, context)

    few = Watched(**DANN).fit(replace(cells, label=label), cpu_context(tmp_path / "few"))
    assert set(rows) <= set(seen[0].rows)
    assert not set(rows) & set(seen[0].unlabelled)
    assert seen[0].targets[np.isin(seen[0].rows, rows)].tolist() == [2] * len(rows)
    none = Dann(**DANN).fit(cells, cpu_context(tmp_path / "none"))
    use = cpu_context(tmp_path)
    assert not np.array_equal(few.transform(cells, use), none.transform(cells, use))


@pytest.mark.parametrize("params", [{}, TINY_IMAGES, {"select": "information-maximization"}])
def test_a_killed_training_goes_on_to_the_same_result(tmp_path, monkeypatch, params):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    params = {**DANN, **params, "epochs": 4}
    cells = toy_cells()
    whole = Dann(**params).fit(cells, cpu_context(tmp_path / "whole"))
    context = cpu_context(tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        Dann(**params).fit(cells, replace(context, reporter=Interrupting(after=2 * 3 + 1)))
    second = Interrupting()
    resumed = Dann(**params).fit(cells, replace(context, reporter=second))
    assert second.counted[0] == 2 * 3  # the two whole epochs were not trained again
    use = cpu_context(tmp_path)
    np.testing.assert_array_equal(resumed.transform(cells, use), whole.transform(cells, use))
    assert resumed.selected_epoch_ == whole.selected_epoch_


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"epochs": 0}, "epochs=0 is not possible: give at least 1"),
        ({"batch_size": 1}, "batch_size=1 is not possible: give at least 2"),
        ({"iterations_per_epoch": 0}, "iterations_per_epoch=0 is not possible: give at least 1"),
        ({"trade_off": -1.0}, "trade_off=-1.0 is not possible: give at least 0"),
        ({"reversal_steps": 0}, "reversal_steps=0 is not possible: give a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan is not possible: give a number above 0"),
        ({"inputs": "images", "model": "resnet5"}, "timm has no model named 'resnet5'"),
        ({"image_size": 8}, "image_size=8 is not possible"),
    ],
)
def test_impossible_parameters_are_refused(params, message):
    with pytest.raises(CellfeatError, match=message):
        Dann(**params)


def test_one_class_is_nothing_to_learn_from(tmp_path):
    cells = shifted()
    with pytest.raises(CellfeatError, match="dann learns to tell classes apart, but the labelled cells have 1"):
        Dann(**DANN).fit(cells[(cells.label == 0) | cells.is_target], cpu_context(tmp_path))


def test_an_unfitted_method_says_so(tmp_path):
    with pytest.raises(CellfeatError, match="dann has not been fitted yet"):
        Dann().transform(shifted(), cpu_context(tmp_path))


def test_prepare_looks_for_weights_only_where_they_are_used(tmp_path, monkeypatch):
    monkeypatch.setenv("CELLFEAT_OFFLINE", "1")
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path))
    Dann().prepare(cpu_context(tmp_path))
    with pytest.raises(CellfeatError, match="no pretrained weights for resnext50"):
        Dann(inputs="images").prepare(cpu_context(tmp_path))
