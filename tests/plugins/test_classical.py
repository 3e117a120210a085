"""Backbone `colour` and segmenter `otsu`: the floors."""

from __future__ import annotations

import csv
import subprocess
import sys

import numpy as np
import pytest
import torch
from cellfeat_classical import Colour, Otsu, cellfeat_backbone, cellfeat_segmenter
from cellfeat_classical.colour import histograms

from cellfeat import CellfeatError, images
from cellfeat.testing import check_backbone, check_segmenter

BACKGROUND, CYTOPLASM, NUCLEUS = (235, 225, 215), (170, 120, 180), (90, 50, 140)


def disc(side, x, y, radius):
    ys, xs = np.mgrid[:side, :side]
    return (xs - x) ** 2 + (ys - y) ** 2 <= radius**2


def draw(side=96, centre=(48, 48)):
    """A white cell with a nucleus: ((3, S, S) uint8, whole-cell mask)."""
    image = np.empty((side, side, 3), np.uint8)
    image[:] = BACKGROUND
    cell = disc(side, *centre, 20)
    image[cell] = CYTOPLASM
    image[disc(side, *centre, 12)] = NUCLEUS
    return image.transpose(2, 0, 1), cell


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def segment(*drawn):
    return Otsu().segment(torch.from_numpy(np.stack(drawn))).numpy()


def test_names_are_offered():
    assert cellfeat_backbone() == {"colour": Colour}
    assert cellfeat_segmenter() == {"otsu": Otsu}


def test_otsu_keeps_the_segmenter_contract():
    check_segmenter(Otsu)
    check_segmenter(Otsu, size=65)


def test_otsu_finds_each_whole_cell_of_a_batch():
    places = [(48, 48), (40, 55), (60, 42)]
    drawn = [draw(centre=place) for place in places]
    masks = segment(*(image for image, _ in drawn))
    assert [iou(mask, cell) > 0.9 for mask, (_, cell) in zip(masks, drawn, strict=True)] == [True] * 3


def test_otsu_prefers_the_cell_in_the_middle_to_a_larger_body_at_the_edge():
    image, cell = draw()
    image[:, disc(96, 0, 0, 34)] = np.array(NUCLEUS, np.uint8)[:, None]
    body = disc(96, 0, 0, 34)
    assert body.sum() > 0.7 * cell.sum()
    assert iou(segment(image)[0], cell) > 0.9


def test_otsu_fills_holes_and_cuts_a_narrow_bridge():
    image, cell = draw()
    image[:, disc(96, 48, 48, 4)] = np.array(BACKGROUND, np.uint8)[:, None]  # a vacuole
    image[:, 47:50, 68:96] = np.array(NUCLEUS, np.uint8)[:, None, None]  # a fibre to the edge
    mask = segment(image)[0]
    assert mask[48, 48]
    assert not mask[:, 80:].any()
    assert iou(mask, cell) > 0.85


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_blank_image_has_an_empty_mask_and_finite_features(value):
    blank = torch.full((1, 3, 224, 224), value, dtype=torch.uint8)
    assert not Otsu().segment(blank).any()
    features = Colour().encode(blank)
    assert not features.mask.any()
    assert torch.isfinite(features.embedding).all()
    torch.testing.assert_close(features.embedding, Colour(cell_only=False).encode(blank).embedding)


def test_faint_noise_on_an_empty_field_is_no_cell():
    noise = 200 + np.random.default_rng(0).normal(0, 3, size=(3, 128, 128))
    assert not segment(noise.astype(np.uint8)).any()


@pytest.mark.real
def test_otsu_reaches_its_documented_overlap_on_real_cells(real_data):
    with (real_data / "manifest.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["domain"] == "tecom"]
    overlaps = []
    for row in rows:
        image = images.resize(images.read_rgb(real_data / row["path"]), 224)
        truth = images.resize_mask(images.read_mask(real_data / row["mask_path"]) > 0, 224)
        overlaps.append(iou(segment(image.transpose(2, 0, 1))[0], truth))
    assert len(overlaps) == 300
    assert np.mean(overlaps) == pytest.approx(0.829, abs=0.005)


@pytest.mark.parametrize("params", [{}, {"cell_only": False}, {"bins": 5}])
def test_colour_keeps_the_backbone_contract(params):
    check_backbone(Colour, **params)


@pytest.mark.parametrize("bins", [2, 8])
def test_colour_has_the_documented_size(bins):
    image, _ = draw()
    embedding = Colour(bins=bins).encode(torch.from_numpy(image[None])).embedding
    assert tuple(embedding.shape) == (1, 12 * bins + 2 * bins**3)
    assert embedding.dtype == torch.float32


def test_one_colour_fills_one_entry_of_each_histogram():
    image = np.full((10, 10, 3), (200, 10, 120), np.uint8)
    vector = histograms(image, np.ones((10, 10), bool), bins=8)
    red, green, blue, hsv, lab = np.split(vector, [32, 64, 96, 96 + 512])
    assert [part.argmax() for part in (red, green, blue)] == [200 // 8, 10 // 8, 120 // 8]
    # By hand: red is largest, green smallest: hue 60°·(10 - 120)/190 = 325.3° -> 231 of 255; saturation
    # 255·190/200 = 242; value 200.
    assert hsv.argmax() == (231 // 32) * 64 + (242 // 32) * 8 + 200 // 32
    np.testing.assert_allclose([part.sum() for part in (red, green, blue, hsv, lab)], 1.0)


def test_only_pixels_of_the_cell_count_and_the_sum_of_squares_is_its_share():
    image, cell = draw()
    tinted = image.copy()
    tinted[0, ~cell] = 40  # red alone, away from the cell: the mask, found on green, stays
    both = torch.from_numpy(np.stack([image, tinted]))
    alone, whole = Colour().encode(both), Colour(cell_only=False).encode(both)
    assert torch.equal(alone.embedding[0, 32:96], alone.embedding[1, 32:96])
    assert iou(alone.mask[0].numpy(), cell) > 0.9
    share = alone.mask.float().mean(dim=(1, 2))
    torch.testing.assert_close((alone.embedding[:, :32] ** 2).sum(1), share)
    assert (alone.embedding[0] - alone.embedding[1]).abs().max() < 0.1  # a rim of the mask may lie outside the disc
    assert (whole.embedding[0] - whole.embedding[1]).abs().max() > 0.5
    assert whole.mask is None
    torch.testing.assert_close((whole.embedding[:, :32] ** 2).sum(1), torch.ones(2))


@pytest.mark.parametrize("bins", [1, 33])
def test_impossible_bins_are_refused(bins):
    with pytest.raises(CellfeatError, match=rf"bins={bins} is not possible: give 2 to 32"):
        Colour(bins=bins)


def test_importing_the_plugin_imports_no_heavy_library():
    code = "import sys, cellfeat_classical; print({'torch', 'cv2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
