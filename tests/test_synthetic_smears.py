"""Drawn smears: their boxes, outlines and flags are true, and the same seed draws the same field."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from cellfeat.demo import write_demo
from cellfeat.synthetic import ALL_TYPES, LABORATORIES
from cellfeat.synthetic_smears import SyntheticSmear, draw_smear, known_smear


def smear(laboratory="lab-a", seed: int = 0, **wanted) -> SyntheticSmear:
    wanted = {"size": (320, 240), "cells": 8, "diameter": 40.0, **wanted}
    return draw_smear(laboratory, np.random.default_rng(seed), **wanted)


def extents(instances: np.ndarray) -> list[list[int]]:
    found = []
    for number in range(1, int(instances.max()) + 1):
        rows, columns = np.nonzero(instances == number)
        found.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return found


def near_another(instances: np.ndarray) -> list[bool]:
    flags = []
    for number in range(1, int(instances.max()) + 1):
        grown = cv2.dilate((instances == number).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        flags.append(bool(set(np.unique(instances[grown]).tolist()) - {0, number}))
    return flags


@pytest.mark.parametrize("laboratory", LABORATORIES)
@pytest.mark.parametrize("touching", [0.0, 0.7])
def test_boxes_and_flags_are_those_of_the_outlines(laboratory, touching):
    flagged = cut = 0
    for seed in range(4):
        one = smear(laboratory, seed, touching=touching)
        assert one.image.shape == (240, 320, 3)
        assert one.image.dtype == np.uint8
        assert one.instances.shape == (240, 320)
        assert len(one.labels) == len(one.boxes) == one.instances.max() > 0
        np.testing.assert_array_equal(one.boxes, extents(one.instances))
        np.testing.assert_array_equal(one.touching, near_another(one.instances))
        edge = np.concatenate([one.instances[[0, -1]].ravel(), one.instances[:, [0, -1]].ravel()])
        at_edge = [number + 1 in edge for number in range(len(one.boxes))]
        np.testing.assert_array_equal(one.cut, at_edge)
        flagged, cut = flagged + one.touching.sum(), cut + one.cut.sum()
    assert cut > 0
    assert flagged >= 8 if touching else flagged <= 2


def test_the_dye_is_inside_the_outlines():
    for seed, name in enumerate(LABORATORIES):
        one = smear(name, seed)
        density = 255.0 - one.image[..., 1]
        inside = [density[one.instances == number + 1].mean() for number in range(len(one.boxes))]
        assert min(inside) > 1.3 * density[one.instances == 0].mean()


def test_a_white_cell_is_as_large_as_asked_for():
    even = dataclasses.replace(LABORATORIES["lab-a"], resolution=60)  # interpolated: the scale must not suffer
    for laboratory in ("lab-b", even):
        sizes = []
        for seed in range(6):
            one = smear(laboratory, seed, diameter=48.0, classes=["neutrophil"])
            whole = ~(one.cut | one.touching)
            areas = np.bincount(one.instances.ravel(), minlength=len(one.boxes) + 1)[1:]
            sizes += np.sqrt(4 * areas[whole] / np.pi).tolist()
        assert np.median(sizes) == pytest.approx(48.0, rel=0.08)


def test_the_same_seed_draws_the_same_field():
    first, second, other = smear(seed=3, touching=0.5), smear(seed=3, touching=0.5), smear(seed=4, touching=0.5)
    for name in ("image", "boxes", "labels", "instances", "touching", "cut"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert not np.array_equal(first.image, other.image)


def test_classes_come_by_their_shares():
    one = smear(cells=12, size=(480, 400), classes=["neutrophil", "erythroblast"], shares=[0.0, 1.0])
    assert set(one.labels) == {"erythroblast"}
    seen = {label for seed in range(4) for label in smear(seed=seed, classes=ALL_TYPES).labels}
    assert len(seen) > 5


def test_cells_without_room_are_left_out():
    one = smear(size=(120, 100), cells=60)
    assert 2 <= len(one.boxes) < 30
    assert not smear(cells=0).instances.any()
    assert smear(cells=0).boxes.shape == (0, 4)


def test_red_cells_reach_white_ones_where_they_crowd():
    quiet = {"noise": 0.0, "unevenness": 0.0, "stain_spread": 0.0, "jpeg_quality": None, "debris": 0.0}
    clear = dataclasses.replace(LABORATORIES["lab-c"], red_density=0.6, haze=0.0, vignetting=0.0, **quiet)
    reached = []
    for crowding in (0.0, 1.0):
        dark = []
        for seed in range(3):
            one = smear(dataclasses.replace(clear, crowding=crowding), seed)
            body = (one.instances > 0).astype(np.uint8)
            ring = (cv2.dilate(body, np.ones((9, 9), np.uint8)) - cv2.dilate(body, np.ones((5, 5), np.uint8))) > 0
            green = one.image[..., 1].astype(float)
            dark.append((green[ring] < 0.85 * np.percentile(green, 95)).mean())
        reached.append(np.mean(dark))
    assert reached[1] > 1.5 * reached[0]


def test_what_is_not_seen_is_no_known_cell():
    disc = np.ones((4, 4), bool)
    places = [(2, 2), (2, 5), (-3, 12), (-4, 0), (-9, 0), (30, 30), (2, 2), (18, 18)]
    one = known_smear(np.zeros((20, 20, 3), np.uint8), [(*at, disc) for at in places], list("abcdefgh"))
    # the last but one hides the first; three are beyond the picture, one by a single pixel
    assert one.labels == ("b", "c", "g", "h")
    np.testing.assert_array_equal(one.boxes, [[6, 2, 9, 6], [12, 0, 16, 1], [2, 2, 6, 6], [18, 18, 20, 20]])
    np.testing.assert_array_equal(one.boxes, extents(one.instances))
    assert one.touching.tolist() == [True, False, True, False]
    assert one.cut.tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"diameter": 7.0}, "7.0 px"),
        ({"classes": []}, "at least one class"),
        ({"cells": -1}, "-1 cells"),
        ({"touching": 1.5}, "touching 1.5"),
        ({"classes": ["neutrophile"]}, "no class named 'neutrophile'"),
        ({"laboratory": "lab-z"}, "no laboratory named 'lab-z'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(wanted, message):
    with pytest.raises(ValueError, match=message):
        smear(**wanted)


# with the demo set


def demo_smears(folder: Path, smears: int = 1, seed: int = 3) -> Path:
    return write_demo(folder, per_class=1, size=32, seed=seed, smears=smears).parent / "smears"


def test_the_demo_draws_smears_with_their_cells(tmp_path):
    folder = demo_smears(tmp_path / "demo", 2)
    assert sorted(path.name for path in folder.glob("*.png")) == [
        f"{lab}-{n}.png" for lab in LABORATORIES for n in (1, 2)
    ]
    with (folder / "cells.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["field", "x1", "y1", "x2", "y2", "label", "touching", "cut"]
    assert {row["field"] for row in rows} == {path.stem for path in folder.glob("*.png")}
    for row in rows:
        x1, y1, x2, y2 = (int(row[name]) for name in ("x1", "y1", "x2", "y2"))
        assert 0 <= x1 < x2 <= 160
        assert 0 <= y1 < y2 <= 128
        assert (row["cut"] == "yes") == (x1 == 0 or y1 == 0 or x2 == 160 or y2 == 128)
        assert row["label"] in ALL_TYPES
    readme = (folder.parent / "README.txt").read_text()
    assert "--per-class 1 --seed 3 --size 32 --smears 2" in readme
    assert "smears/" in readme


def test_more_smears_of_the_demo_begin_with_the_fewer_and_change_no_cell(tmp_path):
    one, two = demo_smears(tmp_path / "one"), demo_smears(tmp_path / "two", 2)
    other = demo_smears(tmp_path / "other", seed=4)
    write_demo(tmp_path / "none", per_class=1, size=32, seed=3)
    for path in one.glob("*.png"):
        assert path.read_bytes() == (two / path.name).read_bytes()
        assert not np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(other / path.name)))
    assert (one.parent / "manifest.csv").read_bytes() == (tmp_path / "none" / "manifest.csv").read_bytes()
    assert not (tmp_path / "none" / "smears").exists()
    for path in (tmp_path / "none" / "images").iterdir():
        assert path.read_bytes() == (one.parent / "images" / path.name).read_bytes()
