"""The loss of LoRA-SAM at values that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cellfeat_lora_sam.losses import block_centres, dice_loss, low_resolution, segmentation_loss
from cellfeat_lora_sam.network import upsample
from scipy import ndimage


def test_an_undecided_network():
    """Softmax 1/2 everywhere, a quarter of the pixels on the cell."""
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    target[0, :2, :2] = 1
    terms = segmentation_loss(torch.zeros(1, 2, 4, 4), target)
    background, cell = 1 - 2 * 6 / (4 + 12), 1 - 2 * 2 / (4 + 4)
    assert terms.cross_entropy.item() == pytest.approx(math.log(2))
    assert terms.dice.item() == pytest.approx((background + cell) / 2, rel=1e-5)
    assert terms.loss.item() == pytest.approx(0.2 * terms.cross_entropy.item() + 0.8 * terms.dice.item())


def test_dice_is_summed_over_the_batch_not_averaged_over_images():
    logits = torch.zeros(2, 2, 4, 4)
    target = torch.zeros(2, 4, 4, dtype=torch.long)
    target[0] = 1  # one image all cell, one all background
    assert dice_loss(logits, target).item() == pytest.approx(1 - 2 * 8 / (8 + 16), rel=1e-5)


def test_a_perfect_answer_costs_nothing():
    target = torch.randint(0, 2, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    logits = torch.stack([1 - 2 * target, 2 * target - 1], dim=1) * 30.0
    assert segmentation_loss(logits, target).loss.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("side", [64, 224, 1024])
def test_low_resolution_is_the_originals_zoom(side):
    mask = np.random.default_rng(side).random((2, side, side)) < 0.5
    zoomed = np.stack([ndimage.zoom(one.astype(np.uint8), 0.25, order=0) for one in mask]).astype(bool)
    assert np.array_equal(low_resolution(torch.from_numpy(mask)).numpy(), zoomed)


@pytest.mark.parametrize("radius", [40, 60, 95])
def test_a_mask_learned_at_block_centres_comes_back_in_its_size(radius):
    """A learner without fault: distances to the rim as logits. From the published targets its disc is too small."""
    ys, xs = np.mgrid[:224, :224] - 111.5
    disc, areas = torch.from_numpy(np.hypot(ys, xs) < radius)[None], {}
    for reduce in (block_centres, low_resolution):
        small = reduce(disc)[0].numpy()
        away = ndimage.distance_transform_edt(small) - ndimage.distance_transform_edt(~small)
        full = upsample(torch.from_numpy(away)[None, None].float(), 224)[0, 0] > 0
        areas[reduce] = full.sum() / disc.sum()
    assert areas[block_centres] == pytest.approx(1, abs=0.012)
    assert areas[low_resolution] < 0.985
