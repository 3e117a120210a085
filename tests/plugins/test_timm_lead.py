"""The aligner `lead`: its decomposition, boundaries, weights and losses by hand; its two trainings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from cellfeat_timm import Lead, lead_parts, lead_training, loop
from helpers import check_variant
from sklearn.mixture import GaussianMixture
from timm_helpers import TINY_IMAGES, Interrupting, shifted

from cellfeat import CellfeatError
from cellfeat.testing import cpu_context, toy_cells

LEAD = {"epochs": 2, "source_epochs": 2, "batch_size": 8, "bottleneck": 8, "learning_rate": 0.01}


def drawn(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def unit(values):
    return values / values.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("params", [{}, TINY_IMAGES, {"select": "information-maximization"}, {"select": "source-val"}])
def test_lead_keeps_the_aligner_contract(tmp_path, params):
    check_variant(Lead, tmp_path, **{**LEAD, **params})


def test_the_defaults_are_the_authors():
    method = Lead()
    assert (method.epochs, method.source_epochs, method.batch_size, method.learning_rate) == (50, 50, 64, 1e-3)
    assert (method.bottleneck, method.pseudo_weight, method.neighbours) == (256, 0.3, 4)
    assert (method.trunk_factor, method.weight_decay) == (0.1, 1e-3)


def test_lengths_are_those_of_the_orthogonal_projections():
    weight, features = drawn(3, 7), unit(drawn(10, 7, seed=1))
    projector = weight.T @ torch.linalg.inv(weight @ weight.T) @ weight
    known, unknown = lead_parts.decompose(weight).norms(features)
    torch.testing.assert_close(known, (features @ projector).norm(dim=1))
    torch.testing.assert_close(unknown, (features - features @ projector).norm(dim=1))


def test_the_common_score_by_hand():
    features, prototypes, anchors = (unit(drawn(n, 5, seed=n)) for n in (4, 3, 2))
    anchors = torch.cat([anchors, -anchors[:1]])
    score = lead_parts.common_score(features, prototypes, anchors)
    for i in range(4):
        for c in range(3):
            near = max(0.0, float(features[i] @ prototypes[c]))
            anchored = max(0.0, float(features[i] @ anchors[c]))
            wanted = np.sqrt((1 - np.exp(-near)) * np.exp(anchored - 1))
            assert float(score[i, c]) == pytest.approx(wanted, abs=1e-12)


def test_the_surest_cells_of_every_class():
    proba = torch.tensor([[0.7, 0.3], [0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.1, 0.9]])
    assert lead_parts.surest(proba, 2).tolist() == [[1, 0], [4, 2]]
    assert lead_parts.surest(proba, 9).tolist() == [[1], [4]]


def test_pseudo_labels_boundaries_and_weights_by_hand():
    weight, features = drawn(3, 8), unit(drawn(40, 8, seed=1))
    proba = (features @ weight.T * 3).softmax(1)
    space = lead_parts.decompose(weight)
    labels = lead_parts.pseudo_labels(features, proba, weight, space, 4, seed=0)
    length = space.norms(features)[1].numpy()
    upper = GaussianMixture(2, random_state=0).fit(length[:, None]).means_.max()
    boundaries = np.empty((40, 3))
    score = np.empty((40, 3))
    for c in range(3):
        top = np.argsort(-proba[:, c].numpy())[:10]
        prototype = features[top].mean(0)
        prior = length[top].mean()
        for i in range(40):
            near = max(0.0, float(features[i] @ prototype / prototype.norm()))
            anchored = max(0.0, float(features[i] @ weight[c] / weight[c].norm()))
            score[i, c] = np.sqrt((1 - np.exp(-near)) * np.exp(anchored - 1))
            boundaries[i, c] = prior + score[i, c] * max(upper - prior, 0.0)
    best = score.argmax(1)
    boundary = boundaries[np.arange(40), best]
    unknown = length >= boundary
    assert 0 < unknown.sum() < 40
    assert labels.unknown.tolist() == unknown.tolist()
    wanted = np.where(unknown[:, None], 1 / 3, np.eye(3)[best])
    np.testing.assert_allclose(labels.target, wanted)
    weights = 1 - (1 + (length - boundary) ** 2 / 1e-4) ** (-(1e-4 + 1) / 2)
    np.testing.assert_allclose(labels.weight, weights, rtol=1e-8)


def test_the_number_of_clusters_is_found():
    rng = np.random.default_rng(0)
    points = np.concatenate([centre + 0.02 * rng.normal(size=(30, 12)) for centre in rng.normal(size=(6, 12))])
    assert lead_parts.count_clusters(points, classes=4, seed=0) == 6  # 1.5 times as many
    assert lead_parts.count_clusters(points, classes=12, seed=0) == 6  # half
    assert lead_parts.count_clusters(points[:2], classes=5, seed=0) == 5  # nothing can be tried


def probabilities(seed=3):
    logits = drawn(4, 3, seed=seed)
    return logits, np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)


def test_the_loss_of_pseudo_labels_and_its_gradient():
    logits, proba = probabilities()
    logits.requires_grad_()
    target = torch.tensor([[1, 0, 0], [0, 0, 1], [1 / 3, 1 / 3, 1 / 3], [0, 1, 0]], dtype=torch.float64)
    weight = torch.tensor([1.0, 0.5, 0.25, 0.0], dtype=torch.float64)
    loss = lead_parts.pseudo_loss(logits, lead_parts.PseudoLabels(target, weight, torch.zeros(4, dtype=torch.bool)))
    wanted = -np.mean(weight.numpy() * (target.numpy() * np.log(proba)).sum(1))
    assert loss.item() == pytest.approx(wanted, rel=1e-12)
    loss.backward()
    np.testing.assert_allclose(logits.grad, weight[:, None].numpy() * (proba - target.numpy()) / 4, atol=1e-12)


def test_the_loss_of_the_split_and_its_gradient():
    weight, raw = drawn(3, 6), unit(drawn(4, 6, seed=2)).requires_grad_()
    space = lead_parts.decompose(weight)
    unknown = torch.tensor([True, False, False, True])
    labels = lead_parts.PseudoLabels(torch.zeros(4, 3), torch.tensor([1.0, 0.5, 0.2, 0.9]).double(), unknown)
    loss = lead_parts.split_loss(raw, space, labels)
    known, other = (lengths.detach().numpy() for lengths in space.norms(raw))
    chance = 1 / (1 + np.exp(known - other))  # softmax of the two, the second
    wanted = -np.mean(labels.weight.numpy() * np.log(np.where(unknown, chance, 1 - chance)))
    assert loss.item() == pytest.approx(wanted, rel=1e-12)
    assert torch.autograd.gradcheck(lambda values: lead_parts.split_loss(values, space, labels), (raw,))


def test_the_loss_of_neighbours_and_its_gradient():
    logits, proba = probabilities()
    logits.requires_grad_()
    bank, bank_proba = unit(drawn(9, 5, seed=5)), drawn(9, 3, seed=6).softmax(1)
    features = bank[:4]
    loss = lead_parts.neighbour_loss(features, logits, bank, bank_proba, 4)
    wanted = []
    for i in range(4):
        order = sorted(range(9), key=lambda j: -float(bank[i] @ bank[j]))
        assert order[0] == i
        wanted.append(bank_proba[order[1:5]].mean(0).numpy())
    wanted = np.array(wanted)
    assert loss.item() == pytest.approx(-np.mean((wanted * np.log(proba)).sum(1)), rel=1e-12)
    loss.backward()
    np.testing.assert_allclose(logits.grad, (proba - wanted) / 4, atol=1e-12)
    few = lead_parts.neighbour_loss(features, logits, bank[:3], bank_proba[:3], 4)
    assert torch.isfinite(few)


def test_the_rate_decays_as_published():
    assert lead_training.decay(100, 100) == pytest.approx(11**-0.75)
    assert lead_training.decay(1, 10) == pytest.approx(2**-0.75)


def networks(method, cells, context, monkeypatch):
    """The states after the training on the source and after that on the target."""
    states = []
    plain = loop.train

    def watched(work, context):
        kept = plain(work, context)
        states.append({name: value.clone() for name, value in work.model.state_dict().items()})
        return kept

    monkeypatch.setattr(loop, "train", watched)
    method.fit(cells, context)
    return states


def test_the_target_trains_trunk_and_bottleneck_and_leaves_the_classifier(tmp_path, monkeypatch):
    method = Lead(**LEAD, inputs="images", model="test_resnet", weights="random", image_size=32)
    before, after = networks(method, toy_cells(), cpu_context(tmp_path), monkeypatch)
    for name, value in after.items():
        if name.startswith("head."):
            assert torch.equal(value, before[name]), name
        elif value.is_floating_point() and value.ndim > 1:
            assert not torch.equal(value, before[name]), name


def test_the_target_is_adapted_to_without_any_source_cell(tmp_path, monkeypatch):
    seen = []
    plain = lead_training.TargetModel.__init__

    def spoiled(self, name, network, material, rows, *rest):
        seen.append(rows)
        pooled = material.cells.pooled
        pooled[material.rows] = np.nan
        plain(self, name, network, replace(material, cells=material.cells.with_column("pooled", pooled)), rows, *rest)

    monkeypatch.setattr(lead_training.TargetModel, "__init__", spoiled)
    cells = shifted()
    method = Lead(**LEAD).fit(cells, cpu_context(tmp_path))
    assert cells.is_target[seen[0]].all()
    assert np.isfinite(method.transform(cells, cpu_context(tmp_path))).all()


def test_it_classifies_a_shifted_target(tmp_path):
    cells = shifted(30)
    params = {**LEAD, "epochs": 5, "source_epochs": 10, "bottleneck": 16}
    proba = Lead(**params).fit(cells, cpu_context(tmp_path)).predict_proba(cells, cpu_context(tmp_path))
    assert np.mean(proba[cells.is_target].argmax(1) == np.repeat([0, 1, 2], 30)) > 0.9


def test_without_target_cells_it_is_the_source_model(tmp_path):
    cells = shifted()
    source = cells[~cells.is_target]
    context = cpu_context(tmp_path / "alone")
    method = Lead(**{**LEAD, "source_epochs": 3}).fit(source, context)
    assert method.selected_epoch_ == 3
    assert "no unlabelled target cells to adapt to" in context.reporter.notes[0]


@pytest.mark.parametrize("after", [3, 11])  # in the training on the source (4 epochs of 4 steps), and on the target
def test_a_killed_training_goes_on_to_the_same_result(tmp_path, monkeypatch, after):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    cells, params = shifted(), {**LEAD, "epochs": 3}
    whole = Lead(**params).fit(cells, cpu_context(tmp_path / "whole"))
    context = cpu_context(tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        Lead(**params).fit(cells, replace(context, reporter=Interrupting(after=after)))
    resumed = Lead(**params).fit(cells, context)
    use = cpu_context(tmp_path)
    np.testing.assert_array_equal(resumed.transform(cells, use), whole.transform(cells, use))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"source_epochs": 0}, "source_epochs=0 is not possible: give at least 1"),
        ({"neighbours": 0}, "neighbours=0 is not possible: give at least 1"),
        ({"pseudo_weight": -1.0}, "pseudo_weight=-1.0 is not possible: give at least 0"),
    ],
)
def test_impossible_parameters_are_refused(params, message):
    with pytest.raises(CellfeatError, match=message):
        Lead(**params)


def test_a_bottleneck_without_room_for_the_unknown_is_refused(tmp_path):
    message = "bottleneck=3 leaves lead no room for the unknown beside 3 classes: give at least 4"
    with pytest.raises(CellfeatError, match=message):
        Lead(**{**LEAD, "bottleneck": 3}).fit(shifted(), cpu_context(tmp_path))
