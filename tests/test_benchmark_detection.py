"""benchmarks/detection.py: smears assembled from cells that are known, and detectors judged on them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from test_benchmarks import FOLDER, drawn_manifest, module, run

from cellfeat import CellfeatError


@pytest.fixture(autouse=True)
def programs_beside_each_other(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.fixture
def few_hosts(monkeypatch):
    monkeypatch.setattr(module("real_smears"), "LIKE", 6)


class Thresholded:
    """Boxes around what is dark in green light, where a typical cell is 20 px wide; some are no cells'."""

    cell_diameter = 20.0

    def __init__(self) -> None:
        self.shown: list = []

    def detect(self, image):
        self.shown.append(tuple(image.shape[1:]))
        green = image[1].numpy()
        dark = (green < 0.55 * np.percentile(green, 95)).astype(np.uint8)
        _, _, found, _ = cv2.connectedComponentsWithStats(cv2.morphologyEx(dark, cv2.MORPH_OPEN, np.ones((5, 5))))
        return np.array([[x, y, x + w, y + h] for x, y, w, h, _ in found[1:]], np.float32).reshape(-1, 4)


# the field


def test_a_field_is_made_of_free_pixels_alone():
    fields, rng = module("smear_fields"), np.random.default_rng(0)
    free = np.ones((40, 50), bool)
    free[10:30, 15:35] = False
    pieces = [
        np.where(free[..., None], value, 9.0).astype(np.float32) + np.zeros(3, np.float32) for value in (0.1, 0.2)
    ]
    first, again = (fields.quilt(pieces, [free, free], (130, 70), np.random.default_rng(1)) for _ in range(2))
    assert first.shape == (70, 130, 3)
    assert 0.1 - 1e-6 <= first.min() < first.max() <= 0.2 + 1e-6
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, fields.quilt(pieces, [free, free], (130, 70), rng))


def test_a_seam_goes_around_what_both_do_not_share():
    fields = module("smear_fields")
    there, piece = (np.full((40, 60, 3), 0.02, np.float32) for _ in range(2))
    cv2.circle(there, (28, 14), 8, (0.5,) * 3, -1)
    cv2.circle(piece, (34, 30), 8, (0.5,) * 3, -1)
    filled, usable = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    filled[:, :46], usable[:, 14:] = True, True
    chosen = fields._cut(there, filled, piece, usable)
    np.testing.assert_array_equal(chosen[:, 46:], True)
    assert not chosen[:, :14].any()
    for body in (there[..., 0] > 0.2, piece[..., 0] > 0.2):
        assert chosen[body].mean() in (0.0, 1.0), "a body is cut"


# the cells


def pieces_of(folder: Path, count: int = 10, diameter: float = 24.0, masks=None):
    return module("real_smears").read_pieces(drawn_manifest(folder, count, 80), "a", None, diameter, masks)


def test_pieces_are_at_one_scale_and_know_what_is_whole(tmp_path, few_hosts):
    pieces = pieces_of(tmp_path)
    assert 22 < pieces.diameter < 26
    assert pieces.scale < 1
    assert {one.density.shape for one in pieces.every} == {(round(80 * pieces.scale),) * 2 + (3,)}
    for one in pieces.every:
        assert one.whole
        assert not (one.free & one.cell).any()
        assert np.median(np.abs(one.density[one.free])) < 0.25
        assert one.density[one.cell].mean() > 2 * np.abs(one.density[one.free]).mean()
    assert pieces_of(tmp_path, diameter=500.0).scale == 1.0, "never enlarged"


def test_a_cell_that_its_photograph_cuts_is_laid_nowhere(tmp_path, few_hosts):
    manifest = drawn_manifest(tmp_path, 12, 80)
    for number in range(4):
        for name in (f"a{number:03}.png", f"a{number:03}-mask.png"):
            image = np.asarray(Image.open(tmp_path / name))
            Image.fromarray(np.roll(image, 30, axis=1)).save(tmp_path / name)
    pieces = module("real_smears").read_pieces(manifest, "a", None, 24.0, None)
    assert [one.id for one in pieces.every if not one.whole] == [f"a{number:03}" for number in range(4)]


def test_another_white_cell_is_no_surrounding(tmp_path, few_hosts):
    smears = module("real_smears")
    (one, *_) = pieces_of(tmp_path).every
    assert smears._lends(one)
    second = one.density.copy()
    dark = one.density[one.cell].max(axis=0)
    second[2:12, 2:12] = dark
    assert not smears._lends(one.__class__(**{**vars(one), "density": second}))
    cut = one.density.copy()
    cut[:3, :12] = dark
    free = smears._free(cut, one.cell)
    assert not free[:6, :12].any(), "a slice at the border"
    assert smears._free(one.density, one.cell)[4:6, 4:12].any()


def test_masks_are_asked_where_there_are_none(tmp_path, few_hosts):
    manifest = drawn_manifest(tmp_path, 14, 80)
    with manifest.open(newline="") as file:
        rows = [row[:4] for row in csv.reader(file)]
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows(rows)

    class Masks:
        """A disc in the middle; every third is told to be no cell."""

        def cells_and_nuclei(self, images):
            disc = cv2.circle(np.zeros((224, 224), np.uint8), (112, 112), 50, 1, -1)
            cells = torch.from_numpy(disc > 0).expand(len(images), -1, -1)
            return cells, cells

        def plausible(self, images, cells, nuclei):
            return torch.arange(len(images)) % 3 > 0

    found = module("real_smears").read_pieces(manifest, "a", None, 24.0, Masks()).every
    assert [one.id for one in found] == [f"a{number:03}" for number in (1, 2, 4, 5, 7, 8, 10, 11, 13)]


def test_too_few_pieces_are_refused(tmp_path):
    with pytest.raises(CellfeatError, match="a: of 10 images too few lend"):
        pieces_of(tmp_path)


def test_assembled_smears_know_their_cells(tmp_path, few_hosts):
    smears, pieces = module("real_smears"), pieces_of(tmp_path)
    first, again = (smears.smear(pieces, np.random.default_rng(2), (200, 160), 8, 0.5) for _ in range(2))
    assert first.image.shape == (160, 200, 3)
    np.testing.assert_array_equal(first.image, again.image)
    assert 5 <= len(first.boxes) == len(first.labels) <= 8
    assert first.touching.sum() >= 2
    alone = smears.smear(pieces, np.random.default_rng(2), (200, 160), 6, 0.0)
    assert not alone.touching.any()
    dark = alone.image[..., 1] < 0.6 * np.percentile(alone.image[..., 1], 95)
    assert dark[alone.instances > 0].mean() > 5 * dark[alone.instances == 0].mean()
    none = smears.smear(pieces, np.random.default_rng(2), (200, 160), 0, 0.5)
    assert none.boxes.shape == (0, 4)


def test_a_cell_is_laid_as_it_was_photographed(tmp_path, few_hosts):
    smears, one = module("real_smears"), pieces_of(tmp_path).every[0]
    field, taken = np.zeros((60, 70, 3), np.float32), np.zeros((60, 70), np.uint8)
    density, cell = smears._turned(one, np.random.default_rng(0))
    smears._lay(field, taken, density, cell, (20, -4))
    np.testing.assert_array_equal(taken[20 : 20 + len(cell), : cell.shape[1] - 4] > 0, cell[:, 4:])
    deep = cv2.erode(cell.astype(np.uint8), np.ones((7, 7))) > 0
    np.testing.assert_allclose(
        field[20 : 20 + len(cell), : cell.shape[1] - 4][deep[:, 4:]], density[:, 4:][deep[:, 4:]]
    )
    assert not field[:, cell.shape[1] + 4 :].any()


# the program


def test_detectors_are_judged_on_drawn_and_assembled_smears(tmp_path, monkeypatch, capsys, few_hosts):
    common, toy = module("common"), Thresholded()
    monkeypatch.setattr(common, "make_segmenter", lambda name, params, work: toy)
    monkeypatch.setattr(toy, "plausible", None, raising=False)
    monkeypatch.setattr(toy, "cells_and_nuclei", None, raising=False)
    options = (
        "--smears",
        2,
        "--size",
        "160x120",
        "--cells",
        3,
        "--diameter",
        24,
        "--touching",
        0,
        "--segmenter",
        "toy",
    )
    files = ("--json", tmp_path / "d.jsonl", "--pictures", tmp_path / "shown")
    run(monkeypatch, "detection", drawn_manifest(tmp_path, 10, 80), *options, *files)
    found = {one["kind"]: one for one in map(json.loads, (tmp_path / "d.jsonl").open())}
    assert list(found) == [*(f"drawn {name}" for name in ("lab-a", "lab-b", "lab-c", "random")), "assembled a"]
    for one in found.values():
        assert one["photographs"] == 2
        assert one["cells"] == one["found"] + sum(part["of"] - part["count"] for part in one["by_crowding"].values())
        assert one["seconds_per_megapixel"] > 0
        assert one["versions"]["cellfeat"]
    for kind in ("drawn lab-a", "assembled a"):
        assert found[kind]["recall"]["share"] >= 0.5
    assert found["assembled a"]["images"] == 10
    assert {(100, 133), (100, 134)} & set(toy.shown[:3]), "a smear is shown at the detector's scale"
    text = capsys.readouterr().out
    assert "White cells found" in text
    assert "Recall by size and crowding" in text
    assert len(list((tmp_path / "shown").glob("*-toy.png"))) == 10


def test_boxes_come_back_in_pixels_of_the_photograph():
    detector, seen = module("detection"), []

    class Fixed:
        cell_diameter = 20.0

        def detect(self, image):
            seen.append(tuple(image.shape))
            return np.array([[10.0, 10.0, 30.0, 30.0], [90.0, 40.0, 200.0, 60.0]])

    boxes = detector.found_in(Fixed(), np.zeros((120, 200, 3), np.uint8), 40.0)
    assert seen == [(3, 60, 100)]
    np.testing.assert_array_equal(boxes, [[20, 20, 60, 60], [180, 80, 200, 120]])
    Fixed.cell_diameter = None
    np.testing.assert_array_equal(
        detector.found_in(Fixed(), np.zeros((60, 250, 3), np.uint8), 40.0)[0], [10, 10, 30, 30]
    )
    assert seen[1] == (3, 60, 250)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--segmenter", "otsu"), "'otsu' has no `detect`"),
        (("--size", "960"), "--size is '960'; two numbers of at least 100 px"),
        (("--size", "96x720"), "at least 100 px"),
        (("cells.csv", "--domain", "z", "--segmenter", "toy"), "no domain 'z'; it has: a"),
        (("cells.csv", "--masks", "otsu", "--segmenter", "toy"), "'otsu' does not tell plausible masks"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    common = module("common")
    make = common.make_segmenter
    toy = lambda name, params, work: Thresholded() if name == "toy" else make(name, params, work)  # noqa: E731
    monkeypatch.setattr(common, "make_segmenter", toy)
    drawn_manifest(tmp_path, 1, 32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module("detection"), "_drawn", lambda *_: pytest.fail("smears were drawn before"))
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, "detection", *arguments, "--smears", 1)
    assert end.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("error:")
    assert message in text
    assert text.count("\n") == 1


@pytest.mark.real
def test_smears_of_real_cells(real_data):
    smears = module("real_smears")
    pieces = smears.read_pieces(real_data / "manifest.csv", "tecom", 80, 60.0, None)
    assert 54 < pieces.diameter < 66
    smear = smears.smear(pieces, np.random.default_rng(0), (300, 240), 5, 0.5)
    assert len(smear.boxes) >= 3
    green = smear.image[..., 1].astype(float)
    inside = [green[smear.instances == number + 1].mean() for number in range(len(smear.boxes))]
    assert max(inside) < 0.9 * np.median(green[smear.instances == 0])
