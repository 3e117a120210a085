"""Align `deep-coral`: what it trains on, that it adapts, goes on after a kill, and tells mistakes with their remedy."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from cellfeat_deep_coral.deep_coral import DeepCoral
from cellfeat_deep_coral.loop import endless, mirror
from cellfeat_deep_coral.network import HEAD_FACTOR, CoralNetwork, load_trunk
from safetensors.torch import save_file

from cellfeat import CellfeatError
from cellfeat.testing import cpu_context


def test_it_learns_the_source_with_a_head_of_its_own(tiny, cells, context):
    method = tiny(epochs=16).fit(cells, context)
    proba = method.predict_proba(cells, context)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)
    source = ~cells.is_target
    assert (proba[source].argmax(axis=1) == cells.label[source]).all()
    assert method.transform(cells, context).shape == (len(cells), 96)
    assert set(method.history_) == {"classification", "coral"}
    assert len(method.history_["coral"]) == 16


@pytest.mark.parametrize("coral_on", ["logits", "features"])
def test_the_second_loss_brings_covariances_together(tiny, cells, context, tmp_path, coral_on):
    heavy = 30.0 if coral_on == "logits" else 3e4  # features are many, and the loss is divided by their square
    ends = [
        tiny(coral_weight=weight, coral_on=coral_on, epochs=6)
        .fit(cells, cpu_context(tmp_path / str(weight)))
        .history_["coral"][-1]
        for weight in (0.0, heavy)
    ]
    assert ends[1] < 0.5 * ends[0]


def test_without_unlabelled_target_cells_it_learns_from_the_source_and_says_so(tiny, cells, context):
    method = tiny().fit(cells[~cells.is_target], context)
    assert set(method.history_) == {"classification"}
    assert "no unlabelled target cells to adapt to" in context.reporter.notes[0]


def test_a_target_label_that_is_shown_is_trained_on(tiny, cells, context):
    """As a few-shot protocol does: here a class that the source does not have."""
    label = cells.label.copy()
    label[np.flatnonzero(cells.is_target)[:3]] = 3
    method = tiny().fit(replace(cells, label=label), context)
    assert method.classes_.tolist() == [0, 1, 2, 3]


class KilledError(Exception):
    """What stands for a kill in the middle of a training."""


class Watching:
    """A reporter that writes down how the work advances, and kills it once it has advanced by `most`."""

    def __init__(self, most: int | None = None) -> None:
        self.most, self.advanced = most, []

    def note(self, text: str) -> None:
        raise AssertionError(f"nothing is to be noted here, but: {text}")

    @contextmanager
    def progress(self, total: int | None, text: str):
        yield self

    def advance(self, n: int = 1) -> None:
        self.advanced.append(n)
        if sum(self.advanced) == self.most:
            raise KilledError


def test_a_killed_training_goes_on_and_ends_as_one_that_never_was(tiny, cells, context, tmp_path, monkeypatch):
    monkeypatch.setattr("cellfeat.training.Checkpoint.due", lambda self: True)
    whole = tiny(epochs=4).fit(cells, cpu_context(tmp_path / "whole"))
    with pytest.raises(KilledError):
        tiny(epochs=4).fit(cells, replace(context, reporter=Watching(most=3)))
    watching = Watching()
    resumed = tiny(epochs=4).fit(cells, replace(context, reporter=watching))
    assert watching.advanced == [3, 1]
    assert resumed.history_ == whole.history_
    np.testing.assert_array_equal(resumed.transform(cells, context), whole.transform(cells, context))


def test_a_checkpoint_of_another_training_is_left_alone(tiny, cells, context):
    tiny().fit(cells, context)
    for other in (tiny(learning_rate=0.02), tiny(epochs=3)):
        watching = Watching()
        other.fit(cells, replace(context, reporter=watching))
        assert watching.advanced[0] == 0


def test_a_saved_method_answers_alike_and_remembers_its_training(tiny, cells, context, tmp_path):
    method = tiny().fit(cells, context)
    method.save(tmp_path)
    loaded = DeepCoral.load(tmp_path)
    np.testing.assert_array_equal(loaded.predict_proba(cells, context), method.predict_proba(cells, context))
    assert (loaded.history_, loaded.weights_saw) == (method.history_, ())
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["state.json", "state.safetensors"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_come_from_a_file_of_the_model_with_or_without_its_classifier(tiny, cells, context, tmp_path, suffix):
    with_classifier = timm.create_model("test_resnet", num_classes=7).state_dict()
    file = tmp_path / f"weights{suffix}"
    save_file(with_classifier, file) if suffix == ".safetensors" else torch.save(with_classifier, file)
    network = CoralNetwork("test_resnet", 32, 3)
    load_trunk(network, "test_resnet", file)
    for name, tensor in network.trunk.state_dict().items():
        torch.testing.assert_close(tensor, with_classifier[name], rtol=0, atol=0)
    method = tiny(weights=str(file), learning_rate=1e-3).fit(cells, context)
    assert method.weights_saw is None
    trunk, head = network.groups(1e-3, pretrained=True)
    assert (trunk["lr"], head["lr"]) == (1e-3, HEAD_FACTOR * 1e-3)


def test_half_precision_trains_and_answers(tiny, cells, context):
    method = tiny().fit(cells, replace(context, dtype=torch.bfloat16))
    answer = method.transform(cells, replace(context, dtype=torch.bfloat16))
    assert answer.dtype == np.float32
    assert np.isfinite(answer).all()


def test_images_are_resized_and_normalised_as_the_models_weights_want_them():
    network = CoralNetwork("test_resnet", 32, 3)
    seen = []
    network.trunk.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network(torch.full((2, 3, 48, 48), 255, dtype=torch.uint8))
    torch.testing.assert_close(seen[0], torch.ones(2, 3, 32, 32))  # mean 0.5, deviation 0.5


def test_every_cell_comes_equally_often_and_mirroring_keeps_what_is_not_chosen():
    order = endless(5, 12, torch.Generator().manual_seed(0))
    assert sorted(order[:5]) == sorted(order[5:10]) == [0, 1, 2, 3, 4]
    assert len(endless(0, 12, torch.Generator())) == 0
    images = torch.arange(24).reshape(2, 3, 2, 2)
    chosen = torch.tensor([[True, False], [True, False]])
    mirrored = mirror(images, chosen)
    assert mirrored[0, 0].tolist() == [[3, 2], [1, 0]]
    assert torch.equal(mirrored[1], images[1])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 1}, "batch_size must be at least 2, got 1"),
        ({"coral_weight": -1}, "coral_weight must be at least 0, got -1"),
        ({"learning_rate": 0}, "learning_rate must be above 0, got 0"),
        ({"image_size": 4}, "image_size must be at least 8 pixels, got 4"),
    ],
)
def test_a_parameter_that_cannot_be_is_refused(tiny, params, message):
    with pytest.raises(CellfeatError, match=message):
        tiny(**params)


def test_what_cannot_be_had_is_refused_before_the_work(tiny, context):
    with pytest.raises(CellfeatError, match=r"no model named 'resnet_18'. Did you mean 'resnet18'"):
        tiny(model="resnet_18").prepare(context)
    with pytest.raises(CellfeatError, match=r"weights='imagenet' is no file. Give random, or a .safetensors"):
        tiny(weights="imagenet").prepare(context)


def test_files_that_do_not_fit_are_refused(tmp_path):
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CellfeatError, match=r"other.safetensors does not fit"):
        load_trunk(CoralNetwork("test_resnet", 32, 3), "test_resnet", tmp_path / "other.safetensors")


def test_other_mistakes_are_told_with_their_remedy(tiny, cells, context):
    with pytest.raises(CellfeatError, match="has not been fitted yet: call fit"):
        tiny().transform(cells, context)
    with pytest.raises(CellfeatError, match="learns to tell classes apart, but the labelled cells have 1"):
        tiny().fit(cells[(cells.label == 0) | cells.is_target], context)
    with pytest.raises(CellfeatError, match=r"loss is no number in epoch .* --set align.learning_rate=1e\+19"):
        tiny(learning_rate=1e20).fit(cells, context)
