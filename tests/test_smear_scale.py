"""The size of a white cell is told from a photograph alone."""

from __future__ import annotations

import numpy as np
import pytest

from cellfeat.illumination import evened, lit
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


def round_field(image):
    """As an eyepiece shows it."""
    height, width = image.shape[:2]
    ys, xs = np.mgrid[:height, :width]
    return image * (np.hypot(ys - height / 2, xs - width / 2) < 0.49 * height)[..., None].astype(np.uint8)


@pytest.mark.parametrize("darken", [lambda image: np.pad(image, ((40, 40), (40, 40), (0, 0))), round_field])
@pytest.mark.parametrize("laboratory", LABORATORIES)
def test_what_no_light_reached_is_no_cell(laboratory, darken):
    image = draw_smear(laboratory, np.random.default_rng(1), (450, 400), cells=8, diameter=32).image
    dark = darken(image)
    assert typical_diameter(dark) == pytest.approx(32, rel=0.15)
    seen = lit(dark)
    assert seen.max(axis=2).min() > 30
    assert (seen[dark.shape[0] // 2] == dark[dark.shape[0] // 2])[60:-60].all()
    assert lit(image) is image


def test_bright_things_on_black_are_no_field():
    image = np.zeros((120, 160, 3), np.uint8)
    image[20:50, 20:50] = image[60:90, 100:130] = 220
    assert lit(image) is image


def test_noise_of_all_greys_tells_no_scale():
    assert typical_diameter(np.random.default_rng(0).integers(0, 255, (300, 400, 3)).astype(np.uint8)) is None


def test_a_corner_is_as_light_as_the_middle_once_evened():
    flat = draw_smear("lab-a", np.random.default_rng(2), (320, 240), cells=3, diameter=40).image
    ys, xs = np.mgrid[-1:1:240j, -1:1:320j]
    shaded = (flat * np.exp(-0.15 * (xs**2 + ys**2))[..., None]).astype(np.uint8)

    def falls(image):
        light = illumination(image)
        return float(np.log(light.max(axis=(0, 1)) / light.min(axis=(0, 1))).max())

    assert falls(shaded) > 0.2
    assert falls(evened(shaded)) < 0.06
