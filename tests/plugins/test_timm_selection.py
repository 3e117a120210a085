"""Which epoch is kept: by source validation or by a label-free score, never by a label of the target."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from cellfeat_timm import Dann, Mcc, SourceOnly, loop, selection
from helpers import check_variant
from timm_helpers import SHORT, Interrupting, shifted

from cellfeat import CellfeatError, Cells
from cellfeat.testing import check_align, cpu_context

IMAGES = {"model": "test_resnet", "weights": "random", "image_size": 32, "epochs": 3, "batch_size": 4}


def test_information_by_hand():
    proba = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    mean = [1.6 / 3, 1.4 / 3]
    marginal = -sum(p * np.log(p) for p in mean)
    conditional = np.mean([-sum(p * np.log(p) for p in row) for row in proba])
    assert selection.information(proba) == pytest.approx(marginal - conditional, rel=1e-12)
    assert selection.information(np.eye(4)) == pytest.approx(np.log(4))
    assert selection.information(np.eye(4)[[0, 0, 0]]) == 0  # sure, but always of one class
    assert selection.information(np.full((5, 3), 1 / 3)) == pytest.approx(0)


def test_balanced_accuracy_is_the_mean_recall():
    proba = np.eye(3)[[0, 0, 1, 1, 1]]
    assert selection.balanced_accuracy(proba, np.array([0, 0, 1, 1, 0])) == pytest.approx((2 / 3 + 1) / 2)


def test_a_tenth_of_every_class_is_held_out():
    targets = np.repeat([0, 1, 2, 3], [100, 40, 10, 1])
    held = selection.held_out(targets, np.arange(151), seed=3)
    assert np.bincount(targets[held], minlength=4).tolist() == [10, 4, 1, 0]  # the only cell of a class is trained on
    assert np.array_equal(held, selection.held_out(targets, np.arange(151), seed=3))
    assert not np.array_equal(held, selection.held_out(targets, np.arange(151), seed=4))


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_held_out_whole_and_no_class_is_lost(seed):
    rng = np.random.default_rng(seed)
    groups, targets = rng.integers(0, 30, 400), rng.integers(0, 4, 400)
    held = selection.held_out(targets, groups, seed)
    assert not set(groups[held]) & set(groups[~held])
    assert 20 <= held.sum() <= 100
    assert set(targets[~held]) == {0, 1, 2, 3} == set(targets[held])


def test_of_large_groups_the_smallest_is_held_out():
    groups = np.repeat([0, 1, 2], [50, 30, 20])
    held = selection.held_out(np.tile([0, 1], 50), groups, seed=0)
    assert set(groups[held]) == {2}


def test_where_no_group_can_be_spared_it_is_said(tmp_path):
    cells = shifted()
    cells = replace(cells, group=np.where(cells.is_target, "t", cells.label.astype(str)))
    with pytest.raises(CellfeatError, match="select=source-val holds out labelled source cells, whole groups of them"):
        Mcc(**SHORT, select="source-val").fit(cells, cpu_context(tmp_path))


class Scripted:
    """Work whose network is the number of its epoch and whose scores are given."""

    name, size = "scripted", 1

    def __init__(self, scores):
        self.scores, self.epochs = scores, len(scores)
        self.network = torch.nn.Linear(1, 1, bias=False)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.1)

    def key(self, seed):
        return "scripted"

    def epoch(self, number, stepper, bar):
        assert self.network.training
        with torch.no_grad():
            self.network.weight.fill_(number + 1)
        bar.advance()

    def score(self):
        assert not self.network.training
        return self.scores[int(self.network.weight) - 1]


@pytest.mark.parametrize(
    ("scores", "kept"), [([0.1, 0.5, 0.2], 2), ([0.5, 0.5, 0.2], 2), ([0.3, 0.2, 0.3], 3), ([None] * 3, 3)]
)
def test_the_best_epoch_is_kept_and_of_equals_the_later_one(tmp_path, scores, kept):
    work = Scripted(scores)
    assert loop.train(work, cpu_context(tmp_path)) == kept
    assert work.network.weight.item() == kept
    assert not work.network.training


def test_the_best_epoch_survives_a_kill(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    scores = [0.1, 0.9, 0.2, 0.3]
    with pytest.raises(KeyboardInterrupt):
        loop.train(Scripted(scores), replace(cpu_context(tmp_path), reporter=Interrupting(after=3)))
    work = Scripted(scores)
    assert loop.train(work, cpu_context(tmp_path)) == 2
    assert work.network.weight.item() == 2


@pytest.mark.parametrize("select", ["source-val", "information-maximization"])
@pytest.mark.parametrize("factory", [Dann, Mcc])
def test_methods_that_select_keep_the_contract_and_record_the_epoch(tmp_path, factory, select):
    params = {**SHORT, "epochs": 3, "select": select}
    method = check_align(factory, tmp_path, **params)
    assert 1 <= method.selected_epoch_ <= 3
    folder = tmp_path / "again"
    folder.mkdir()
    method.save(folder)
    assert factory.load(folder).selected_epoch_ == method.selected_epoch_


def test_the_last_epoch_is_the_last(tmp_path):
    assert Mcc(**SHORT).fit(shifted(), cpu_context(tmp_path)).selected_epoch_ == 2


def materials(monkeypatch):
    """What every fit of mcc works with from now on, and every array of probabilities that was judged."""
    seen, judged = [], []
    train, score = Mcc._train, selection.Judge.__call__

    def watched(self, network, material, context):
        seen.append(material)
        return train(self, network, material, context)

    def heard(self, proba):
        judged.append(proba)
        return score(self, proba)

    monkeypatch.setattr(Mcc, "_train", watched)
    monkeypatch.setattr(selection.Judge, "__call__", heard)
    return seen, judged


def test_source_validation_judges_by_source_cells_that_are_not_trained_on(tmp_path, monkeypatch):
    seen, judged = materials(monkeypatch)
    cells = shifted()
    revealed = np.flatnonzero(cells.is_target)[:6]
    label = cells.label.copy()
    label[revealed] = [0, 1, 2, 0, 1, 2]
    Mcc(**SHORT, select="source-val").fit(replace(cells, label=label), cpu_context(tmp_path))
    (material,) = seen
    assert set(revealed) <= set(material.rows)
    assert not material.judge.cells.is_target.any()
    assert not set(material.judge.cells.id) & set(cells.id[material.rows])
    assert len(material.judge.cells) == 3  # of three classes with twelve cells each
    assert [len(proba) for proba in judged] == [3, 3]


def test_the_label_free_score_judges_unlabelled_target_cells_alone(tmp_path, monkeypatch):
    seen, judged = materials(monkeypatch)
    cells = shifted()
    Mcc(**SHORT, select="information-maximization").fit(cells, cpu_context(tmp_path))
    judge = seen[0].judge
    assert judge.targets is None
    assert judge.cells.is_target.all()
    assert (judge.cells.label < 0).all()
    assert [len(proba) for proba in judged] == [36, 36]
    assert len(seen[0].rows) == 36


def test_without_target_cells_the_label_free_score_is_refused(tmp_path):
    cells = shifted()
    message = r"select=information-maximization scores the epochs on unlabelled target cells, and there are none"
    with pytest.raises(CellfeatError, match=message):
        Dann(**SHORT, select="information-maximization").fit(cells[~cells.is_target], cpu_context(tmp_path))
    with pytest.raises(CellfeatError, match="which source-only is never shown"):
        SourceOnly(select="information-maximization")


def test_source_only_selects_by_source_validation(tmp_path):
    rng = np.random.default_rng(0)
    cells = Cells.from_arrays(np.tile([0, 1], 12), image=rng.integers(0, 256, (24, 3, 32, 32), dtype=np.uint8))
    method = SourceOnly(**IMAGES, select="source-val").fit(cells, cpu_context(tmp_path / "val"))
    assert 1 <= method.selected_epoch_ <= 3
    whole = SourceOnly(**IMAGES).fit(cells, cpu_context(tmp_path / "last"))
    assert whole.selected_epoch_ == 3
    use = cpu_context(tmp_path)
    assert not np.array_equal(method.transform(cells, use), whole.transform(cells, use))
    check_variant(SourceOnly, tmp_path / "contract", **{**IMAGES, "epochs": 2, "select": "source-val"})
