"""`cellfeat info` of what comes of photographs and of answers, and that the next commands it names are to the point."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_artifact_info import check

from cellfeat import CellfeatError, smear_folder
from cellfeat.artifact_files import DETECTOR, DETECTOR_KIND
from cellfeat.artifact_info import describe
from cellfeat.corrections import correct
from cellfeat.demo import write_demo
from cellfeat.differential import differential
from cellfeat.differential_text import summary
from cellfeat.review import Review
from cellfeat.review_table import read_table
from cellfeat.smear_detection import Found
from cellfeat.smear_folder import FoundCell
from cellfeat.smear_photographs import Photograph
from cellfeat.verdicts import Verdicts, Wanted

CLASSES = ("a", "b")
WEIGHTS = Path(__file__).resolve().parent.parent / "plugins" / "cellfeat_lora_sam" / "weights"


def count_in(folder: Path) -> Path:
    """A differential count of four cells of two patients, written as `cellfeat smear` writes it, without pictures."""
    fields = (("f1", "p 1"), ("f2", "p 2"))
    cells = [
        FoundCell(f"{field}/{number}", patient, field, (1.0, 2.0, 9.0, 9.0), touching=number == 1, cut=False)
        for field, patient in fields
        for number in (1, 2)
    ]
    proba = np.array([[0.9, 0.1], [0.2, 0.8], [0.8, 0.2], [0.6, 0.4]])
    chosen, answered = proba.argmax(axis=1), np.array([True, True, True, False])
    verdicts = Verdicts(CLASSES, chosen, proba, answered, wanted=Wanted(abstain=0.7))
    for cell in cells:
        (folder / cell.crop).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / cell.crop)
    smear_folder.write_cells(folder, cells, verdicts)
    patients = ["p 1", "p 2"]
    of = np.array([cell.patient for cell in cells])
    counts = differential(patients, of, chosen, proba, answered, CLASSES)
    smear_folder.write_counts(folder, counts, {"photographs": 2, "not_taught": []} | summary(counts, None))
    photographs = [Photograph(name, Path(f"{name}.png"), one, f"{name}.png", 50, 40, "ab") for name, one in fields]
    rows = [Found(one, cells[:2], 8.0, "given", 20, 0).row() for one in photographs]
    smear_folder.write_fields(folder, rows)
    told = [{"field": one.name, "patient": one.patient} for one in photographs]
    detector = {"name": "d", "record": None}
    about = {"format": 1, "run": "r", "source": "s", "detector": detector, "seed": 0, "photographs": told}
    smear_folder.write_json(folder / smear_folder.ABOUT, about)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    count_in(folder / "fresh")
    reviewed = count_in(folder / "my count")
    (reviewed / "first.csv").write_text("id,path,label,probability,p_a,p_b\n1,crops/f1/1.png,a,0.9,0.9,0.1\n")
    for table, answers in ((reviewed, {0: "a", 1: "a", 2: "not a cell"}), (reviewed / "first.csv", {0: "b"})):
        with Review(read_table(table)) as review:
            review.decide(answers, "x" * 8, 1)
            review.undo("x" * 8, 2)
            review.decide(answers, "x" * 8, 3)
    correct(reviewed, folder / "corrected.csv", "ward 7")
    write_demo(folder / "demo", per_class=1, size=32, smears=1)
    return folder


PREDICTED = {"cells": 4, "predicted": {"(not answered)": 1, "a": 2, "b": 1}, "touching": 2}
REVIEWED = {"accepted": 1, "corrected": 1, "not a cell": 1, "not looked at": 1}
KNOWN = {  # what, facts, how the first command goes on after the program
    "fresh": ("differential count of `cellfeat smear`", {"patients": 2, "photographs": 2, **PREDICTED}, "review {}"),
    "fresh/cells.csv": ("cells of `cellfeat smear`", {"classes": ["a", "b"], **PREDICTED}, "review {home}"),
    "fresh/fields.csv": ("photographs of a differential count", {"cells": 4, "scale": {"given": 2}}, "info {home}"),
    "fresh/differential.csv": ("differential count: shares of", {}, "info {home}"),
    "fresh/differential.json": ("differential count: shares of", {"patients": {"p 1": 2, "p 2": 2}}, "info {home}"),
    "fresh/smear.json": ("what a differential count was made with", {"run": "r", "found by": "d"}, "review {home}"),
    "fresh/crops": ("cells of a differential count as they were classified", {"images": 4}, "info {home}"),
    "fresh/crops/f1": ("cells of a differential count as they were classified", {"images": 2}, "info {above}"),
    "my count": ("differential count of `cellfeat smear`", {"reviewed": REVIEWED}, "review {}"),
    "my count/review.jsonl": ("journal of a review", {"cells": 4, "steps": 3, "reviewed": 3}, "review {home}"),
    "my count/reviewed.csv": ("reviewed answers of `cellfeat smear`", {"reviewed": REVIEWED}, "data correct {}"),
    "my count/first.csv": ("predictions of `cellfeat predict`", {"images": 1, "predicted": {"a": 1}}, "review {}"),
    "my count/first-review.jsonl": ("journal of a review", {"reviewed": 1}, "review {home}/first.csv"),
    "my count/first-reviewed.csv": ("reviewed answers of `cellfeat predict`", {}, "data correct {}"),
    "corrected.csv": ("labelled cells of `cellfeat data correct`", {"images": 2, "corrected": 1}, "predict RUN IMAGES"),
    "demo/smears/cells.csv": ("known cells of drawn photographs", {"photographs": 3}, "smear {home} --run RUN"),
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_smears_and_reviews_leave_is_known(made, name):
    kind, facts, command = KNOWN[name]
    path = made / name
    found = describe(path)
    check(found, kind, facts)
    wanted = command.format(path, home=path.parent, above=path.parent.parent)
    assert found.next[0].replace("'", "").startswith(f"cellfeat {wanted}")


def test_the_total_of_a_count_is_in_its_facts_under_any_name_of_the_files(made, tmp_path):
    for name in ("differential.csv", "differential.json"):
        found = describe(made / "fresh" / name)
        again = describe(Path(shutil.copy(made / "fresh" / name, tmp_path / f"reviewed-{name}")))
        assert (again.kind, again.facts, again.next) == (found.kind, found.facts, ())  # without a smear's folder
    cells = describe(made / "fresh" / "differential.csv").facts["cells"]
    assert (sum(cells.values()), max(cells.values())) == (8, 4)


def test_a_review_leads_to_corrections_and_these_to_another_fit(made):
    assert describe(made / "fresh").next == (f"cellfeat review {made}/fresh",)
    assert describe(made / "my count").next[1] == f"cellfeat data correct '{made}/my count' -o corrected.csv"
    again = f"--domain 'ward 7' --labelled {made}/corrected.csv"
    assert describe(made / "corrected.csv").next == (
        f"cellfeat predict RUN IMAGES {again} -o again.csv",
        f"cellfeat smear IMAGES --run RUN {again} -o again",
    )


def test_a_journal_whose_last_line_was_cut_short_is_still_one(made, tmp_path):
    journal = shutil.copy(made / "my count" / "review.jsonl", tmp_path)
    with Path(journal).open("ab") as file:
        file.write(b'{"time": "2')
    check(describe(Path(journal)), "journal of a review", {"steps": 3, "reviewed": 3})
    assert describe(Path(journal)).next == ()  # its table is elsewhere


def test_weights_of_a_detector_are_for_smears(tmp_path):
    from safetensors.numpy import save_file

    named = describe(WEIGHTS / "cell-detector-v1.safetensors")
    assert named.facts["known as"] == ["cell-detector", "cell-detector-v1"]
    command = "cellfeat smear IMAGES --run RUN -o counted --segmenter cell-detector --set segmenter.weights="
    check(named, "named weights", {})
    assert named.next == (f"{command}cell-detector-v1",)
    assert (named.facts["says"]["kind"], named.next[0].split()[8]) == (DETECTOR_KIND, DETECTOR)
    save_file({"a": np.zeros(1)}, tmp_path / "mine.safetensors", {"cellfeat": json.dumps({"kind": DETECTOR_KIND})})
    own = describe(tmp_path / "mine.safetensors")
    check(own, "weights of a detector", {})
    assert own.next == (f"{command}{tmp_path}/mine.safetensors",)


def test_a_large_image_may_be_a_photograph_of_many_cells(tmp_path):
    for side in (200, 900):
        Image.new("RGB", (side, side)).save(tmp_path / f"{side}.png")
    assert not any("smear" in command for command in describe(tmp_path / "200.png").next)
    assert describe(tmp_path / "900.png").next[0] == f"cellfeat smear {tmp_path}/900.png --run RUN -o counted"
    check(describe(tmp_path / "900.png"), "image", {})


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("smear.json", "{", "damaged"),
        ("differential.json", "[]", "damaged"),
        ("differential.json", '{"patients": 3}', "damaged (TypeError"),
        ("other.json", "{}", "not a file that cellfeat knows"),
    ],
)
def test_what_is_damaged_is_one_line(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(CellfeatError) as error:
        describe(tmp_path / name)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
