"""MixStyle in `source-only`: the statistics that it gives, when it is silent, and which networks take it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cellfeat_timm import SourceOnly, mixstyle
from cellfeat_timm.network import build
from helpers import check_variant
from torch import nn

from cellfeat import CellfeatError, Cells
from cellfeat.testing import cpu_context

TINY = {"model": "test_resnet", "weights": "random", "image_size": 32, "epochs": 2, "batch_size": 4}


def maps(batch=4, seed=0):
    scale = torch.arange(1.0, batch + 1)[:, None, None, None]
    return scale * torch.randn(batch, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) + scale


def few_cells():
    rng = np.random.default_rng(0)
    return Cells.from_arrays(np.tile([0, 1], 6), image=rng.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8))


def test_the_output_has_exactly_the_mixed_statistics():
    images, partners, share = maps(), torch.tensor([2, 0, 3, 1]), torch.tensor([0.9, 0.25, 0.0, 1.0])
    out = mixstyle.mix_statistics(images, partners, share)
    mean, deviation = images.mean((2, 3)), images.std((2, 3))
    weight = share[:, None]
    torch.testing.assert_close(out.mean((2, 3)), weight * mean + (1 - weight) * mean[partners], rtol=1e-5, atol=1e-5)
    wanted = weight * deviation + (1 - weight) * deviation[partners]
    torch.testing.assert_close(out.std((2, 3)), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out[3], images[3], rtol=1e-5, atol=1e-5)  # all of its own style


def test_statistics_are_not_differentiated():
    images = maps().requires_grad_()
    partners, share = torch.tensor([1, 0, 3, 2]), torch.full((4,), 0.5)
    mixstyle.mix_statistics(images, partners, share).sum().backward()
    deviation = (images.detach().var((2, 3), keepdim=True) + 1e-6).sqrt()
    ratio = (0.5 * deviation + 0.5 * deviation[partners]) / deviation
    torch.testing.assert_close(images.grad, ratio.expand_as(images))


def test_half_precision_stays_half_precision():
    out = mixstyle.mix_statistics(maps().bfloat16(), torch.tensor([1, 0, 3, 2]), torch.rand(4))
    assert out.dtype == torch.bfloat16


def test_it_works_in_training_only_with_its_probability():
    module, images = nn.Identity(), maps()
    hook = mixstyle.MixStyle(0.5)
    torch.manual_seed(0)
    changed = sum(not torch.equal(hook(module.train(), None, images), images) for _ in range(200))
    assert 70 < changed < 130
    assert torch.equal(hook(module.eval(), None, images), images)
    assert torch.equal(mixstyle.MixStyle(0.0)(module.train(), None, images), images)
    assert not torch.equal(mixstyle.MixStyle(1.0)(module.train(), None, images), images)


def test_shares_come_from_the_published_beta_distribution():
    assert float(mixstyle.MixStyle(1.0).beta.concentration0) == pytest.approx(0.1)
    assert float(mixstyle.MixStyle(1.0).beta.concentration1) == pytest.approx(0.1)


def test_it_stands_behind_the_first_two_stages_and_adds_nothing_to_the_state():
    network = build("test_resnet", None, size=32, num_classes=2, seed=0)
    names = list(network.state_dict())
    mixstyle.insert_mixstyle(network, 1.0)
    assert list(network.state_dict()) == names
    hooked = [name for name, part in network.named_modules() if part._forward_hooks]
    assert hooked == ["layer1", "layer2"]


def test_source_only_with_mixstyle_keeps_the_contract_and_trains_otherwise_than_without(tmp_path):
    check_variant(SourceOnly, tmp_path / "contract", **{**TINY, "epochs": 1, "mixstyle": 0.5})
    use = cpu_context(tmp_path)
    answers = []
    for probability in (0.0, 1.0):
        method = SourceOnly(**TINY, mixstyle=probability)
        method.fit(few_cells(), cpu_context(tmp_path / str(probability)))
        answers.append(method.transform(few_cells(), use))
    assert np.abs(answers[0] - answers[1]).max() > 1e-3


def test_without_mixstyle_no_hook_is_there(tmp_path):
    method = SourceOnly(**TINY).fit(few_cells(), cpu_context(tmp_path))
    assert not any(part._forward_hooks for part in method.network.modules())


@pytest.mark.parametrize("probability", [-0.1, 1.5])
def test_what_is_no_probability_is_refused(probability):
    with pytest.raises(CellfeatError, match=rf"mixstyle={probability} is not possible: give a probability from 0 to 1"):
        SourceOnly(**TINY, mixstyle=probability)


def test_a_network_without_a_resnets_stages_is_refused():
    message = r"behind layer1 and layer2 of a ResNet, and timm's test_vit consists of patch_embed.*Take one such as"
    with pytest.raises(CellfeatError, match=message):
        SourceOnly(model="test_vit", weights="random", mixstyle=0.5)
