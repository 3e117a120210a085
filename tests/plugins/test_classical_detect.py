"""`classical` in whole photographs: what it finds, what it leaves out."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from cellfeat_classical import Classical
from cellfeat_classical.lobes import nuclear_groups

from cellfeat.synthetic import LABORATORIES
from cellfeat.synthetic_smears import draw_smear

D = Classical.cell_diameter
GROUND, CYTOPLASM, NUCLEUS, RED = (230, 222, 215), (185, 160, 200), (95, 60, 150), (215, 165, 165)


def detect(image):
    return Classical().detect(torch.from_numpy(image.transpose(2, 0, 1).copy())).numpy()


def shared(one, other):
    """(K, 4) and (L, 4) boxes -> (K, L) intersection over union."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (one, other)]
    return both / (areas[0][:, None] + areas[1][None] - both)


def field(*discs, size=(240, 200)):
    """(H, W, 3) uint8 of (x, y, diameter in typical cells, colour) on an empty field."""
    image = np.full((size[1], size[0], 3), GROUND, np.uint8)
    for x, y, diameter, colour in discs:
        cv2.circle(image, (int(x), int(y)), round(diameter * D / 2), colour, -1, cv2.LINE_AA)
    noise = np.random.default_rng(0).normal(0, 1.5, image.shape)
    return np.clip(cv2.GaussianBlur(image, (0, 0), 0.8) + noise, 0, 255).astype(np.uint8)


def cell(x, y, lobes=((0, 0, 0.55),)):
    return [(x, y, 1.0, CYTOPLASM), *[(x + dx * D, y + dy * D, size, NUCLEUS) for dx, dy, size in lobes]]


REDS = [(30 + 45 * i, 175, 0.55, RED) for i in range(5)]


@pytest.mark.parametrize("laboratory", LABORATORIES)
def test_white_cells_of_drawn_smears_are_found(laboratory):
    truths = hits = found = 0
    for seed in range(3):
        smear = draw_smear(laboratory, np.random.default_rng(seed), (480, 360), 7, D, touching=0.15)
        boxes = detect(smear.image)
        truths, found = truths + len(smear.boxes), found + len(boxes)
        hits += int((shared(smear.boxes, boxes).max(axis=1, initial=0) > 0.5).sum())
    assert hits >= 0.9 * truths
    assert hits >= 0.85 * found


def test_a_photograph_without_white_cells_has_no_box():
    smear = draw_smear("lab-a", np.random.default_rng(1), (480, 360), 0, D)
    assert detect(smear.image).shape == (0, 4)


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("side", [1, 7, 150])
def test_a_blank_or_tiny_photograph_has_no_box(value, side):
    assert detect(np.full((side, 2 * side, 3), value, np.uint8)).shape == (0, 4)


def test_lobes_of_one_nucleus_are_one_cell_and_its_box_holds_the_cytoplasm():
    lobes = ((-0.2, -0.12, 0.3), (0.2, -0.1, 0.3), (0.0, 0.22, 0.3))
    boxes = detect(field(*cell(120, 80, lobes), *REDS))
    assert shared(boxes, np.array([[120 - D / 2, 80 - D / 2, 120 + D / 2, 80 + D / 2]])).max() > 0.8
    assert len(boxes) == 1


def test_two_large_lobes_within_one_cell_are_one_cell():
    assert len(detect(field(*cell(120, 80, ((-0.23, 0, 0.44), (0.23, 0, 0.44))), *REDS))) == 1


def test_cells_that_touch_are_parted():
    boxes = detect(field(*cell(90, 80), *cell(90 + 0.95 * D, 80), *REDS))
    middles = sorted(((boxes[:, 0] + boxes[:, 2]) / 2).tolist())
    assert len(middles) == 2
    assert middles == pytest.approx([90, 90 + 0.95 * D], abs=0.15 * D)


def test_a_cell_that_the_border_cuts_is_found_with_a_box_that_ends_there():
    boxes = detect(field(*cell(4, 80), *REDS))
    assert boxes.shape == (1, 4)
    assert boxes[0, 0] == 0
    assert boxes[0, 2] == pytest.approx(4 + D / 2, abs=0.12 * D)


def test_platelets_and_stacks_of_red_cells_are_left_out():
    platelets = [(60 + 50 * i, 60, 0.2, NUCLEUS) for i in range(3)]
    stack = [(100, 120, 0.55, RED), (112, 120, 0.5, (190, 120, 120))]
    assert len(detect(field(*platelets, *stack, *REDS))) == 0
    assert len(detect(field(*platelets, *stack, *REDS, *cell(190, 110)))) == 1


def test_a_shade_across_the_photograph_is_no_cell():
    image = field(*cell(120, 80), *REDS)
    shade = np.exp(-0.2 * np.linspace(-1, 1, image.shape[1]) ** 2 - 0.15 * np.linspace(0, 1, image.shape[1]))
    assert len(detect((image * shade[None, :, None]).astype(np.uint8))) == 1


def test_two_round_nuclei_are_parted_at_their_neck_and_small_lobes_are_not():
    mask = np.zeros((120, 160), np.uint8)
    for x in (40, 40 + 26):
        cv2.circle(mask, (x, 60), 15, 1, -1)
    stained = np.ones(mask.shape, dtype=bool)
    assert nuclear_groups(mask > 0, stained, D).max() == 2
    mask[:] = 0
    for x in (40, 60):
        cv2.circle(mask, (x, 60), 10, 1, -1)
    assert nuclear_groups(mask > 0, stained, D).max() == 1


def test_a_dark_ring_that_is_wider_than_any_nucleus_is_none():
    """Such as the edge of a drop: its middle is empty, so that there is nothing for a cell to grow from."""
    image = np.full((300, 300, 3), 235, np.uint8)
    cv2.circle(image, (150, 150), 120, (60, 20, 110), 9)
    assert len(Classical().detect(torch.from_numpy(image.transpose(2, 0, 1).copy()))) == 0
