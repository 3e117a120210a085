"""The figures of a photograph of a cell answer to what they are named after, and to little else."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from cellfeat import images
from cellfeat.batch_shift import LEAST_SCALE
from cellfeat.image_statistics import AT_ONCE, STATISTICS, diameter_share, image_statistics, statistics_of
from cellfeat.synthetic import LABORATORIES, draw_cell
from cellfeat.types import ArrayColumn

PLAIN = dataclasses.replace(
    LABORATORIES["lab-a"], light=(0.97, 0.95, 0.93), sharpening=0.0, jpeg_quality=None, noise=0.5, cell_share=0.5
)
CELLS = 6


def drawn(**changes: object) -> np.ndarray:
    """(12,) median statistics of the same few cells in a laboratory that differs from the plain one."""
    laboratory = dataclasses.replace(PLAIN, **changes)
    found = []
    for number in range(CELLS):
        cell = draw_cell("neutrophil", laboratory, np.random.default_rng(number))
        found.append(image_statistics(cell.image, cell.mask > 0))
    return np.median(found, axis=0)


@pytest.fixture(scope="module")
def plain() -> np.ndarray:
    return drawn()


@pytest.mark.parametrize(
    ("changes", "name", "sign"),
    [
        ({"light": (0.97, 0.95, 0.6)}, "background_yellowness", 1),
        ({"light": (0.7, 0.68, 0.66)}, "background_lightness", -1),
        ({"light": (0.97, 0.85, 0.93)}, "background_redness", 1),
        ({"azure_strength": 1.8}, "nucleus_density", 1),
        ({"contrast": 0.5}, "contrast", -1),
        ({"blur": 0.02}, "sharpness", -1),
        ({"noise": 6.0}, "noise", 1),
        ({"jpeg_quality": 15}, "blockiness", 1),
        ({"image_size": 96}, "pixels", -1),
        ({"cell_share": 0.7}, "cell_share", 1),
    ],
)
def test_a_statistic_answers_to_what_it_is_named_after(plain, changes, name, sign):
    place = STATISTICS.index(name)
    assert sign * (drawn(**changes)[place] - plain[place]) > 3 * LEAST_SCALE[place]


def test_more_of_the_blue_dye_is_bluer_and_of_the_red_dye_pinker():
    blue, red = drawn(azure_strength=1.6, eosin_strength=0.3), drawn(azure_strength=0.5, eosin_strength=1.8)
    place = STATISTICS.index("stain_blueness")
    assert blue[place] > red[place] + 3 * LEAST_SCALE[place]


def test_sharpness_is_of_the_picture_and_not_of_its_pixels():
    cell = draw_cell("monocyte", PLAIN, np.random.default_rng(0), size=256)
    half = images.resize(cell.image, 128, "area")
    whole, small = (image_statistics(one)[STATISTICS.index("sharpness")] for one in (cell.image, half))
    assert abs(whole - small) < 0.1
    blurred = image_statistics(cv2.GaussianBlur(cell.image, (0, 0), 4))
    assert blurred[STATISTICS.index("sharpness")] < whole - 0.5


def test_noise_is_told_in_grey_levels():
    rng = np.random.default_rng(0)
    flat = np.full((200, 200, 3), 128.0) + rng.normal(0, 4, (200, 200, 1))
    assert image_statistics(flat.round().astype(np.uint8))[STATISTICS.index("noise")] == pytest.approx(4, rel=0.05)


def test_the_diameter_is_that_of_a_disc():
    y, x = np.mgrid[:100, :100]
    disc = (x - 50) ** 2 + (y - 50) ** 2 <= 30**2
    assert diameter_share(disc) == pytest.approx(0.6, abs=0.01)
    for mask in (None, np.ones((4, 4), bool), np.zeros((4, 4), bool)):
        assert np.isnan(diameter_share(mask))


def test_an_image_without_a_mask_has_all_but_the_size():
    cell = draw_cell("lymphocyte", PLAIN, np.random.default_rng(0))
    for mask in (None, np.ones((8, 8), bool), np.zeros((8, 8), bool)):
        found = image_statistics(cell.image, mask)
        assert np.isnan(found[-1])
        assert np.isfinite(found[:-1]).all()


@pytest.mark.parametrize("shape", [(8, 8, 3), (1, 40, 3), (300, 20, 3)])
@pytest.mark.parametrize("level", [0, 255])
def test_images_of_one_colour_and_odd_shapes_have_figures(shape, level):
    image = np.full(shape, level, np.uint8)
    mask = np.zeros(shape[:2], bool)
    mask[0, 0] = True
    assert np.isfinite(image_statistics(image, mask)).all()


def test_many_images_keep_their_order():
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (12, 12, 3), dtype=np.uint8) for _ in range(AT_ONCE + 3)]
    masks = rng.random((len(frames), 12, 12)) > 0.5
    found = statistics_of(len(frames), frames.__getitem__, ArrayColumn(masks))
    for row in (0, AT_ONCE - 1, AT_ONCE, len(frames) - 1):
        np.testing.assert_array_equal(found[row], image_statistics(frames[row], masks[row]))
    assert statistics_of(0, frames.__getitem__, None).shape == (0, len(STATISTICS))
