"""`cellfeat smear` as a whole: drawn smears of two patients, a detector that knows their boxes, a run."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from smearing import drawn_smear, write_smears
from test_cli import cellfeat, one_line  # noqa: F401  a fixture

from cellfeat import CellfeatError, api
from cellfeat.novelty import Novelty, Reference
from cellfeat.review import Review
from cellfeat.review_table import read_table
from cellfeat.smear_folder import read_cells

TOYS = str(Path(__file__).with_name("smearing.py"))
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def finished(small_laboratories, own_cache, tmp_path_factory) -> Path:
    """A run of one laboratory, without pictures."""
    out = tmp_path_factory.mktemp("runs") / "run"
    only = {"source": ["lab-a"], "target": ["lab-a"], "folds": 2, "device": "cpu", "pictures": False}
    return api.run(small_laboratories, backbone="colour", align=["none"], clf="lr", out=out, **only)[0]


@pytest.fixture(scope="module")
def smears(tmp_path_factory) -> tuple[Path, dict[str, object]]:
    """A folder with two fields of the patient P1 and one of P2, and what was drawn."""
    folder = tmp_path_factory.mktemp("smears")
    drawn = {"P1/a.png": drawn_smear(1, 7, 0.5), "P1/b.png": drawn_smear(2, 5), "P2/c.png": drawn_smear(3, 6)}
    write_smears(folder, drawn)
    return folder, drawn


@pytest.fixture
def smear(cellfeat, monkeypatch, own_cache, smears, finished, tmp_path):  # noqa: F811
    """`cellfeat smear` with the toy segmenter; gives (exit status, stdout, stderr)."""
    folder, _ = smears

    def call(*options, images=(folder,), out="out", boxes=folder / "boxes.json"):
        monkeypatch.setenv("CELLFEAT_PLUGINS_DIR", TOYS)
        monkeypatch.setenv("CELLFEAT_CACHE", str(own_cache))
        known = ("--segmenter", "known-boxes", "--set", f"segmenter.boxes={boxes}", "--cell-share", "0.5")
        return cellfeat("smear", *images, "--run", finished, "-o", tmp_path / out, *known, *options)

    return call


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_photographs_to_a_count(smear, smears, tmp_path):
    _, drawn = smears
    code, out, err = smear("--cell-size", "48")
    assert code == 0, err
    folder = tmp_path / "out"
    cells = read_cells(folder)
    wanted = sum(len(one.boxes) for one in drawn.values())
    assert len(cells) == wanted == len({one["id"] for one in cells})
    assert {(one["patient"], one["field"]) for one in cells} == {("P1", "a"), ("P1", "b"), ("P2", "c")}
    for one in cells:
        with Image.open(folder / one["path"]) as picture:
            assert picture.size == (96, 96), "48 px at a share of a half"
        assert one["crop"] == one["path"] == f"crops/{one['id']}.png"
        assert one["label"] == max(
            ("lymphocyte", "monocyte", "basophil", "eosinophil", "neutrophil"), key=lambda name: float(one[f"p_{name}"])
        )
    found = [[float(one[name]) for name in ("x1", "y1", "x2", "y2")] for one in cells if one["field"] == "a"]
    assert sorted(found) == pytest.approx(np.array(sorted(drawn["P1/a.png"].boxes.tolist())), abs=0.06)
    counts = rows(folder / "differential.csv")
    assert [one["patient"] for one in counts] == ["P1"] * 5 + ["P2"] * 5 + [""] * 5  # of both together
    for patient in ("P1", "P2", ""):
        own = [one for one in counts if one["patient"] == patient]
        assert sum(int(one["cells"]) for one in own) == int(own[0]["n"])
        assert all(0 <= float(one["low"]) <= float(one["share"]) <= float(one["high"]) <= 1 for one in own)
        for one in own:
            labels = [cell["label"] for cell in cells if patient in (cell["patient"], "")]
            assert int(one["cells"]) == labels.count(one["class"])
    fields = rows(folder / "fields.csv")
    assert [(one["field"], int(one["cells"]), one["scale"]) for one in fields] == [
        (name, len(drawn[path].boxes), "given")
        for name, path in (("a", "P1/a.png"), ("b", "P1/b.png"), ("c", "P2/c.png"))
    ]
    assert {path.stem for path in (folder / "fields").iterdir()} == {"a", "b", "c"}
    assert {path.stem for path in (folder / "classes").iterdir()} == {cell["label"] for cell in cells}
    about = json.loads((folder / "smear.json").read_text())
    assert (about["source"], about["detector"]["name"], about["cell_diameter"]) == ("lab-a", "known-boxes", 48)
    assert f"Differential count: {wanted} cells of 2 patients" in out
    assert "3 photographs: patients by the folders that they lie in" in err
    assert "the intervals leave out cells that known-boxes missed" in " ".join(err.split())
    assert "cellfeat review" in err


def test_the_classes_are_those_of_predict(smear, cellfeat, finished, tmp_path):  # noqa: F811
    assert smear("--cell-size", "48", "--abstain", "0.7", "--json")[0] == 0
    code, _, err = cellfeat("predict", finished, tmp_path / "out" / "crops", "-o", tmp_path / "p.csv")
    assert code == 0, err
    predicted = {one["id"].removesuffix(".png"): one for one in rows(tmp_path / "p.csv")}
    cells = read_cells(tmp_path / "out")
    assert {one["id"]: one["probability"] for one in cells} == {
        name: one["probability"] for name, one in predicted.items()
    }
    unsure = [one for one in cells if float(one["probability"]) < 0.7]
    assert unsure
    for one in cells:
        assert one["label"] == ("" if one in unsure else predicted[one["id"]]["label"])
        assert one["best_label"] == predicted[one["id"]]["label"]
    assert (tmp_path / "out" / "classes" / "not_classified.jpg").is_file()
    last = [one for one in rows(tmp_path / "out" / "differential.csv") if not one["patient"]][-1]
    assert (last["class"], int(last["cells"]), last["low"]) == ("(not classified)", len(unsure), "")


def test_json_is_the_count_and_a_record_widens_it(smear, tmp_path):
    plain = json.loads(smear("--cell-size", "48", "--json", "--patient", "Q")[1])
    assert [one["patient"] for one in plain["patients"]] == ["Q"]
    assert plain["all"] is None
    assert plain == json.loads((tmp_path / "out" / "differential.json").read_text())
    code, out, err = smear("--cell-size", "48", "--json", "--patient", "Q", "--detector-record", "100,80,20", out="own")
    assert code == 0, err
    assert "of 100 cells 80 found, 20 boxes wrong" in " ".join(err.split())
    own = json.loads(out)["patients"][0]
    assert own["missed"][1] > 0
    _, out, err = smear("--cell-size", "48", "--json", "--set", "segmenter.record=true", out="toy's")
    assert json.loads(out)["detector_record"] == {"cells": 200, "found": 180, "wrong": 6, "on": "drawn smears"}
    for name, one in own["classes"].items():
        other = plain["patients"][0]["classes"][name]
        assert one["low"] <= other["low"] + 0.01
        assert one["high"] >= other["high"] - 0.01


def test_the_cell_share_is_the_runs_own_or_asked_for(cellfeat, monkeypatch, finished, smears, tmp_path, own_cache):  # noqa: F811
    folder, _ = smears
    arguments = {"segmenter": "known-boxes", "sets": {"segmenter.boxes": str(folder / "boxes.json")}, "cell_size": 48}
    monkeypatch.setenv("CELLFEAT_PLUGINS_DIR", TOYS)
    monkeypatch.setenv("CELLFEAT_CACHE", str(own_cache))
    monkeypatch.setattr(Reference, "read", classmethod(lambda cls, folder: None))
    with pytest.raises(CellfeatError, match=r"does not know how large the cells were .* --cell-share SHARE"):
        api.smear(folder, finished, tmp_path / "out", **arguments)
    with pytest.raises(
        CellfeatError, match=r"the segmenter 'otsu' finds no cells in whole photographs .*; those that do:"
    ):
        api.smear(folder, finished, tmp_path / "out", segmenter="otsu", cell_share=0.5)
    assert not (tmp_path / "out").exists()
    marked = []
    monkeypatch.setattr(Reference, "read", classmethod(lambda cls, folder: Strange()))
    monkeypatch.setattr("cellfeat.smear_output.annotate", lambda path, image, cells, classes: marked.extend(cells))
    made = api.smear([folder / "P1"], finished, tmp_path / "out", patient="Q", **arguments)
    assert {one.side for one in made.found} == {192}
    assert {one["novel"] for one in read_cells(made.folder)} == {"yes"}
    assert marked
    assert all("!" in one.marks for one in marked)
    assert [one.patient for one in made.counts] == ["Q"]


class Strange:
    """Stands for what a run knows of its training cells: they were small, and every other is unlike them."""

    cell_share = 0.25

    def judge(self, dataset, *others) -> Novelty:
        return Novelty(np.ones(len(dataset)), np.ones(len(dataset), bool), ("all cells are strange",))


def test_what_cannot_be_is_one_line_and_leaves_nothing(smear, tmp_path, monkeypatch):
    for options, said in (
        (("--domain", " "), "--domain: it is empty; give the laboratory of these photographs a name"),
        (("--cell-size", "4", "--segmenter", "of-one-scale"), "a.png: a typical white cell 4 px wide is too small"),
        (("--set", "align.epochs=3"), "this command uses no align"),
        (("--set", "segmenter.colour=3"), "no parameter of segmenter 'known-boxes' named 'colour'"),
        (("--source", "lab-z"), "no source of this run named 'lab-z'"),
        (("--detector-record", "3,4,5"), "--detector-record 3,4,5"),
    ):
        code, out, err = smear(*options)
        assert (code, out) == (2, "")
        assert said in one_line(err)
    (tmp_path / "none.json").write_text("{}")
    code, _, err = smear("--cell-size", "48", boxes=tmp_path / "none.json")
    assert code == 2
    assert "known-boxes finds no white cell in 3 photographs (a typical one was taken to measure 48 px)" in one_line(
        err
    )
    monkeypatch.setattr("cellfeat.smear.judged", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
    code, _, err = smear("--cell-size", "48")
    assert code == 130
    assert "every image that was encoded" in " ".join(err.split())
    assert not list(tmp_path.glob("*out*")), "neither the folder nor a part of it"
    (tmp_path / "out").mkdir()
    assert "exists" in one_line(smear("--cell-size", "48")[2])


def test_bad_photographs_are_left_out_and_listed(smear, smears, tmp_path):
    folder, _ = smears
    (tmp_path / "in").mkdir()
    shutil.copy(folder / "P1" / "a.png", tmp_path / "in")
    shutil.copy(folder / "P1" / "a.png", tmp_path / "in" / "z.png")
    (tmp_path / "in" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    code, _, err = smear("--cell-size", "48", images=(tmp_path / "in",))
    assert code == 2
    assert "(and 1 more bad photographs). --skip-bad leaves such photographs out" in one_line(err)
    code, _, err = smear("--cell-size", "48", "--skip-bad", images=(tmp_path / "in",))
    assert code == 0, err
    assert [one["id"] for one in rows(tmp_path / "out" / "skipped.csv")] == ["b", "z"]
    assert "z.png is the same file as" in " ".join(err.split())


def test_refitted_with_these_cells_and_what_changed(smear, smears, tmp_path):
    assert smear("--cell-size", "48")[0] == 0
    earlier = rows(tmp_path / "out" / "cells.csv")
    with (tmp_path / "right.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "label", "domain", "group"])
        for one in earlier[:6]:  # a reviewer says that all of them are of one class
            writer.writerow([one["id"], tmp_path / "out" / one["path"], "monocyte", "new", one["patient"]])
    code, out, err = smear(
        "--cell-size", "48", "--json", "--labelled", tmp_path / "right.csv", "--before", tmp_path / "out",
        out="again",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out)["changes"]
    again = {one["id"]: one["label"] for one in rows(tmp_path / "again" / "cells.csv")}
    moved = [one for one in earlier if again[one["id"]] != one["label"]]
    assert (found["cells"], found["changed"]) == (len(earlier), len(moved))
    assert sum(again[one["id"]] == "monocyte" for one in earlier[:6]) >= sum(
        one["label"] == "monocyte" for one in earlier[:6]
    )
    assert moved, "six cells said to be monocytes change something"


def test_a_review_of_nothing_counts_as_the_smear_did(smear, tmp_path):
    assert smear("--cell-size", "48", "--abstain", "0.5", "--detector-record", "40,38,1")[0] == 0
    Review(read_table(tmp_path / "out")).close()
    first, again = (rows(tmp_path / "out" / f"{name}differential.csv") for name in ("", "reviewed-"))
    for one, other in zip(first, again, strict=True):
        for name, value in one.items():
            if name in ("low", "high", "probability") and value:  # cells.csv has six digits of a probability
                assert float(other[name]) == pytest.approx(float(value), abs=0.01)
            else:
                assert other[name] == value


def test_cells_that_are_no_longer_found_are_no_changes(smear, smears, tmp_path):
    folder, drawn = smears
    assert smear("--cell-size", "48")[0] == 0
    boxes = {key: found[1:] for key, found in json.loads((folder / "boxes.json").read_text()).items()}
    (tmp_path / "fewer.json").write_text(json.dumps(boxes))
    options = ("--cell-size", "48", "--json", "--before", tmp_path / "out")
    code, out, err = smear(*options, out="again", boxes=tmp_path / "fewer.json")
    assert code == 0, err
    cells = sum(len(one.boxes) for one in drawn.values())
    found = {"cells": cells - 3, "changed": 0, "only_before": 3, "only_now": 0, "moves": []}
    assert json.loads(out)["changes"] == found
    assert "boxes around no cell of the other count: 3 of the earlier one, 0 of this one" in " ".join(err.split())


def test_an_empty_field_does_not_stop_the_count(smear, smears, tmp_path):
    folder, drawn = smears
    (tmp_path / "in").mkdir()
    shutil.copy(folder / "P1" / "a.png", tmp_path / "in")
    picture = Image.new("RGB", (200, 150), (236, 233, 228))
    picture.save(tmp_path / "in" / "empty.png")  # but for one cell, which the border cuts
    digest = hashlib.sha256(np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1)).tobytes()).hexdigest()
    boxes = json.loads((folder / "boxes.json").read_text()) | {digest: [[0, 0, 30, 30]]}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    code, _, err = smear(images=(tmp_path / "in" / "empty.png",), boxes=tmp_path / "boxes.json")
    assert code == 2
    assert "empty.png: every cell is cut by the border, so that the scale is not known; say how" in one_line(err)
    code, _, err = smear(images=(tmp_path / "in",), boxes=tmp_path / "boxes.json")
    assert code == 0, err
    assert "1 photograph could not be searched, so that no cell of empty is counted; fields.csv says why" in " ".join(
        err.split()
    )
    full, empty = rows(tmp_path / "out" / "fields.csv")
    assert (int(full["cells"]), full["problem"]) == (len(drawn["P1/a.png"].boxes), "")
    assert (empty["cells"], empty["scale"]) == ("0", "")
    assert empty["problem"].startswith("every cell is cut by the border")


def test_what_cannot_answer_is_known_before_cells_are_looked_for(smear, finished, tmp_path, monkeypatch):
    run = shutil.copytree(finished, tmp_path / "run")
    [about] = run.glob("pipelines/*/pipeline.json")
    saved = about.read_text()
    told = json.loads(saved)
    told["facts"]["places_new"] = False  # as of a method that must adapt first
    about.write_text(json.dumps(told))
    monkeypatch.setattr("cellfeat.smear.find_cells", lambda *given: pytest.fail("cells were looked for"))
    code, _, err = smear("--cell-size", "48", "--run", run)
    assert code == 2
    assert "align 'none' cannot place the new domain 'new'; it was fitted on lab-a." in one_line(err)
    assert "predict, transform and smear: --refit" in one_line(err)
    told = json.loads(saved)
    told["facts"]["dataset"]["digest"] = "other"
    about.write_text(json.dumps(told))
    assert "has changed since" in one_line(smear("--cell-size", "48", "--run", run, "--refit")[2])
    with (tmp_path / "right.csv").open("w") as file:
        Image.new("RGB", (32, 32)).save(tmp_path / "x.png")
        file.write("id,path,label,domain\nx,x.png,blast,new\n")
    code, _, err = smear("--cell-size", "48", "--labelled", tmp_path / "right.csv")
    assert code == 2
    assert "blast" in one_line(err)
