"""The synthetic cells: repeatable, with sound masks, and different where laboratories and classes should differ."""

import dataclasses

import cv2
import numpy as np
import pytest

from cellfeat.synthetic import (
    ALL_TYPES,
    CLASSES,
    LABORATORIES,
    Laboratory,
    SyntheticCell,
    draw_cell,
    random_laboratory,
)
from cellfeat.synthetic_types import CELL_TYPES


def draw_many(label: str, laboratory: Laboratory | str, count: int, size: int = 96) -> list[SyntheticCell]:
    rng = np.random.default_rng(11)
    return [draw_cell(label, laboratory, rng, size=size) for _ in range(count)]


def check_mask(cell: SyntheticCell, off: float = 0.12) -> None:
    body, nucleus = cell.mask > 0, cell.mask == 255
    assert cell.mask.dtype == np.uint8
    assert set(np.unique(cell.mask)) == {0, 128, 255}
    assert 0.03 <= body.mean() <= 0.70
    assert nucleus.sum() >= 0.1 * body.sum()
    components, _ = cv2.connectedComponents(body.astype(np.uint8), connectivity=4)
    assert components == 2  # the background counts as one
    rows, columns = np.nonzero(body)
    side = cell.mask.shape[0]
    assert abs(rows.mean() / side - 0.5) < off
    assert abs(columns.mean() / side - 0.5) < off


def optical_density(cell: SyntheticCell, where: np.ndarray) -> np.ndarray:
    """Mean optical density (3,) of RGB over `where`, against the brightest part of the image."""
    light = np.percentile(cell.image.reshape(-1, 3), 97, axis=0)
    return np.log(light / np.maximum(cell.image[where].astype(float), 4.0)).mean(axis=0)


def nucleus_share(label: str) -> float:
    cells = draw_many(label, "lab-a", 15, size=64)
    return float(np.mean([(cell.mask == 255).sum() / (cell.mask > 0).sum() for cell in cells]))


def test_the_classes_are_those_the_drawing_knows():
    assert CLASSES == ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
    assert ALL_TYPES[:5] == CLASSES
    assert sorted(ALL_TYPES) == sorted(CELL_TYPES)
    assert {"band_neutrophil", "metamyelocyte", "myelocyte", "promyelocyte", "erythroblast"} < set(ALL_TYPES)


@pytest.mark.parametrize("laboratory", LABORATORIES)
def test_same_seed_same_cell(laboratory):
    first, second = (draw_cell("monocyte", laboratory, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.mask, second.mask)
    other = draw_cell("monocyte", laboratory, np.random.default_rng(4))
    assert not np.array_equal(first.image, other.image)


def test_a_cell_does_not_depend_on_what_was_drawn_before():
    jobs = [(label, name, seed) for seed, (label, name) in enumerate(zip(CLASSES, [*LABORATORIES] * 2, strict=False))]
    forward = {job: draw_cell(job[0], job[1], np.random.default_rng(job[2]), size=64) for job in jobs}
    backward = {job: draw_cell(job[0], job[1], np.random.default_rng(job[2]), size=64) for job in reversed(jobs)}
    for job in jobs:
        np.testing.assert_array_equal(forward[job].image, backward[job].image)
        np.testing.assert_array_equal(forward[job].mask, backward[job].mask)


def test_the_global_random_state_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the legacy state is what must not change
    draw_cell("basophil", random_laboratory(np.random.default_rng(0)), np.random.default_rng(0), size=64)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("laboratory", LABORATORIES)
@pytest.mark.parametrize("label", ALL_TYPES)
def test_masks_are_sound(label, laboratory):
    for cell in draw_many(label, laboratory, 12):
        check_mask(cell)
        assert cell.label == label


def test_masks_are_sound_in_random_laboratories():
    rng = np.random.default_rng(5)
    for index in range(100):
        laboratory = random_laboratory(rng)
        cell = draw_cell(ALL_TYPES[index % len(ALL_TYPES)], laboratory, rng, size=64)
        check_mask(cell, 0.12 if laboratory.off_centre <= 0.06 else 0.4)


def test_a_cell_far_off_the_middle_stays_in_the_frame():
    far = dataclasses.replace(LABORATORIES["lab-a"], off_centre=0.3)
    away = []
    for cell in draw_many("neutrophil", far, 20, size=64):
        check_mask(cell, 0.4)
        rows, columns = np.nonzero(cell.mask)
        away.append(np.hypot(rows.mean() / 64 - 0.5, columns.mean() / 64 - 0.5))
    assert max(away) > 0.2
    whole = (draw_many("neutrophil", "lab-a", 1, size=64)[0].mask > 0).sum()
    assert min((cell.mask > 0).sum() for cell in draw_many("neutrophil", far, 20, size=64)) > 0.6 * whole


@pytest.mark.parametrize("size", [None, 32, 97, 224])
def test_the_frame_has_the_size_asked_for(size):
    cell = draw_cell("neutrophil", "lab-b", np.random.default_rng(1), size=size)
    side = LABORATORIES["lab-b"].image_size if size is None else size
    assert cell.image.shape == (side, side, 3)
    assert cell.image.dtype == np.uint8
    assert cell.mask.shape == (side, side)


def test_size_keeps_the_proportions_of_the_cell():
    shares = [(draw_cell("eosinophil", "lab-a", np.random.default_rng(2), size=s).mask > 0).mean() for s in (64, 192)]
    assert shares[0] == pytest.approx(shares[1], rel=0.1)


def test_the_mask_is_where_the_stain_is():
    for laboratory in LABORATORIES:
        for cell in draw_many("lymphocyte", laboratory, 5):
            nucleus, body = (optical_density(cell, cell.mask == value)[1] for value in (255, 128))
            assert nucleus > 1.3 * body
            assert nucleus > 2.0 * optical_density(cell, cell.mask == 0)[1]


def test_laboratories_have_different_backgrounds():
    colours = {
        name: np.mean([np.median(c.image[c.mask == 0], axis=0) for c in draw_many("lymphocyte", name, 5)], axis=0)
        for name in LABORATORIES
    }
    assert list(colours) == ["lab-a", "lab-b", "lab-c"]
    for first in colours:
        for second in colours:
            assert first == second or np.linalg.norm(colours[first] - colours[second]) > 25.0
    assert colours["lab-b"][2] < colours["lab-b"][0] - 50.0  # yellow
    assert colours["lab-c"][2] >= colours["lab-c"][0] - 5.0  # not warm


def test_laboratories_differ_in_sharpness():
    def detail(name: str) -> float:
        cells = [c.image[..., 1].astype(np.float32) for c in draw_many("eosinophil", name, 6, size=128)]
        return float(np.mean([cv2.Laplacian(cv2.GaussianBlur(c, (0, 0), 1.0), cv2.CV_32F).std() for c in cells]))

    assert detail("lab-a") > 1.2 * detail("lab-c")


@pytest.mark.parametrize("laboratory", LABORATORIES)
def test_eosinophils_have_the_reddest_cytoplasm(laboratory):
    def redness(label: str) -> float:
        cells = draw_many(label, laboratory, 8)
        density = np.mean([optical_density(cell, cell.mask == 128) for cell in cells], axis=0)
        return float(density[1] - density[0])

    assert redness("eosinophil") > 1.4 * redness("neutrophil")
    assert redness("neutrophil") > redness("lymphocyte") - 0.05


@pytest.mark.parametrize("laboratory", LABORATORIES)
def test_basophils_have_the_darkest_cytoplasm(laboratory):
    darkness = {
        label: np.mean([optical_density(c, c.mask == 128).mean() for c in draw_many(label, laboratory, 6)])
        for label in CLASSES
    }
    assert max(darkness, key=darkness.get) == "basophil"
    assert min(darkness, key=darkness.get) == "neutrophil"


def test_nuclei_fill_lymphocytes_most_and_granulocytes_least():
    shares = {label: nucleus_share(label) for label in CLASSES}
    assert shares["lymphocyte"] > 0.55
    assert shares["lymphocyte"] > shares["monocyte"] + 0.08
    assert shares["monocyte"] > shares["neutrophil"] + 0.05


def test_monocytes_are_largest_and_lymphocytes_smallest():
    area = {label: np.mean([(c.mask > 0).mean() for c in draw_many(label, "lab-c", 20, size=64)]) for label in CLASSES}
    assert max(area, key=area.get) == "monocyte"
    assert min(area, key=area.get) == "lymphocyte"


# Diameters in a smear (µm) and nucleus as a share of the cell, widest ranges of the sources in `synthetic_types`.
TEXTBOOK = {
    "basophil": (10.0, 14.0, 0.25, 0.50),
    "eosinophil": (12.0, 17.0, 0.18, 0.38),
    "lymphocyte": (7.0, 16.0, 0.33, 0.90),
    "monocyte": (14.0, 20.0, 0.30, 0.60),
    "neutrophil": (12.0, 15.0, 0.18, 0.38),
    "band_neutrophil": (10.0, 16.0, 0.20, 0.42),
    "metamyelocyte": (10.0, 18.0, 0.33, 0.60),
    "myelocyte": (12.0, 18.0, 0.45, 0.70),
    "promyelocyte": (15.0, 21.0, 0.55, 0.80),
    "erythroblast": (8.0, 15.0, 0.25, 0.80),
    "reactive_lymphocyte": (12.0, 23.0, 0.25, 0.60),
}


@pytest.mark.parametrize("label", ALL_TYPES)
def test_sizes_and_nuclei_are_those_of_the_textbooks(label):
    small, large, least, most = TEXTBOOK[label]
    for cell in draw_many(label, "lab-a", 12, size=128):
        body = (cell.mask > 0).sum()
        # lab-a shows a typical neutrophil, 13.5 µm, on 46 % of the side
        assert small - 0.6 <= np.sqrt(4.0 * body / np.pi) / 128 / 0.46 * 13.5 <= large + 0.6
        assert least <= (cell.mask == 255).sum() / body <= most


def test_granulocytes_lose_nucleus_and_blue_as_they_mature():
    series = ("promyelocyte", "myelocyte", "metamyelocyte", "band_neutrophil", "neutrophil")
    cells = {label: draw_many(label, "lab-a", 12) for label in series}
    shares = [np.mean([(c.mask == 255).sum() / (c.mask > 0).sum() for c in cells[label]]) for label in series]
    blue = [np.mean([optical_density(c, c.mask == 128)[0] for c in cells[label]]) for label in series]
    assert shares == sorted(shares, reverse=True)
    assert blue[0] > 1.3 * blue[1] > 1.3 * 1.2 * blue[2]


def test_only_erythroblasts_hold_haemoglobin():
    """Without any other red dye, the cytoplasm of a nucleated red cell takes the colour of the red cells."""
    plain = dataclasses.replace(
        LABORATORIES["lab-c"], red=(0.0, 0.0, 1.5), azure=(1.0, 1.0, 0.0), eosin=(0.0, 1.0, 0.0)
    )
    plain = dataclasses.replace(plain, unevenness=0.0, vignetting=0.0, red_density=0.0, debris=0.0)

    def blue_light_lost(label: str) -> float:
        return float(np.mean([optical_density(c, c.mask == 128)[2] for c in draw_many(label, plain, 8)]))

    assert blue_light_lost("erythroblast") > 0.3
    assert max(blue_light_lost(label) for label in ALL_TYPES if label != "erythroblast") < 0.12


def test_red_cells_touch_the_white_cell_only_where_they_crowd():
    quiet = {"noise": 0.0, "unevenness": 0.0, "stain_spread": 0.0, "jpeg_quality": None, "debris": 0.0}
    clear = dataclasses.replace(LABORATORIES["lab-c"], red_density=0.6, haze=0.0, vignetting=0.0, **quiet)
    crowded = dataclasses.replace(clear, crowding=1.0)
    rims = {0.0: [], 1.0: []}
    for seed in range(12):
        pair = [draw_cell("monocyte", lab, np.random.default_rng(seed), size=128) for lab in (clear, crowded)]
        # the white cell lies on top: its mask and its inside do not depend on the red cells
        np.testing.assert_array_equal(pair[0].mask, pair[1].mask)
        body = (pair[0].mask > 0).astype(np.uint8)
        inside = cv2.erode(body, np.ones((7, 7), np.uint8)) > 0
        assert np.abs(pair[0].image[inside].astype(int) - pair[1].image[inside]).mean() < 3.0
        ring = (cv2.dilate(body, np.ones((11, 11), np.uint8)) - cv2.dilate(body, np.ones((5, 5), np.uint8))) > 0
        for cell, crowding in zip(pair, rims, strict=True):
            green = cell.image[..., 1].astype(float)
            rims[crowding].append((green[ring] < 0.9 * np.percentile(green, 98)).mean())
    assert np.mean(rims[1.0]) > np.mean(rims[0.0]) + 0.15


def test_granulocyte_nuclei_are_lobed_and_lymphocyte_nuclei_are_not():
    def lobed_share(label: str) -> float:
        lobed = 0
        for cell in draw_many(label, "lab-a", 30):
            reach = round(0.15 * np.sqrt((cell.mask > 0).sum() / np.pi))
            disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
            cores = cv2.erode((cell.mask == 255).astype(np.uint8), disc)
            lobed += cv2.connectedComponents(cores)[0] > 2
        return lobed / 30

    assert lobed_share("neutrophil") > 0.4
    assert lobed_share("eosinophil") > 0.3
    assert lobed_share("lymphocyte") == 0.0


def test_random_laboratories_go_beyond_the_fixed_ones():
    rng = np.random.default_rng(8)
    drawn = [random_laboratory(rng) for _ in range(400)]
    for field in (
        "contrast",
        "gamma",
        "haze",
        "blur",
        "noise",
        "resolution",
        "cell_share",
        "red_density",
        "rim",
        "crowding",
    ):
        values = [getattr(laboratory, field) for laboratory in drawn]
        fixed = [getattr(laboratory, field) for laboratory in LABORATORIES.values()]
        assert min(values) <= min(fixed), field
        # 192 px is full resolution at every training size below it
        assert max(values) >= min(max(fixed), 189), field
    crowding, off_centre = (np.array([getattr(lab, field) for lab in drawn]) for field in ("crowding", "off_centre"))
    assert 0.4 < np.mean(crowding == 0.0) < 0.7
    assert crowding.max() > 0.9
    assert 0.03 < np.mean(off_centre > 0.08) < 0.2
    lights = np.array([laboratory.light for laboratory in drawn])
    for laboratory in LABORATORIES.values():
        assert np.abs(lights - laboratory.light).max(axis=1).min() < 0.15


def test_a_random_laboratory_follows_its_generator():
    first, second = (random_laboratory(np.random.default_rng(9)) for _ in range(2))
    assert first == second
    assert first != random_laboratory(np.random.default_rng(10))


def test_a_laboratory_cannot_be_changed_but_varied():
    with pytest.raises(dataclasses.FrozenInstanceError):
        LABORATORIES["lab-a"].gamma = 2.0
    darker = dataclasses.replace(LABORATORIES["lab-a"], name="darker", gamma=1.6)
    plain, dark = (draw_cell("monocyte", lab, np.random.default_rng(0), 64) for lab in (LABORATORIES["lab-a"], darker))
    assert dark.image.mean() < plain.image.mean() - 5.0
    np.testing.assert_array_equal(plain.mask, dark.mask)


def test_an_unknown_class_is_named_with_the_possible_ones():
    with pytest.raises(ValueError, match=r"no class named 'blast'\. Possible: basophil, .*neutrophil"):
        draw_cell("blast", "lab-a", np.random.default_rng(0))


def test_an_unknown_laboratory_is_named_with_the_possible_ones():
    with pytest.raises(ValueError, match=r"no laboratory named 'lab-z'\. Possible: lab-a, lab-b, lab-c"):
        draw_cell("monocyte", "lab-z", np.random.default_rng(0))


def test_a_frame_too_small_for_a_cell_is_refused():
    with pytest.raises(ValueError, match=r"size is 8 px; a cell needs at least 32 px"):
        draw_cell("monocyte", "lab-a", np.random.default_rng(0), size=8)
