"""Backbone `colour` and segmenters `otsu` and `classical`: the floors."""

from __future__ import annotations

import csv
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from cellfeat_classical import Classical, Colour, Otsu, cellfeat_backbone, cellfeat_segmenter
from cellfeat_classical.classical import plausible, segment_cell
from cellfeat_classical.colour import histograms
from cellfeat_classical.nucleus import empty_field, multi_otsu, otsu

from cellfeat import CellfeatError, images
from cellfeat.synthetic import CLASSES, draw_cell, random_laboratory
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
    assert cellfeat_segmenter() == {"otsu": Otsu, "classical": Classical}


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
@pytest.mark.parametrize(("method", "expected"), [(Otsu, 0.829), (Classical, 0.900)])
def test_segmenters_reach_their_documented_overlap_on_real_cells(real_data, method, expected):
    with (real_data / "manifest.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["domain"] == "tecom"]
    overlaps = []
    for row in rows:
        image = images.resize(images.read_rgb(real_data / row["path"]), 224)
        truth = images.resize_mask(images.read_mask(real_data / row["mask_path"]) > 0, 224)
        found = method().segment(torch.from_numpy(image.transpose(2, 0, 1)[None].copy()))[0]
        overlaps.append(iou(found.numpy(), truth))
    assert len(overlaps) == 300
    assert np.mean(overlaps) == pytest.approx(expected, abs=0.005)


def field_with(*bodies, side=128, ground=BACKGROUND, noise=2.0):
    """(S, S, 3) uint8 of (mask, colour) painted in turn on noisy ground, slightly blurred as by a lens."""
    image = np.empty((side, side, 3), np.float32)
    image[:] = ground
    for mask, colour in bodies:
        image[mask] = colour
    image = cv2.GaussianBlur(image, (0, 0), 0.8) + np.random.default_rng(0).normal(0, noise, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


RED_CELL = (215, 160, 150)


@pytest.mark.parametrize("size", [224, 65, 32])
def test_classical_keeps_the_segmenter_contract(size):
    check_segmenter(Classical, size=size)


@pytest.mark.parametrize("ground", [(250, 235, 150), (250, 250, 250), (195, 195, 190), (190, 205, 240)])
@pytest.mark.parametrize("side", [61, 128, 301])
def test_classical_finds_cell_and_nucleus_on_any_background(ground, side):
    cell, nucleus = disc(side, 0.5 * side, 0.47 * side, 0.2 * side), disc(side, 0.53 * side, 0.5 * side, 0.11 * side)
    shade = np.multiply(ground, np.divide(CYTOPLASM, 240))
    found = segment_cell(field_with((cell, shade), (nucleus, NUCLEUS), side=side, ground=ground))
    assert iou(found[0], cell) > 0.9
    assert iou(found[1], nucleus) > 0.85


def test_classical_parts_the_cell_from_red_cells_that_touch_it_all_round():
    cell, nucleus = disc(128, 64, 64, 24), disc(128, 62, 64, 15)
    angles = np.arange(5) * 2 * np.pi / 5
    red = [disc(128, 64 + 40 * np.cos(angle), 64 + 40 * np.sin(angle), 18) for angle in angles]
    image = field_with(*((mask, RED_CELL) for mask in red), (cell, CYTOPLASM), (nucleus, NUCLEUS))
    assert iou(segment_cell(image)[0], cell) > 0.85
    assert iou(segment(image.transpose(2, 0, 1))[0], cell) < 0.6  # what Otsu's threshold makes of it


def test_classical_does_not_take_a_red_cell_for_the_white_one_nor_another_white_cell_beside_it():
    cell, beside = disc(128, 70, 64, 20), disc(128, 26, 64, 22)
    bodies = [(disc(128, 64, 20, 18), RED_CELL), (beside, CYTOPLASM), (disc(128, 24, 64, 13), NUCLEUS)]
    found, nucleus = segment_cell(field_with(*bodies, (cell, CYTOPLASM), (disc(128, 70, 64, 12), NUCLEUS)))
    assert iou(found, cell) > 0.85
    assert not nucleus[beside & ~cell].any()


def test_classical_joins_lobes_and_fills_vacuoles():
    cell, lobes = disc(128, 64, 64, 28), disc(128, 53, 60, 9) | disc(128, 75, 66, 9)
    image = field_with((cell, CYTOPLASM), (lobes, NUCLEUS), (disc(128, 64, 80, 3), BACKGROUND))
    found, nucleus = segment_cell(image)
    assert iou(found, cell) > 0.9
    assert iou(nucleus, lobes) > 0.8
    assert found[80, 64]


def test_classical_reaches_its_documented_overlap_on_drawn_cells():
    rng = np.random.default_rng(2024)
    drawn = [draw_cell(CLASSES[index % 5], random_laboratory(rng), rng, 128) for index in range(60)]
    batch = torch.from_numpy(np.stack([cell.image.transpose(2, 0, 1) for cell in drawn]))
    cells, nuclei = (masks.numpy() for masks in Classical().cells_and_nuclei(batch))
    overlap = np.array([iou(mask, cell.mask > 0) for mask, cell in zip(cells, drawn, strict=True)])
    assert overlap.mean() > 0.89
    assert np.mean([iou(mask, cell.mask == 255) for mask, cell in zip(nuclei, drawn, strict=True)]) > 0.86
    assert not (nuclei & ~cells).any()
    passed = Classical().plausible(batch, torch.from_numpy(cells), torch.from_numpy(nuclei)).numpy()
    assert 0.8 < passed.mean() < 1
    assert overlap[passed].mean() > overlap[~passed].mean() + 0.2


def test_each_picture_of_a_batch_is_segmented_by_itself():
    pictures = [draw(centre=place)[0] for place in [(48, 48), (40, 55)]]
    together = Classical().segment(torch.from_numpy(np.stack(pictures)))
    alone = [Classical().segment(torch.from_numpy(picture[None]))[0] for picture in pictures]
    assert torch.equal(together, torch.stack(alone))
    none = torch.zeros((0, 3, 64, 64), dtype=torch.uint8)
    assert tuple(Classical().segment(none).shape) == (0, 64, 64)
    assert tuple(Classical().plausible(none, none[:, 0] > 0, none[:, 0] > 0).shape) == (0,)


@pytest.mark.parametrize("size", [32, 47, 128])
@pytest.mark.parametrize("seed", range(6))
def test_classical_survives_pictures_without_a_cell(size, seed):
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 255, size)[None, :, None] * np.ones((size, 1, 3))
    extremes = 255 * rng.integers(0, 2, (size, size, 3))
    speck = np.full((size, size, 3), 255)
    speck[size // 2, size // 2] = 0
    coarse = cv2.resize(rng.integers(0, 256, (5, 5, 3)).astype(np.uint8), (size, size))
    pictures = [ramp, ramp.transpose(1, 0, 2), extremes, speck, coarse, rng.integers(0, 256, (size, size, 3))]
    cell, nucleus = segment_cell(pictures[seed].astype(np.uint8))
    assert cell.shape == nucleus.shape == (size, size)
    assert not (nucleus & ~cell).any()
    assert plausible(cell, nucleus, pictures[seed].astype(np.uint8)) in (True, False)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_classical_finds_nothing_on_an_empty_field(value):
    blank = np.full((96, 96, 3), value, np.uint8)
    shade = np.linspace(0.9, 1, 96)[:, None, None]
    noise = np.random.default_rng(1).normal(0, 3, blank.shape)
    for picture in (blank, shade * blank, 20 + 0.8 * blank + noise):
        cell, nucleus = segment_cell(np.clip(picture, 0, 255).astype(np.uint8))
        assert not cell.any()
        assert not nucleus.any()
        assert not plausible(cell, nucleus, blank)


def test_multi_otsu_agrees_with_trying_every_pair_of_thresholds():
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.normal(middle, 0.1, count) for middle, count in ((0, 300), (1, 60), (2.2, 90))])
    low, high = multi_otsu(values)

    def within(*cuts):
        classes = np.digitize(values, sorted(cuts))
        return sum(((part - part.mean()) ** 2).sum() for part in (values[classes == k] for k in range(3)) if part.size)

    grid = np.linspace(values.min(), values.max(), 60)
    best = min(within(a, b) for a in grid for b in grid if a < b)
    assert within(low, high) <= 1.001 * best
    assert multi_otsu(np.full(50, 0.7)) == (0.7, 0.7)


def test_otsu_of_floats_agrees_with_opencv():
    rng = np.random.default_rng(4)
    grey = np.clip(np.concatenate([rng.normal(60, 15, 400), rng.normal(170, 25, 250)]), 0, 255).astype(np.uint8)
    threshold, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU)
    assert otsu(grey.astype(np.float64)) == pytest.approx(threshold, abs=2.5)  # bins of 2 grey levels


def test_the_empty_field_follows_the_lamp_and_not_the_cells():
    ys, xs = np.mgrid[-1:1:128j, -1:1:128j]
    lamp = np.multiply.outer(1 - 0.12 * xs - 0.15 * ys**2, BACKGROUND)
    picture = lamp.copy()
    for x, y in ((20, 30), (100, 40), (30, 100), (64, 64)):
        picture[disc(128, x, y, 17)] *= (0.85, 0.6, 0.6)
    error = np.abs(empty_field(picture.astype(np.uint8)) - lamp)
    assert error.mean() < 2
    assert error.max() < 10  # in a corner; a red cell is darker by 25 to 94


@pytest.mark.parametrize(
    "spoil",
    [
        lambda cell, nucleus: (np.zeros_like(cell), np.zeros_like(nucleus)),
        lambda cell, nucleus: (disc(128, 64, 64, 8), disc(128, 64, 64, 6)),  # 1 % of the frame
        lambda cell, nucleus: (cell, disc(128, 64, 64, 6)),  # a nucleus of 6 %
        lambda cell, nucleus: (cell, cell),  # nothing but nucleus
        lambda cell, nucleus: (cell | (np.arange(128) > 64)[:, None], nucleus),  # cut by the border
        lambda cell, nucleus: (cell & ~disc(128, 88, 64, 20), nucleus & ~disc(128, 88, 64, 20)),  # a bay
        lambda cell, nucleus: (disc(128, 64, 64, 19), nucleus),  # an outline in the middle of the cytoplasm
        lambda cell, nucleus: (cell | disc(128, 20, 20, 8), nucleus),  # two bodies
    ],
    ids=["empty", "small", "little nucleus", "no cytoplasm", "border", "bay", "no edge", "two bodies"],
)
def test_plausible_accepts_true_masks_and_refuses_spoilt_ones(spoil):
    cell, nucleus = disc(128, 64, 64, 26), disc(128, 64, 64, 15)
    image = field_with((cell, CYTOPLASM), (nucleus, NUCLEUS))
    assert plausible(cell, nucleus, image)
    assert not plausible(*spoil(cell, nucleus), image)


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
