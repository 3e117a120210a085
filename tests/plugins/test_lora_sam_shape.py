"""Shapes of cell and nucleus: what they depend on and what not."""

from __future__ import annotations

import numpy as np
import pytest
from cellfeat_lora_sam.shape import PART, SHAPES, THICKNESS, shape_of_part, shapes
from pretraining import disc_masks

from cellfeat import synthetic


def test_shapes_do_not_depend_on_size_and_place():
    small, large = (disc_masks(1, 160, r, middle)[0] > 0 for r, middle in ((30, (50, 60)), (60, (80, 70))))
    square = np.zeros((160, 160), bool)
    square[40:110, 30:100] = True
    assert np.abs(shape_of_part(small) - shape_of_part(large)).max() < 0.35
    figures = shape_of_part(large)
    assert figures.shape == (PART,)
    assert figures[0] == pytest.approx(1, abs=0.04)  # solidity
    assert figures[1] == pytest.approx(4 * np.pi, rel=0.15)  # roughness: squared length by area
    assert figures[3] == pytest.approx(1 / np.sqrt(np.pi), abs=0.02)  # depth of a disc by the root of its area
    assert shape_of_part(square)[1] == pytest.approx(16, rel=0.05)


def test_shapes_count_lobes():
    """Two discs and a bridge of 6 px, which is thinner than a tenth of the root of the area."""
    lobed = disc_masks(1, 128, 22, (30, 64))[0] + disc_masks(1, 128, 22, (98, 64))[0] > 0
    lobed[61:67, 40:90] = True
    lobes = 4 + 7 + 4  # figures before them
    counted = shape_of_part(lobed)[lobes : lobes + len(THICKNESS)]
    assert counted[0] == 1
    assert counted[THICKNESS.index(0.12)] == 2
    assert counted[-1] in (0, 2)
    round_one = shape_of_part(disc_masks(1, 128, 22)[0] > 0)[lobes : lobes + len(THICKNESS)]
    assert round_one.tolist() == [1] * len(THICKNESS)


def test_shapes_of_a_batch_are_finite_and_follow_no_turn():
    rng = np.random.default_rng(0)
    cells = np.stack([synthetic.draw_cell(label, "lab-a", rng, size=224).mask for label in synthetic.CLASSES])
    found = shapes(cells > 0, cells == 255)
    assert found.shape == (len(cells), SHAPES)
    assert found.dtype == np.float32
    turned = np.rot90(cells, axes=(1, 2))[:, :, ::-1]
    apart = np.linalg.norm(found[:, None] - found, axis=2)[~np.eye(len(cells), dtype=bool)].min()
    assert np.linalg.norm(shapes(turned > 0, turned == 255) - found, axis=1).max() < 0.3 * apart
    np.testing.assert_allclose(found[:, -1], (cells == 255).sum((1, 2)) / (cells > 0).sum((1, 2)), atol=0.02)
    nothing = shapes(np.zeros((1, 224, 224), bool), np.zeros((1, 224, 224), bool))
    assert not nothing.any()
    assert np.isfinite(shapes(np.ones((1, 64, 64), bool), np.zeros((1, 64, 64), bool))).all()
