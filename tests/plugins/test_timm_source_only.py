"""The aligner `source-only`: what it learns, what it must not look at, resuming, augmentation, group normalisation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from cellfeat_timm import SourceOnly, augment, finetune, loop
from cellfeat_timm.network import build, to_group_norm
from helpers import check_variant
from timm_helpers import Interrupting
from torch import nn

from cellfeat import CellfeatError, Cells
from cellfeat.testing import cpu_context, toy_cells

TINY = {"model": "test_resnet", "weights": "random"}
SHORT = {**TINY, "epochs": 2, "batch_size": 5, "learning_rate": 1e-3}


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for each other make tiny networks slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn(per_class=10, labels=(3, 7), size=32, seed=0):
    """Cells whose class is the size of a dark disc; every tenth label is hidden."""
    rng = np.random.default_rng(seed)
    label = np.repeat(labels, per_class)
    ys, xs = np.mgrid[:size, :size] - size / 2
    radius = np.where(label == labels[0], size / 10, size / 3) + rng.uniform(-1, 1, len(label))
    image = np.where(np.hypot(ys, xs)[None] < radius[:, None, None], 80, 220)[:, None] + rng.integers(
        -10, 11, (len(label), 3, size, size)
    )
    return Cells.from_arrays(label, image=image.astype(np.uint8)).hide_labels(slice(None, None, 10))


@pytest.mark.parametrize("params", [{}, {"norm": "group", "augment": "stain", "image_size": 48}])
def test_source_only_keeps_the_aligner_contract(tmp_path, params):
    check_variant(SourceOnly, tmp_path, toy_cells(), **{**SHORT, "epochs": 1, **params})


def test_it_learns_and_its_head_speaks_of_the_labels_it_saw(tmp_path):
    method = SourceOnly(**{**TINY, "epochs": 16, "batch_size": 6, "learning_rate": 3e-3})
    method.fit(drawn(), cpu_context(tmp_path))
    assert method.classes_.tolist() == [3, 7]
    new = drawn(seed=1)
    proba = method.predict_proba(new.hide_labels(), cpu_context(tmp_path))
    assert proba.shape == (20, 2)
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-5)
    truth = np.repeat([3, 7], 10)
    assert np.mean(method.classes_[proba.argmax(1)] == truth) > 0.9


def test_the_head_answers_from_the_features_and_survives_saving(tmp_path):
    method = SourceOnly(**SHORT).fit(drawn(), cpu_context(tmp_path))
    context = cpu_context(tmp_path)
    features = torch.from_numpy(method.transform(drawn(), context))
    assert features.dtype == torch.float32
    assert tuple(features.shape) == (20, 96)
    with torch.no_grad():
        logits = method.network.get_classifier()(features)
    proba = method.predict_proba(drawn(), context)
    np.testing.assert_allclose(proba, logits.softmax(1), rtol=1e-4, atol=1e-6)
    folder = tmp_path / "saved"
    folder.mkdir()
    method.save(folder)
    loaded = SourceOnly.load(folder)
    np.testing.assert_array_equal(loaded.predict_proba(drawn(), context), proba)
    assert loaded.classes_.tolist() == [3, 7]
    assert (loaded.weights_saw, loaded.weights_sha256) == ((), None)
    assert loaded._params() == method._params()


def test_images_of_hidden_rows_change_nothing(tmp_path):
    cells = drawn()
    hidden = np.flatnonzero(cells.label < 0)
    assert len(hidden) == 2
    images = cells.read("image")
    images[hidden] = 255 - images[hidden]
    other = cells.with_column("image", images)
    answers = [
        SourceOnly(**SHORT).fit(data, cpu_context(tmp_path / name)).transform(drawn(), cpu_context(tmp_path))
        for data, name in ((cells, "a"), (other, "b"))
    ]
    np.testing.assert_array_equal(*answers)


@pytest.mark.parametrize("augmentation", ["flip", "stain"])
def test_a_killed_training_goes_on_to_the_same_result(tmp_path, monkeypatch, augmentation):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    params = {**SHORT, "epochs": 4, "augment": augmentation}
    whole = SourceOnly(**params).fit(drawn(), cpu_context(tmp_path / "whole"))
    context = cpu_context(tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        SourceOnly(**params).fit(drawn(), replace(context, reporter=Interrupting(after=2 * 18 + 5)))
    second = Interrupting()
    resumed = SourceOnly(**params).fit(drawn(), replace(context, reporter=second))
    assert second.counted[0] == 2 * 18  # the two whole epochs were not trained again
    assert sum(second.counted) == 4 * 18
    use = cpu_context(tmp_path)
    np.testing.assert_array_equal(resumed.transform(drawn(), use), whole.transform(drawn(), use))


def test_a_checkpoint_of_another_training_is_not_continued(tmp_path):
    short = {**SHORT, "epochs": 1}
    SourceOnly(**short).fit(drawn(), cpu_context(tmp_path / "shared"))
    for change in ({"learning_rate": 2e-3}, {"augment": "none"}):
        reporter = Interrupting()
        context = replace(cpu_context(tmp_path / "shared"), reporter=reporter)
        SourceOnly(**{**short, **change}).fit(drawn(), context)
        assert reporter.counted[0] == 0


def test_a_last_batch_of_one_cell_is_left_out_of_training(tmp_path):
    cells = drawn(per_class=5, seed=2)
    assert (cells.label >= 0).sum() == 9
    SourceOnly(**{**SHORT, "batch_size": 8}).fit(cells, cpu_context(tmp_path))  # batch normalisation would raise


def task(**params):
    rows = np.arange(300)
    return finetune.Task(None, rows, rows, None, {**SourceOnly(**TINY)._params(), **params})


def test_the_learning_rate_is_wbc_benchmarks():
    schedule = task()  # 300 cells in batches of 128: 3 steps an epoch, 300 in all, 30 of them warm-up
    assert schedule.steps_per_epoch() == 3
    assert schedule.learning_rate(0) == pytest.approx(1e-4 / 30)
    assert schedule.learning_rate(29) == pytest.approx(1e-4)
    assert schedule.learning_rate(165) == pytest.approx(0.5e-4)
    assert schedule.learning_rate(299) < 1e-8
    assert task(warmup_epochs=0).learning_rate(0) == 1e-4
    assert task(batch_size=299).steps_per_epoch() == 1


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"epochs": 0}, "epochs=0 is not possible: give at least 1"),
        ({"batch_size": 1}, "batch_size=1 is not possible: give at least 2"),
        ({"warmup_epochs": -1}, "warmup_epochs=-1 is not possible: give at least 0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 is not possible: give a number above 0"),
        ({"image_size": 8}, "image_size=8 is not possible: give at least 32 pixels"),
        ({"model": "resnet5"}, "timm has no model named 'resnet5'"),
    ],
)
def test_impossible_parameters_are_refused(params, message):
    with pytest.raises(CellfeatError, match=message):
        SourceOnly(**{**TINY, **params})


def test_without_weights_fit_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("CELLFEAT_OFFLINE", "1")
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path))
    with pytest.raises(CellfeatError, match=r"`cellfeat weights fetch resnext50`.*--set align\.weights=random"):
        SourceOnly().fit(drawn(), cpu_context(tmp_path / "scratch"))


def test_one_class_is_nothing_to_learn_from(tmp_path):
    with pytest.raises(CellfeatError, match="source-only learns to tell classes apart, but the labelled cells have 1"):
        SourceOnly(**TINY).fit(drawn().hide_labels(slice(0, 10)), cpu_context(tmp_path))


def test_an_unfitted_method_says_so(tmp_path):
    with pytest.raises(CellfeatError, match="source-only has not been fitted yet"):
        SourceOnly(**TINY).transform(drawn(), cpu_context(tmp_path))


@pytest.mark.parametrize("model", ["test_resnet", "test_efficientnet"])
def test_group_norm_replaces_every_batch_norm_and_keeps_scale_shift_and_activation(model):
    network = build(model, None, size=64, num_classes=2, seed=0)
    before = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    for layer in before.values():
        nn.init.normal_(layer.weight)
    to_group_norm(network)
    assert before
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
    for name, old in before.items():
        new = network.get_submodule(name)
        norm = new[0] if isinstance(new, nn.Sequential) else new
        assert norm.num_channels % norm.num_groups == 0
        torch.testing.assert_close(norm.weight, old.weight)
        activation = getattr(old, "act", nn.Identity())
        if not isinstance(activation, nn.Identity):
            assert new[-1] is activation
    network.train()
    images = torch.rand(3, 3, 64, 64)
    torch.testing.assert_close(network(images)[:1], network(images[:1]), rtol=1e-4, atol=1e-5)


def pictures(count=64, size=48, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", ["none", "flip", "stain"])
def test_augmentation_is_drawn_from_the_generator_alone(kind):
    images = pictures()
    kept = images.clone()
    first, again = (augment.augment(images, kind, draw(5)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(images, kept)
    assert first.shape == images.shape
    assert torch.equal(first, images) == (kind == "none")
    assert not torch.equal(first, augment.augment(images, kind, draw(6))) or kind == "none"


def test_flip_shows_each_of_the_eight_orientations():
    images = pictures(count=1).expand(64, -1, -1, -1)
    turned = [images[0].rot90(turns, (1, 2)) for turns in range(4)]
    possible = torch.stack([*turned, *(image.flip(2) for image in turned)])
    got = augment.augment(images, "flip", draw())
    found = [int(np.flatnonzero([torch.equal(image, one) for one in possible])[0]) for image in got]
    assert set(found) == set(range(8))


def test_stain_jitter_without_jitter_changes_nothing(monkeypatch):
    for name in ("CONTRAST", "OFFSET"):
        monkeypatch.setattr(augment, name, (0.0, 0.0))
    monkeypatch.setattr(augment, "GAIN", 0.0)
    images = pictures().clamp(min=0.01)
    torch.testing.assert_close(augment.jitter_stains(images, draw()), images, rtol=1e-4, atol=1e-5)


def test_twice_the_stain_squares_the_transmittance_and_an_offset_tints_the_field(monkeypatch):
    monkeypatch.setattr(augment, "CONTRAST", (np.log(2), np.log(2)))
    monkeypatch.setattr(augment, "GAIN", 0.0)
    monkeypatch.setattr(augment, "OFFSET", (0.0, 0.0))
    images = pictures().clamp(min=0.1)
    torch.testing.assert_close(augment.jitter_stains(images, draw()), images**2, rtol=1e-3, atol=1e-5)
    monkeypatch.setattr(augment, "CONTRAST", (0.0, 0.0))
    monkeypatch.setattr(augment, "OFFSET", (0.1, 0.1))
    tint = torch.exp(-0.1 * augment._stain_matrix().sum(0)).clamp(max=1)
    white = augment.jitter_stains(torch.ones(1, 3, 4, 4), draw())
    torch.testing.assert_close(white[0, :, 0, 0], tint, rtol=1e-4, atol=1e-5)


def test_scale_one_changes_nothing_and_scale_two_magnifies(monkeypatch):
    images = nn.functional.avg_pool2d(pictures(2), 9, 1, 4)  # smooth: bilinear sampling then costs little
    monkeypatch.setattr(augment, "SCALE", (0.0, 0.0))
    torch.testing.assert_close(augment.rescale(images, draw()), images, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(augment, "SCALE", (np.log(2), np.log(2)))
    magnified = augment.rescale(images, draw())
    expected = nn.functional.interpolate(images[:, :, 12:36, 12:36], scale_factor=2.0, mode="bilinear")
    torch.testing.assert_close(magnified[:, :, 2:-2, 2:-2], expected[:, :, 2:-2, 2:-2], rtol=1e-3, atol=1e-3)


def test_blur_keeps_the_light_and_leaves_half_sharp():
    impulse = torch.zeros(200, 3, 49, 49)
    impulse[:, :, 24, 24] = 1
    blurred = augment.blur(impulse, draw())
    torch.testing.assert_close(blurred.sum((2, 3)), torch.ones(200, 3), rtol=1e-4, atol=1e-4)
    assert 70 < sum(torch.equal(a, b) for a, b in zip(blurred, impulse, strict=True)) < 130
    steps = torch.arange(49) - 24.0
    variance = (blurred.sum(2) * steps**2).sum(2)
    assert variance.max() <= (augment.BLUR * 49) ** 2 * 1.01
    torch.testing.assert_close(blurred, blurred.transpose(2, 3))
    flat = torch.full((4, 3, 40, 40), 0.3)
    torch.testing.assert_close(augment.blur(flat, draw()), flat)


@pytest.mark.slow
def test_ten_steps_of_the_resnext_recipe(tmp_path):
    """All its defaults but for weights, size and length; one step an epoch, as all cells fit into one batch."""
    params = {"weights": "random", "image_size": 64, "epochs": 10}
    method = SourceOnly(**params)
    assert (method.model, method.batch_size, method.learning_rate) == ("resnext50_32x4d.tv_in1k", 128, 1e-4)
    reporter = Interrupting()
    cells = drawn(per_class=5, size=64)
    method.fit(cells, replace(cpu_context(tmp_path), reporter=reporter))
    assert reporter.counted == [0] + [9] * 10  # one step an epoch
    assert tuple(method.transform(cells, cpu_context(tmp_path)).shape) == (10, 2048)


def test_steps_are_at_least_so_many_in_whole_epochs(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(finetune.Task, "learning_rate", lambda task, step: seen.append(step) or 1e-3)
    cells = drawn(per_class=5)
    SourceOnly(**{**SHORT, "steps": 5}).fit(cells, cpu_context(tmp_path))
    assert seen == list(range(6)), "10 cells in batches of 5: two steps an epoch, three epochs"
