"""What classical image analysis measures in a cell, and the principal components of it."""

from __future__ import annotations

import numpy as np
import pytest
from cellfeat_lora_sam import pretrain_descriptors
from cellfeat_lora_sam.pretrain_descriptors import Descriptors, _histogram, _patterns, describe
from cellfeat_lora_sam.shape import PART, SHAPES

from cellfeat import synthetic


@pytest.fixture(scope="module")
def cells() -> list[synthetic.SyntheticCell]:
    rng = np.random.default_rng(2)
    return [synthetic.draw_cell(label, "lab-a", rng, size=96) for label in synthetic.CLASSES]


@pytest.fixture(scope="module")
def measured(cells) -> np.ndarray:
    return np.stack([describe(cell.image, cell.mask) for cell in cells])


def between(measured: np.ndarray) -> float:
    """The least distance of two different cells."""
    away = np.linalg.norm(measured[:, None] - measured, axis=2)
    return float(away[~np.eye(len(away), dtype=bool)].min())


TURNS = {
    "turned": lambda plane: np.rot90(plane),
    "turned by half": lambda plane: np.rot90(plane, 2),
    "mirrored": lambda plane: plane[:, ::-1],
}


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
def test_turn_and_mirror_leave_them_nearly_as_they_are(cells, measured, turn):
    turned = np.stack([describe(*(np.ascontiguousarray(turn(plane)) for plane in cell[:2])) for cell in cells])
    assert measured.dtype == np.float32
    assert np.linalg.norm(turned - measured, axis=1).max() < 0.25 * between(measured)


def test_they_tell_colour_texture_and_shape_apart(cells, measured):
    """Each change alone moves its own block and no other: colours first, then textures, then shapes."""
    image, mask, _ = cells[4]
    before = measured[4]
    colours = 2 * (7 * pretrain_descriptors.TONE_STEPS + pretrain_descriptors.COLOUR_STEPS**3)
    shapes = SHAPES

    def moved(image: np.ndarray, mask: np.ndarray) -> tuple[float, float, float]:
        change = describe(image, mask) - before
        blocks = change[:colours], change[colours:-shapes], change[-shapes:]
        return tuple(float(np.abs(block).max()) for block in blocks)

    colour, _, shape = moved(image[..., ::-1].copy(), mask)
    assert colour > 0.3
    assert shape == 0
    _, texture, shape = moved(np.random.default_rng(0).permutation(image.reshape(-1, 3)).reshape(image.shape), mask)
    assert texture > 0.2
    assert shape == 0
    outside = np.where(mask[..., None] > 0, image, 255 - image)
    assert moved(outside, mask)[0] == 0  # the field does not count
    assert moved(image, np.minimum(mask, 128))[2] > 0.2


def test_the_window_that_is_looked_at_is_wide_enough(cells, measured, monkeypatch):
    monkeypatch.setattr(pretrain_descriptors, "MARGIN", 999)
    whole = np.stack([describe(cell.image, cell.mask) for cell in cells])
    assert np.linalg.norm(whole - measured, axis=1).max() < 0.02 * between(measured)


def test_a_cell_without_a_nucleus_is_described_by_what_there_is(cells):
    image, mask, _ = cells[0]
    found = describe(image, np.minimum(mask, 128))
    half = pretrain_descriptors.TONE_STEPS * 7 + pretrain_descriptors.COLOUR_STEPS**3
    assert np.array_equal(found[:half], found[half : 2 * half])  # the cell stands in for its nucleus
    assert found[-1] == 0
    assert not found[-1 - PART : -1].any()
    assert describe(image, mask)[-1] == pytest.approx((mask == 255).sum() / (mask > 0).sum())


def test_histograms_are_roots_of_shares():
    assert _histogram(np.array([0, 1, 1, 3]), 2, 0, 4).tolist() == pytest.approx([np.sqrt(0.75), 0.5])
    assert _histogram(np.array([9.0]), 2, 0, 4).tolist() == [0, 0]


def test_patterns_are_those_of_local_binary_patterns():
    """Flat ground has no brighter neighbour; a lone dark spot has eight; beside an edge there are three in a row."""
    flat = np.full((16, 16), 50.0, np.float32)
    assert (_patterns(flat, 1.5) == 0).all()
    spot = flat.copy()
    spot[8, 8] = 0
    assert _patterns(spot, 1.5)[8, 8] == 8
    edge = flat.copy()
    edge[:, 9:] = 200
    assert _patterns(edge, 1.0)[8, 8] == 3
    stripes = flat.copy()
    stripes[:, 9:] = stripes[:, :8] = 200
    assert _patterns(stripes, 1.0)[8, 8] == pretrain_descriptors.PATTERNS - 1  # two runs: not uniform


def test_components_have_a_mean_square_of_1_and_keep_the_order_of_distances():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(60, 4))
    data = (hidden @ rng.normal(size=(4, 30)) * rng.uniform(0.1, 9, 30) + 7).astype(np.float32)
    fitted = Descriptors.fitted(data)
    told = fitted.standardised(data)
    assert told.shape == (60, fitted.count)
    assert told.dtype == np.float32
    assert fitted.count == 4  # the others are rounding
    assert np.mean(told**2) == pytest.approx(1, rel=1e-4)
    assert np.abs(told.mean(0)).max() < 1e-4
    off = np.corrcoef(told.T) - np.eye(fitted.count)
    assert np.abs(off).max() < 1e-3
    spread = told.std(0)
    assert (np.diff(spread) < 0).all()  # the first count most, but less than by themselves
    bare = np.linalg.svd((data - data.mean(0)) / data.std(0), compute_uv=False)[:4]
    assert spread / spread[0] == pytest.approx(np.sqrt(bare / bare[0]), rel=1e-2)


def test_the_number_of_components_is_bounded(monkeypatch):
    data = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
    assert Descriptors.fitted(data).count == 30
    monkeypatch.setattr(pretrain_descriptors, "COMPONENTS", 7)
    assert Descriptors.fitted(data).count == 7
    assert Descriptors.fitted(data[:2]).count == 1  # two cells lie on one line
    assert np.mean(Descriptors.fitted(data).standardised(data) ** 2) == pytest.approx(1, rel=1e-4)
