"""The aligner `mcc`: the class confusion by hand, and what it does to predictions on the target."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cellfeat_timm import Mcc
from cellfeat_timm.objectives import class_confusion
from helpers import check_variant
from timm_helpers import SHORT, TINY_IMAGES, shifted

from cellfeat import CellfeatError
from cellfeat.testing import cpu_context

LOGITS = np.array([[2.0, -1.0, 0.5], [0.0, 1.5, 1.0], [-0.5, 0.25, 3.0]])


def confusion_by_loops(logits, temperature):
    """The paper's equations, number by number; weights is what must not be differentiated."""
    batch, classes = logits.shape
    proba = np.exp(logits / temperature)
    proba /= proba.sum(1, keepdims=True)
    entropy = [-sum(p * np.log(p) for p in row) for row in proba]
    weights = [1 + np.exp(-h) for h in entropy]
    weights = [batch * w / sum(weights) for w in weights]
    matrix = np.zeros((classes, classes))
    for i in range(classes):
        for j in range(classes):
            matrix[i, j] = sum(weights[b] * proba[b, i] * proba[b, j] for b in range(batch))
    loss = sum(matrix[i, j] / matrix[i].sum() for i in range(classes) for j in range(classes) if i != j) / classes
    return loss, proba, np.array(weights)


@pytest.mark.parametrize("params", [{}, TINY_IMAGES])
def test_mcc_keeps_the_aligner_contract(tmp_path, params):
    check_variant(Mcc, tmp_path, **{**SHORT, **params})


@pytest.mark.parametrize("temperature", [2.5, 1.0])
def test_the_confusion_of_three_cells_and_three_classes(temperature):
    loss, _, weights = confusion_by_loops(LOGITS, temperature)
    assert class_confusion(torch.tensor(LOGITS), temperature).item() == pytest.approx(loss, rel=1e-12)
    assert weights.sum() == pytest.approx(3)
    if temperature == 2.5:
        assert loss == pytest.approx(0.60344767, rel=1e-6)


def test_its_gradient_leaves_the_weights_alone():
    logits = torch.tensor(LOGITS, requires_grad=True)
    class_confusion(logits, 2.5).backward()
    _, _, weights = confusion_by_loops(LOGITS, 2.5)

    def with_fixed_weights(values):
        proba = np.exp(values / 2.5)
        proba /= proba.sum(1, keepdims=True)
        matrix = (proba * weights[:, None]).T @ proba
        matrix /= matrix.sum(1, keepdims=True)
        return (matrix.sum() - np.trace(matrix)) / 3

    numeric = np.zeros_like(LOGITS)
    for index in np.ndindex(3, 3):
        step = np.zeros_like(LOGITS)
        step[index] = 1e-6
        numeric[index] = (with_fixed_weights(LOGITS + step) - with_fixed_weights(LOGITS - step)) / 2e-6
    np.testing.assert_allclose(logits.grad, numeric, rtol=1e-6, atol=1e-10)


def test_sure_and_varied_predictions_have_no_confusion_and_even_ones_have_the_most():
    assert class_confusion(torch.eye(4) * 1000, 2.5).item() == pytest.approx(0, abs=1e-6)
    assert class_confusion(torch.zeros(6, 4), 2.5).item() == pytest.approx(3 / 4)


def test_the_defaults_are_tllibs():
    method = Mcc()
    assert (method.temperature, method.learning_rate, method.batch_size) == (2.5, 0.005, 36)
    assert (method.bottleneck, method.epochs, method.iterations_per_epoch, method.trade_off) == (256, 20, 1000, 1)
    assert (method.trunk_factor, method.weight_decay) == (0.1, 1e-3)


def test_the_term_sees_the_targets_logits_alone_and_lowers_their_confusion(tmp_path, monkeypatch):
    seen = []

    def watched(logits, temperature):
        seen.append((tuple(logits.shape), temperature))
        return class_confusion(logits, temperature)

    monkeypatch.setattr("cellfeat_timm.objectives.class_confusion", watched)
    params = {"epochs": 1, "iterations_per_epoch": 60, "batch_size": 12, "bottleneck": 8}
    cells, confusions = shifted(), []
    for trade_off in (0.0, 5.0):
        method = Mcc(**params, trade_off=trade_off).fit(cells, cpu_context(tmp_path / str(trade_off)))
        proba = method.predict_proba(cells[cells.is_target], cpu_context(tmp_path))
        confusions.append(class_confusion(torch.from_numpy(proba).log(), 1.0).item())
    assert set(seen) == {((12, 3), 2.5)}
    assert confusions[1] < 0.8 * confusions[0]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0 is not possible: give a number above 0"),
        ({"iterations_per_epoch": 0}, "iterations_per_epoch=0 is not possible: give at least 1"),
        ({"trade_off": -0.5}, "trade_off=-0.5 is not possible: give at least 0"),
    ],
)
def test_impossible_parameters_are_refused(params, message):
    with pytest.raises(CellfeatError, match=message):
        Mcc(**params)
