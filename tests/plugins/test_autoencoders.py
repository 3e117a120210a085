"""Align `bc-sam-ae` and `ae-cfe`: contract, published numbers, features, resuming, and what they refuse.

Networks with the published layers, only narrow, so that a training takes a second.
"""

from __future__ import annotations

import gc
import inspect
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cellfeat_cae.ae_cfe import AeCfe
from cellfeat_cae.ae_cfe_network import scale_maps
from cellfeat_cae.bc_sam import BcSamAe
from cellfeat_cae.discrepancies import domain_mean_distance, mean_covariance_distance
from cellfeat_cae.ssim import ssim
from cellfeat_cae.train import Trainer
from helpers import narrow_autoencoders
from torch.nn.functional import mse_loss

from cellfeat import CellfeatError
from cellfeat.testing import cpu_context, toy_cells
from cellfeat.training import Checkpoint, seeded

TINY = {"epochs": 2, "batch_size": 4, "latent": 5}
METHODS = (BcSamAe, AeCfe)

both = pytest.mark.parametrize("build", METHODS)


@pytest.fixture(scope="module", autouse=True)
def quick():
    """One thread, as threads that wait for each other make tiny networks slow on a busy machine; and what pytest has
    imported is not searched for garbage after every training."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.freeze()
    yield
    gc.unfreeze()
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def narrow():
    with narrow_autoencoders():
        yield


@pytest.fixture(scope="module")
def cells():
    """Nine cells: three of each of three domains, the last two of which are targets; 8 channels."""
    return toy_cells(per_class=1)


@pytest.fixture(scope="module")
def fitted(cells, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("fitted")
    return {build: build(**TINY).fit(cells, cpu_context(folder / build.name)) for build in METHODS}


# Published numbers ------------------------------------------------------------------------------------------------

PUBLISHED = {
    BcSamAe: {
        "epochs": 10,
        "batch_size": 128,
        "learning_rate": 5e-4,
        "weight_decay": 0.05,
        "warmup_steps": 500,
        "latent": 50,
        "image_weight": 1.0,
        "domain_weight": 5.0,
    },
    AeCfe: {
        "epochs": 150,
        "batch_size": 500,
        "learning_rate": 1e-3,
        "latent": 50,
        "image_weight": 1.0,
        "domain_weight": 5.0,
        "feature_weight": 1.0,
    },
}
NEUTRAL = {
    "training_cells": None,
    "accumulate": 1,
    "anchor": None,
    "weights": None,
}  # of cellfeat's own, none of which changes the method


@both
def test_the_defaults_are_the_published_numbers(build):
    defaults = {name: parameter.default for name, parameter in inspect.signature(build).parameters.items()}
    assert defaults == PUBLISHED[build] | NEUTRAL
    terms = {BcSamAe: {"image": 1, "domain": 5}, AeCfe: {"image": 1, "domain": 5, "feature": 1}}
    assert build().term_weights == terms[build]
    assert build().warmup_steps == {BcSamAe: 500, AeCfe: 0}[build]
    assert not build().balanced


def test_the_optimisers_are_the_published_ones():
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    adamw, adam = BcSamAe().optimizer(parameters, fused=False), AeCfe().optimizer(parameters, fused=False)
    assert (type(adamw), type(adam)) == (torch.optim.AdamW, torch.optim.Adam)
    for optimizer, rate, decay in ((adamw, 5e-4, 0.05), (adam, 1e-3, 0)):
        (group,) = optimizer.param_groups
        assert (group["lr"], group["weight_decay"], group["betas"], group["eps"]) == (rate, decay, (0.9, 0.999), 1e-8)
        assert not group["amsgrad"]


def first_batch(method, cells, folder: Path):
    """The network before its first step, and all cells as its first batch, as a training in one batch has them."""
    context = cpu_context(folder)
    method.channels_ = 8
    with seeded(context.seed):
        network = method._build()
    trainer = Trainer(network, cells, method, "here", context)
    (rows,) = trainer._batches(0)
    values = {name: torch.from_numpy(cells.read(name, rows)) for name in ("map", "crop")}
    return network.train(), trainer._batch(rows, values, trainer._noise(0, len(rows)))


def test_the_loss_of_bc_sam_is_the_papers(cells, tmp_path):
    method = BcSamAe(**TINY | {"epochs": 1, "batch_size": 9})
    network, batch = first_batch(method, cells, tmp_path / "by-hand")
    with torch.no_grad():
        output = network(batch.maps)
    image = 1 - ssim(output.image, batch.crop, window=11)
    domain = domain_mean_distance(output.z, batch.domain, 3, 1)
    history = method.fit(cells, cpu_context(tmp_path / "fit")).history_
    assert history["image"] == [pytest.approx(image.item(), rel=1e-5)]
    assert history["domain"] == [pytest.approx(domain.item(), rel=1e-5)]
    assert history["total"] == [pytest.approx((image + 5 * domain).item(), rel=1e-5)]
    assert domain > 0
    assert list(history) == ["total", "image", "domain"]


def test_the_loss_of_ae_cfe_is_the_papers(cells, tmp_path):
    method = AeCfe(**TINY | {"epochs": 1, "batch_size": 9})
    network, batch = first_batch(method, cells, tmp_path / "by-hand")
    maps = scale_maps(batch.maps)
    with torch.no_grad():
        output = network(maps)
    image = 1 - ssim(output.image, batch.crop, window=10)
    domain = mean_covariance_distance(output.z, batch.domain, 3, 1)
    feature = mse_loss(output.maps, maps)
    history = method.fit(cells, cpu_context(tmp_path / "fit")).history_
    assert history["image"] == [pytest.approx(image.item(), rel=1e-6)]
    assert history["domain"] == [pytest.approx(domain.item(), rel=1e-5)]
    assert history["feature"] == [pytest.approx(feature.item(), rel=1e-5)]
    assert history["total"] == [pytest.approx((image + 5 * domain + feature).item(), rel=1e-5)]
    other_window = 1 - ssim(output.image, batch.crop, window=11)
    assert abs(image - other_window) > 1e-4 * image
    assert domain > 0
    assert list(history) == ["total", "image", "domain", "feature"]


def rates(build, cells, folder: Path, **params) -> list[float]:
    """The learning rate of every step of a training, the first group's as all of them's."""
    used = []

    class Spied(build):
        def optimizer(self, parameters, fused):
            optimizer = super().optimizer(parameters, fused)
            optimizer.register_step_pre_hook(lambda given, *_: used.append([g["lr"] for g in given.param_groups]))
            return optimizer

    Spied(**params).fit(cells, cpu_context(folder))
    assert all(len(set(groups)) == 1 for groups in used)
    return [groups[0] for groups in used]


def test_the_learning_rate_of_ae_cfe_is_constant(cells, tmp_path):
    assert rates(AeCfe, cells, tmp_path, **TINY) == [1e-3] * 6


def test_the_learning_rate_of_bc_sam_warms_up_and_follows_a_cosine(cells, tmp_path):
    used = rates(BcSamAe, cells, tmp_path, **TINY | {"batch_size": 2, "learning_rate": 1.0})  # two times five steps
    assert used == pytest.approx([1 / 2, 1, *(0.5 + 0.5 * np.cos(np.pi * np.arange(1, 9) / 10))])


@both
def test_training_lowers_the_loss(build, cells, tmp_path):
    params = TINY | {"epochs": 10, "batch_size": 9, "learning_rate": 1e-2}
    history = build(**params).fit(cells, cpu_context(tmp_path)).history_
    assert all(len(values) == 10 for values in history.values())
    assert history["total"][-1] < 0.85 * history["total"][0]
    assert history["domain"][-1] < 0.8 * history["domain"][0]


# Features ---------------------------------------------------------------------------------------------------------


@both
def test_features_have_fifty_numbers_by_default(build, cells, tmp_path):
    context = cpu_context(tmp_path)
    method = build(epochs=1, batch_size=3).fit(cells[[0, 3, 6]], context)
    assert method.transform(cells, context).shape == (9, 50)
    assert method.transform(cells[:0], context).shape == (0, 50)


def test_features_of_bc_sam_are_the_code_in_evaluation_mode(cells, fitted, tmp_path):
    method = fitted[BcSamAe]
    features = method.transform(cells, cpu_context(tmp_path))
    network, maps = method.network_, torch.from_numpy(cells.map)
    with torch.no_grad():
        np.testing.assert_allclose(features, network.eval()(maps).z.numpy(), rtol=1e-4, atol=1e-6)
    assert features.min() >= 0  # after a ReLU
    assert features.max() > 0


def test_features_of_ae_cfe_are_the_code_of_the_scaled_map(cells, fitted, tmp_path):
    method, maps = fitted[AeCfe], torch.from_numpy(cells.map)
    features = method.transform(cells, cpu_context(tmp_path))
    with torch.no_grad():
        np.testing.assert_allclose(features, method.network_(scale_maps(maps)).z.numpy(), rtol=1e-4, atol=1e-6)
        assert not np.allclose(features, method.network_(maps).z.numpy(), atol=1e-3)
    assert np.abs(features).max() <= 1  # after a tanh


def test_neither_fit_nor_transform_of_ae_cfe_sees_the_scale_of_a_map(cells, fitted, tmp_path):
    method, context = fitted[AeCfe], cpu_context(tmp_path)
    factor = 2.0 ** np.arange(-4, 5, dtype=np.float32)  # powers of two, so that scaling is exact
    scaled = cells.with_column("map", cells.map * factor[:, None, None, None])
    np.testing.assert_array_equal(method.transform(scaled, context), method.transform(cells, context))
    other = AeCfe(**TINY).fit(scaled, context)
    assert other.history_ == method.history_
    np.testing.assert_array_equal(other.examples_["reconstruction"], method.examples_["reconstruction"])


@both
def test_a_cell_alone_gets_the_very_same_features(build, cells, fitted, tmp_path):
    context = cpu_context(tmp_path)
    together = fitted[build].transform(cells, context)
    for row in (0, 4, 8):
        np.testing.assert_array_equal(fitted[build].transform(cells[row : row + 1], context), together[row : row + 1])
    assert len(np.unique(together, axis=0)) == 9


@both
def test_a_reconstruction_is_the_networks_image_of_each_cell_by_itself(build, cells, fitted, tmp_path):
    method, context = fitted[build], cpu_context(tmp_path)
    drawn = method.reconstruct(cells, context)
    assert (drawn.shape, drawn.dtype) == ((9, 3, 128, 128), np.uint8)
    np.testing.assert_array_equal(method.reconstruct(cells[[4]], context), drawn[[4]])
    maps = torch.from_numpy(cells.map)
    with torch.no_grad():
        image = method.network_.eval()(scale_maps(maps) if build is AeCfe else maps).image
    assert np.abs(drawn - 255 * image.clamp(0, 1).numpy()).max() <= 1


@both
def test_transform_changes_nothing_even_of_a_network_in_training_mode(build, cells, fitted, tmp_path):
    method, context = fitted[build], cpu_context(tmp_path)
    before = {name: value.clone() for name, value in method.network_.state_dict().items()}
    features = method.transform(cells, context)
    method.network_.train()
    np.testing.assert_array_equal(method.transform(cells, context), features)
    assert not any(module.training for module in method.network_.modules())
    for name, value in method.network_.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_batch_norm_learned_statistics_of_all_steps(fitted):
    state = fitted[BcSamAe].network_.state_dict()
    assert {int(value) for name, value in state.items() if name.endswith("num_batches_tracked")} == {6}


@both
def test_a_loaded_copy_has_features_history_and_buffers(build, cells, fitted, tmp_path):
    method, context = fitted[build], cpu_context(tmp_path / "scratch")
    (tmp_path / "saved").mkdir()
    method.save(tmp_path / "saved")
    loaded = build.load(tmp_path / "saved")
    assert (repr(loaded), loaded.history_) == (repr(method), method.history_)
    assert list(loaded.history_) == list(method.history_)
    for name, value in method.network_.state_dict().items():
        assert torch.equal(loaded.network_.state_dict()[name], value), name
    np.testing.assert_array_equal(loaded.transform(cells, context), method.transform(cells, context))
    used = build(weights=str(tmp_path / "saved")).fit(cells, context)  # latent 50, but for the folder's 5
    np.testing.assert_array_equal(used.transform(cells, context), method.transform(cells, context))
    assert used.transform(cells[:0], context).shape == (0, 5)


@both
def test_the_anchor_decides_the_domain_term(build, cells, tmp_path):
    found = set()
    for name in ("here", "there", "elsewhere"):
        method = build(**TINY | {"epochs": 1, "batch_size": 9}, anchor=name)
        found.add(method.fit(cells, cpu_context(tmp_path / name)).history_["domain"][0])
    assert len(found) == 3


@both
def test_another_grid_is_resampled(build, tmp_path):
    cells, context = toy_cells(per_class=1, grid=7), cpu_context(tmp_path)
    method = build(**TINY | {"epochs": 1}).fit(cells, context)
    assert method.transform(cells, context).shape == (9, 5)
    assert f"{build.name}: token maps of 7 x 7 are resampled to 14 x 14" in context.reporter.notes


def test_parts_of_ae_cfe_add_up_to_the_batch(cells, tmp_path):
    params = TINY | {"epochs": 1, "domain_weight": 0.0}  # batches of 4, 4 and 1
    whole = AeCfe(**params).fit(cells, cpu_context(tmp_path / "whole"))
    parts = AeCfe(**params, accumulate=3).fit(cells, cpu_context(tmp_path / "parts"))
    for term in ("image", "feature", "total"):
        assert parts.history_[term] == pytest.approx(whole.history_[term], rel=1e-5)
    context = cpu_context(tmp_path)
    np.testing.assert_allclose(parts.transform(cells, context), whole.transform(cells, context), atol=1e-4)


def test_bc_sam_trains_in_parts_of_one_cell(cells, tmp_path):
    method = BcSamAe(**TINY | {"epochs": 1, "batch_size": 3}, accumulate=3).fit(cells, cpu_context(tmp_path))
    assert all(np.isfinite(values).all() for values in method.history_.values())
    assert method.history_["domain"] == [0]


# Interrupted ------------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


def interrupted_after(context, steps: int):
    """The context, but its progress raises after so many steps, as a kill would end them."""

    class Bar:
        done = 0

        def advance(self, n: int = 1) -> None:
            self.done += n
            if self.done >= steps:
                raise Interrupted

    class Reporter:
        note = staticmethod(context.note)

        @contextmanager
        def progress(self, total, text):
            yield Bar()

    return replace(context, reporter=Reporter())


@both
@pytest.mark.parametrize("steps", [2, 4])  # of three in an epoch
def test_an_interrupted_fit_continues_to_the_same_bits(build, cells, fitted, tmp_path, monkeypatch, steps):
    monkeypatch.setattr(Checkpoint, "save_when_due", lambda self, state: self.save(**state()))
    with pytest.raises(Interrupted):
        build(**TINY).fit(cells, interrupted_after(cpu_context(tmp_path), steps))
    context = cpu_context(tmp_path)
    resumed, whole = build(**TINY).fit(cells, context), fitted[build]
    assert f"{build.name}: training goes on after step {steps} of 6" in context.reporter.notes
    state = resumed.network_.state_dict()
    assert {"encoder.1.running_mean", "encoder.1.running_var"} <= set(state) or build is AeCfe
    for name, value in whole.network_.state_dict().items():
        assert torch.equal(state[name], value), name
    assert resumed.history_ == whole.history_
    np.testing.assert_array_equal(resumed.transform(cells, context), whole.transform(cells, context))


# Refused ----------------------------------------------------------------------------------------------------------


IMPOSSIBLE = [
    ({"epochs": 0}, "epochs must be at least 1, got 0"),
    ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
    ({"latent": -5}, "latent must be at least 1, got -5"),
    ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0"),
    ({"learning_rate": float("nan")}, "learning_rate must be above 0, got nan"),
    ({"image_weight": -1.0}, "image_weight must be at least 0, got -1"),
    ({"domain_weight": float("nan")}, "domain_weight must be at least 0, got nan"),
]
IMPOSSIBLE_OF = {
    BcSamAe: [
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0, got -1"),
    ],
    AeCfe: [({"feature_weight": -0.5}, "feature_weight must be at least 0, got -0.5")],
}


@pytest.mark.parametrize(
    ("build", "params", "message"), [(build, *case) for build in METHODS for case in IMPOSSIBLE + IMPOSSIBLE_OF[build]]
)
def test_impossible_parameters(build, params, message):
    with pytest.raises(CellfeatError) as caught:
        build(**params)
    assert str(caught.value) == f"align {build.name!r}: {message}"


@both
def test_maps_that_cannot_be(build, cells, fitted, tmp_path):
    context = cpu_context(tmp_path)
    with pytest.raises(CellfeatError, match=f"align '{build.name}' needs a token map .* got shape \\(8,\\)"):
        build(**TINY).fit(cells.with_column("map", cells.pooled), context)
    with pytest.raises(CellfeatError, match=f"align '{build.name}' was fitted on maps of 8 channels and got 16"):
        fitted[build].transform(toy_cells(per_class=1, channels=16), context)
    maps = cells.map
    maps[:] = np.nan
    with pytest.raises(CellfeatError, match=f"align '{build.name}': the loss became nan at step 1 of 6 "):
        build(**TINY).fit(cells.with_column("map", maps), context)
