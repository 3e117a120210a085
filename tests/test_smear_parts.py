"""The parts of `cellfeat smear`: photographs and patients, the scale, crops, flags, pictures, the folder."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from smearing import KnownBoxes, OfOneScale, drawn_smear, write_smears

from cellfeat import CellfeatError, smear_detection
from cellfeat.smear_crops import background, box_diameter, cropped, cut_by_border, touching
from cellfeat.smear_detection import GIVEN, MEASURED, Scale, find_cells
from cellfeat.smear_folder import FoundCell, about, read_cells, write_cells
from cellfeat.smear_photographs import Photograph, listed
from cellfeat.smear_pictures import Marked, Shown, annotate, colours_of, sheet, short_names
from cellfeat.smear_scales import BORROWED, ESTIMATED, POOLED, Estimate, pooled
from cellfeat.verdicts import Verdicts, Wanted


def blank(path, seed: int = 0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)).save(path)
    return path


def whose(found) -> dict[str, str]:
    return {one.name: one.patient for one in found.fields}


# Photographs and patients


def test_patients_are_the_folders_below_a_folder_and_else_each_photograph(tmp_path):
    for number, name in enumerate(("P1/a.png", "P1/b.png", "P2/right eye/a.png", "alone.png")):
        blank(tmp_path / "ward" / name, number)
    found = listed([tmp_path / "ward"])
    assert whose(found) == {"P1-a": "P1", "b": "P1", "right_eye-a": "P2/right eye", "alone": "alone"}
    assert found.rule == "patients by the folders that they lie in"
    assert found.patients == ["P1", "P2/right eye", "alone"]
    several = listed([tmp_path / "ward" / "P1", tmp_path / "ward" / "P2"])
    assert set(whose(several).values()) == {"P1", "P2/right eye"}
    one = listed([tmp_path / "ward" / "P1"])
    assert whose(one) == {"a": "a", "b": "b"}
    assert (
        one.rule
        == "each a patient of its own; for fields of one patient give --patient NAME, or a folder for each patient"
    )
    assert listed([tmp_path / "ward" / "alone.png"]).rule == "one patient"


def test_patients_by_name_by_pattern_and_by_a_table(tmp_path):
    paths = [blank(tmp_path / f"P{number}_{field}.png", 10 * number + field) for number in (1, 2) for field in (1, 2)]
    assert set(whose(listed(paths, patient="Q")).values()) == {"Q"}
    assert whose(listed(paths, patient_from="(P[0-9])_")) == {"P1_1": "P1", "P1_2": "P1", "P2_1": "P2", "P2_2": "P2"}
    table = tmp_path / "t.csv"
    table.write_text("patient,path,note\nA,P1_1.png,x\nB,P2_2.png,\n", encoding="utf-8-sig")
    assert whose(listed([table])) == {"P1_1": "A", "P2_2": "B"}
    table.write_text("sep=;\n Path ;PATIENT\n\nP1_1.png;A\n;\nP2_2.png;Smith, John;\n")  # as a spreadsheet saves it
    assert whose(listed([table])) == {"P1_1": "A", "P2_2": "Smith, John"}
    for text, said in (
        ("file;patient\na.png;A\n", "the columns path and patient, and a line for each photograph; found: file, pati"),
        ("path,patient\nP1_1.png,Smith, John\n", "line 2 has 3 fields, the header 2; put quotes around a text"),
        ("path,patient,Path\nP1_1.png,A,\n", "the column path is there twice; keep one"),
        ('path,patient\n"P1_1.png,A\n', "not a CSV in UTF-8 .line 2: unexpected end of data"),
        ("path,patient\nhttps://a.org/b.png,A\n", "line 2: https://a.org/b.png is no file of this machine; download"),
        ("path,patient\n", "found: no lines"),
        ("path,patient\nP1_1.png,\n", "line 2: patient is empty"),
    ):
        table.write_text(text)
        with pytest.raises(CellfeatError, match=said):
            listed([table])
    table.write_bytes(b"path,patient\n\xff\xfe,A\n")
    with pytest.raises(CellfeatError, match="not a CSV in UTF-8"):
        listed([table])
    for arguments, said in (
        (([table], "A", None), "says the patients; leave out --patient"),
        ((paths, "A", "(P)"), "--patient and --patient-from both say"),
        ((paths, " ", None), "--patient is empty"),
        ((paths, None, "(X[0-9])_"), "--patient-from .* finds nothing in any path"),
        ((paths, None, "P[0-9]"), "put brackets around the patient"),
        ((paths, None, "("), "not a regular expression"),
        (([tmp_path / "none.png"], None, None), "none.png: no such file or folder"),
        (([tmp_path / "none.csv"], None, None), "none.csv: no such file"),
        (([Path("http://127.0.0.1/a.png")], None, None), "is no file of this machine; download the photographs first"),
        (([paths[0], paths[0]], None, None), "is named twice"),
        (([], None, None), "no photographs were named"),
    ):
        with pytest.raises(CellfeatError, match=said):
            listed(*arguments)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CellfeatError, match=r"empty: no images in this folder \(looked for"):
        listed([tmp_path / "empty"])


def test_names_are_files_on_every_system_and_differ(tmp_path):
    names = ("x/=1+2 ü.png", "y/A.png", "y/a.jpg", "z/a.png")
    found = listed([blank(tmp_path / name, number) for number, name in enumerate(names)])
    called = [one.name for one in found.fields]
    assert "1_2_ü" in called
    assert len({one.casefold() for one in called}) == 4
    assert all(not set(one) & set('/\\:*?"<>|= ') for one in called)


def test_bad_and_identical_photographs_are_told(tmp_path):
    first = blank(tmp_path / "a.png")
    shutil.copy(first, tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(first.read_bytes()[:40])
    with pytest.raises(CellfeatError, match=r"b.png is the same file as .*a.png, and its cells would be counted twice"):
        listed([first, tmp_path / "b.png"]).looked_into(False)
    with pytest.raises(CellfeatError, match=r"c.png: (truncated|damaged).*--skip-bad leaves such photographs out"):
        listed([first, tmp_path / "c.png"]).looked_into(False)
    kept = listed([tmp_path]).looked_into(True)
    assert ([one.name for one in kept.fields], [one.id for one in kept.skipped]) == (["a"], ["b", "c"])
    assert (kept.fields[0].width, len(kept.fields[0].sha256)) == (8, 64)
    with pytest.raises(CellfeatError, match="no photograph is left"):
        listed([tmp_path / "c.png"]).looked_into(True)


# Scale


def test_the_scale_of_the_options():
    assert Scale.of(None, 0.1, 0.5) == Scale(135.0, 0.5)
    assert Scale.of(80, None, 0.4) == Scale(80, 0.4)
    for arguments, said in (
        ((80, 0.1, 0.5), "--cell-size and --um-per-px both say the scale"),
        ((2, None, 0.5), "--cell-size 2: the diameter of a cell in pixels, 4 or more"),
        ((None, 0.0, 0.5), "--um-per-px 0: micrometres of one pixel, above 0 and at most 3.4"),
        ((None, 50.0, 0.5), "--um-per-px 50"),
        ((float("nan"), None, 0.5), "--cell-size nan"),
        ((float("inf"), None, 0.5), "--cell-size inf: the diameter of a cell in pixels"),
        ((80, None, 1.5), "--cell-share 1.5: a cell's share of an image's side, above 0 and at most 1"),
    ):
        with pytest.raises(CellfeatError, match=said):
            Scale.of(*arguments)


def photograph(tmp_path, seed: int = 1, cells: int = 14) -> tuple[Photograph, KnownBoxes, np.ndarray]:
    one = drawn_smear(seed, cells)
    boxes = write_smears(tmp_path / "in", {"f.png": one})
    return listed([tmp_path / "in" / "f.png"]).looked_into(False).fields[0], KnownBoxes(str(boxes)), one.boxes


def test_an_estimated_scale_gives_way_to_the_cells_own_where_they_contradict_it(tmp_path, monkeypatch):
    one, finder, boxes = photograph(tmp_path)
    asked = []
    detected = smear_detection.detected
    monkeypatch.setattr(smear_detection, "detected", lambda *given: asked.append(given[-1]) or detected(*given))
    found = find_cells(one, finder, "known", Scale(None, 0.5), Estimate(20.0, ESTIMATED), tmp_path / "out")
    cut = cut_by_border(boxes, 320, 240, 48)
    assert (found.origin, found.diameter) == (MEASURED, box_diameter(boxes, cut))
    assert asked == [20.0, found.diameter], "20 px is too far from what was found: the photograph is looked at again"
    forty = Estimate(40.0, ESTIMATED)
    near = find_cells(one, finder, "known", Scale(None, 0.5), forty, tmp_path / "near")
    assert (near.origin, near.diameter, asked[2:]) == (ESTIMATED, 40.0, [40.0])
    given = find_cells(one, finder, "known", Scale(60, 0.5), forty, tmp_path / "given")
    assert (given.origin, given.diameter, given.side) == (GIVEN, 60, 120)
    few, finder, _ = photograph(tmp_path / "few", 3, 2)
    assert find_cells(few, finder, "known", Scale(None, 0.5), forty, tmp_path / "x")[2:4] == (40.0, ESTIMATED)


def test_without_any_scale_the_options_are_named(tmp_path):
    one, finder, _ = photograph(tmp_path, 3, 2)
    assert find_cells(one, finder, "known", Scale(None, 0.5), Estimate(None), tmp_path / "out").origin == MEASURED
    none = find_cells(one, OfOneScale(), "of-one", Scale(None, 0.5), Estimate(None), tmp_path / "out")
    assert (none.cells, none.diameter) == ([], None)
    assert none.row()["problem"].startswith("no scale could be estimated, and of-one finds cells at a known scale")
    finder.boxes = {key: [[0, 0, 30, 30]] for key in finder.boxes}
    cut = find_cells(one, finder, "known", Scale(None, 0.5), Estimate(None), tmp_path / "out")
    assert re.match("every cell is cut by the border, .*--cell-size PX .*--um-per-px UM", cut.problem)
    large = (one, finder, "known", Scale(330, 0.5), Estimate(None), tmp_path / "out")
    with pytest.raises(CellfeatError, match=r"f.png: a cell 330 px wide, as .* larger than the photograph .320 x 240"):
        find_cells(*large)
    assert find_cells(*large, skip_bad=True).problem.startswith("a cell 330 px wide")
    finder.boxes = {}
    assert find_cells(one, finder, "known", Scale(None, 0.5), Estimate(None), tmp_path / "out").row()["cells"] == 0


def test_fields_of_a_patient_have_one_scale():
    """60 px by most of its fields; one tells nothing, one is of another objective; another patient has an empty field
    alone, and one photograph is of another camera."""
    whose = [("p", 60.0), ("p", 64.0), ("p", None), ("p", 130.0), ("p", 58.0), ("q", None), ("r", None)]
    fields = [Photograph(f"f{n}", Path(f"f{n}.png"), who, "", 640, 480) for n, (who, _) in enumerate(whose)]
    fields[1] = replace(fields[1], width=480, height=640)  # the camera was turned
    fields[6] = replace(fields[6], width=800)
    found = pooled(fields, [value for _, value in whose])
    # Of the patient all four, of any objective; a field that tells nothing cannot say which it is of.
    assert [one.diameter for one in found] == [60.0, 60.0, 62.0, 130.0, 60.0, 62.0, None]
    assert [one.origin for one in found[:6]] == [POOLED, POOLED, POOLED, ESTIMATED, POOLED, BORROWED]


# Crops and flags


def test_crops_are_centred_of_one_scale_and_filled_with_background(tmp_path):
    image = np.full((60, 100, 3), (240, 230, 220), np.uint8)
    image[:20, :20] = (90, 40, 120)  # a cell in the corner
    image[30:40, 50:60] = (60, 20, 110)
    boxes = np.array([[0, 0, 20, 20], [50, 30, 60, 40], [10, 10, 58, 50]], float)
    crops = cropped(image, boxes, 40.0)
    assert [one.shape for one in crops.pictures] == [(40, 40, 3), (40, 40, 3), (53, 53, 3)]
    assert (crops.side, crops.enlarged.tolist()) == (40, [False, False, True])
    corner, middle, _ = crops.pictures
    assert np.all(corner[:10] == background(image))
    assert np.all(corner[10:30, 10:30] == (90, 40, 120)), "in the middle, nothing resized"
    assert np.array_equal(middle, image[15:55, 35:75])
    dark = np.where(image[..., :1] > 200, np.uint8(0), image)
    assert background(image).tolist() == [240, 230, 220]
    assert background(dark).sum() < 600, "what is brightest, whatever it is"


def test_cells_that_touch_or_are_cut():
    boxes = np.array([[10, 10, 50, 50], [50, 10, 90, 50], [88, 48, 128, 88], [0.5, 60, 30, 90], [260, 200, 319.5, 230]])
    # The second and third overlap in their corners, where both cells are round.
    assert touching(boxes).tolist() == [True, True, False, False, False]
    assert cut_by_border(boxes, 320, 240, 40).tolist() == [False, False, False, True, True]
    assert touching(boxes[:1]).tolist() == [False]
    assert touching(boxes[[0, 0]]).tolist() == [True, True]
    assert touching(np.zeros((0, 4))).shape == (0,)


def test_touching_is_the_same_whichever_way_cells_are_looked_for():
    rng = np.random.default_rng(0)
    corner, size = rng.uniform(0, 900, (150, 2)), rng.uniform(10, 60, (150, 2))
    boxes = np.hstack([corner, corner + size])
    boxes[0] = (0, 0, 300, 30)  # one is far larger than what it touches
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    found = np.zeros(len(boxes), bool)
    for one in range(len(boxes)):
        for other in range(one):
            way = centre[other] - centre[one]
            distance = np.hypot(*way)
            reach = sum(1 / np.hypot(*(way / distance / half[cell])) for cell in (one, other))
            if distance <= 1.05 * reach:
                found[[one, other]] = True
    assert 20 < found.sum() < 130
    assert touching(boxes).tolist() == found.tolist()


def test_flags_against_what_was_drawn():
    """Boxes alone tell most of what outlines tell."""
    right = []
    for seed in range(12):
        one = drawn_smear(seed, 8, touching=0.4)
        right += (touching(one.boxes) == one.touching).tolist()
        assert np.array_equal(cut_by_border(one.boxes, 320, 240, 48) | one.cut, cut_by_border(one.boxes, 320, 240, 48))
    assert np.mean(right) > 0.9


# Pictures


def test_short_names_tell_classes_apart():
    assert short_names(("neutrophil", "eosinophil", "band")) == {
        "neutrophil": "neut",
        "eosinophil": "eosi",
        "band": "band",
    }
    short = short_names(("lymphocyte", "lymphoblast", "lympho"))
    assert short == {"lymphocyte": "lymphoc", "lymphoblast": "lymphob", "lympho": "lympho"}
    assert len(set(colours_of([str(number) for number in range(8)]).values())) == 9


@pytest.mark.parametrize("size", [(640, 480), (4000, 300)])
def test_a_photograph_with_its_cells(tmp_path, size):
    image = np.full((size[1], size[0], 3), 235, np.uint8)
    cells = [Marked((100, 100, 180, 180), "neutrophil", 1, "t"), Marked((300, 0, 380, 60), "", 2, "?c")]
    annotate(tmp_path / "f.jpg", image, cells, ("lymphocyte", "neutrophil"))
    with Image.open(tmp_path / "f.jpg") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels.shape[1] == size[0]
    assert pixels.shape[0] > size[1], "what the signs mean stands below"
    assert abs(pixels[140, 100] - (213, 94, 0)).max() < 40, "the box of the second class"
    assert abs(pixels[140, 140] - 235).max() < 12, "the cell itself is left alone"
    assert abs(pixels[30, 300]).max() < 60, "black: no class"
    high = max(12, round(size[0] / 90))
    label = pixels[100 - high : 100, 100 : 100 + 4 * high]
    assert (abs(label - (213, 94, 0)).max(axis=2) < 40).mean() > 0.3, "a label as high as the picture is large"
    assert (label.min(axis=2) > 200).mean() > 0.05, "with white letters"
    annotate(tmp_path / "none.jpg", image[:50], [], ("lymphocyte",))
    with Image.open(tmp_path / "none.jpg") as picture:
        assert picture.height > 50


def test_a_sheet_begins_with_the_least_sure(tmp_path):
    for name, colour in (("sure", (250, 0, 0)), ("doubtful", (0, 0, 250))):
        Image.fromarray(np.full((30, 30, 3), colour, np.uint8)).save(tmp_path / f"{name}.png")
    cells = [Shown(tmp_path / "sure.png", "f/0001", 0.99), Shown(tmp_path / "doubtful.png", "f/0002", 0.41)]
    sheet(tmp_path / "neutrophil.jpg", "neutrophil", cells)
    with Image.open(tmp_path / "neutrophil.jpg") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert abs(pixels[90, 60] - (0, 0, 250)).max() < 30
    assert abs(pixels[90, 180] - (250, 0, 0)).max() < 30


# The folder


def test_names_are_no_formulas_in_the_table_and_come_back_as_they_were(tmp_path):
    chosen, proba = np.array([0, 1]), np.array([[0.7, 0.3], [0.4, 0.6]])
    wanted = Wanted(abstain=0.65, coverage=0.9)
    verdicts = Verdicts(("=1+1", "b"), chosen, proba, np.array([True, False]), np.ones((2, 2), bool), wanted=wanted)
    cells = [FoundCell(f"f/{number}", "-p", "f", (0.0, 0.0, 4.0, 4.0), False, False) for number in (1, 2)]
    write_cells(tmp_path, cells, verdicts)
    (tmp_path / "smear.json").write_text("{}")
    with (tmp_path / "cells.csv").open(newline="") as file:
        raw = list(csv.DictReader(file))
    names = ("patient", "label", "best_label", "set")
    assert [raw[0][name] for name in names] == ["'-p", "'=1+1", "'=1+1", "'=1+1|b"]
    assert not [text for one in raw for text in one.values() if text.startswith("=")]
    found = read_cells(tmp_path)
    assert [found[0][name] for name in names] == ["-p", "=1+1", "=1+1", "=1+1|b"]
    assert (found[1]["label"], found[1]["best_label"]) == ("", "b")


def test_a_folder_that_is_none_is_told(tmp_path):
    with pytest.raises(CellfeatError, match=r"is no folder of a smear \(it has no smear.json\); cellfeat smear"):
        read_cells(tmp_path)
    (tmp_path / "smear.json").write_text("[]")
    with pytest.raises(CellfeatError, match=r"smear.json is damaged: not a JSON object"):
        about(tmp_path)
    (tmp_path / "smear.json").write_text("{")
    with pytest.raises(CellfeatError, match=r"smear.json is damaged"):
        about(tmp_path)
    (tmp_path / "smear.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(CellfeatError, match=r"cells.csv cannot be read"):
        read_cells(tmp_path)
    with (tmp_path / "cells.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "label"], ["a", "b"]])
    with pytest.raises(CellfeatError, match=r"cells.csv has no column crop, cut, .*; it was changed"):
        read_cells(tmp_path)
