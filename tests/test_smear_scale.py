"""The size of a white cell is told from a photograph alone."""

from __future__ import annotations

import numpy as np
import pytest

from cellfeat.images import illumination
from cellfeat.smear_scale import typical_diameter
from cellfeat.synthetic import LABORATORIES
from cellfeat.synthetic_smears import draw_smear


@pytest.mark.parametrize("diameter", [20, 48, 110])
@pytest.mark.parametrize("laboratory", LABORATORIES)
def test_red_cells_tell_the_scale(laboratory, diameter):
    side = (400, 300) if diameter < 100 else (800, 600)
    smear = draw_smear(laboratory, np.random.default_rng(3), side, cells=3, diameter=diameter)
    assert typical_diameter(smear.image) == pytest.approx(diameter, rel=0.25)


def test_a_photograph_without_white_cells_has_a_scale():
    smear = draw_smear("lab-a", np.random.default_rng(0), (400, 300), cells=0, diameter=48)
    assert typical_diameter(smear.image) == pytest.approx(48, rel=0.1)


def test_the_estimate_grows_with_the_photograph_and_is_repeatable():
    image = draw_smear("lab-c", np.random.default_rng(1), (400, 300), cells=3, diameter=48).image
    twice = np.repeat(np.repeat(image, 2, axis=0), 2, axis=1)
    once = typical_diameter(image)
    assert once is not None
    assert typical_diameter(image) == once
    assert typical_diameter(twice) == pytest.approx(2 * once, rel=0.1)


def test_a_large_photograph_of_small_cells_is_looked_at_again():
    image = draw_smear("lab-a", np.random.default_rng(1), (2000, 400), cells=6, diameter=24).image
    assert typical_diameter(image) == pytest.approx(24, rel=0.15)


@pytest.mark.parametrize("value", [0, 200, 255])
def test_a_blank_photograph_tells_no_scale(value):
    assert typical_diameter(np.full((120, 160, 3), value, np.uint8)) is None


def test_noise_and_a_tiny_photograph_tell_no_scale():
    noise = np.random.default_rng(0).normal(200, 5, (150, 200, 3))
    assert typical_diameter(noise.astype(np.uint8)) is None
    assert typical_diameter(draw_smear("lab-a", np.random.default_rng(0), (31, 200)).image) is None


def test_the_light_of_a_photograph_is_found_under_its_cells():
    flat = draw_smear("lab-a", np.random.default_rng(2), (320, 240), cells=3, diameter=40).image
    ys, xs = np.mgrid[-1:1:240j, -1:1:320j]
    shade = np.exp(-0.15 * (xs**2 + ys**2))[..., None]
    found = illumination((flat * shade).astype(np.uint8)) / (illumination(flat) * shade)
    assert np.abs(np.log(found)).max() < 0.05
