"""What a report says of a run in words: what was shown to what, and nothing of where it lay."""

from __future__ import annotations

from pathlib import Path

import pytest

from cellfeat import CellfeatError, records, run_facts
from cellfeat.run_folder import RunFolder


def record(**changes):
    about = {"source": "a", "target": "b", "held_out_folds": False, "adapt": "test", "adapted_to": ["b"], "shots": 0}
    return {**about, "left_out": {}, "uses_target": True, "uses_labels": True, **changes}


@pytest.mark.parametrize(
    ("changes", "adaptable", "said"),
    [
        ({}, (), "the labelled cells of a with their labels, and all cells of b without labels (adapt: test)."),
        ({}, ("b", "c"), "and all cells of b, c without labels (adapt: test)."),
        ({"adapt": "none", "adapted_to": []}, ("b", "c"), "with their labels, and no cell of another laboratory."),
        ({"uses_labels": False}, (), "shown cells of a without their labels, and all cells of b"),
        (
            {"left_out": {"x": 3}},
            (),
            "the labelled cells of a (but x, n = 3: fewer cells than folds) with their labels",
        ),
        ({"shots": 7}, (), "with their labels, 7 cells of b (few-shot) likewise, and all other cells of b without"),
        (
            {"shots": 7, "adapt": "none", "adapted_to": []},
            (),
            "7 cells of b (few-shot) likewise, and no further cell of another laboratory.",
        ),
    ],
)
def test_it_is_said_what_an_alignment_was_shown(changes, adaptable, said):
    text = run_facts.was_shown([record(**changes), record(source="z", adapted_to=["y"])], "a", adaptable)
    assert text.startswith("The alignment of this pipeline was shown ")
    assert said in text


def test_a_recipe_of_another_version_names_files_alone():
    recipe = {
        "dataset": {"manifest": "data/m.csv?x", "labels": None},
        "later": [{"weights": "/home/jane/w.pt", "name": "timm/resnet18", "other": "../x/y.bin", "n": 3}],
    }
    text = run_facts.recipe_text({"recipe": recipe})
    assert not any(place in text for place in ("jane", "data/", "../"))
    assert all(name in text for name in ("m.csv", "w.pt", "timm/resnet18", "y.bin", "n: 3"))


def in_folder(path: Path, *some) -> Path:
    about = {"schema": 1, "classes": ["x"], "recipe": {}, "recipe_digest": "1", "target": "b", "source": "a"}
    path.mkdir()
    records.append(path / "records.jsonl", [{**about, **one} for one in some])
    return path


def test_skipped_files_are_named_without_their_folders(tmp_path):
    folder = in_folder(tmp_path / "run", {})
    lines = 'id,path,reason\n1,/home/jane doe/a.png,"/home/jane doe/a.png: empty"\n2,,\n'
    (folder / "skipped.csv").write_text(lines)
    assert RunFolder.read(folder).skipped.rows == [("1", "a.png", "a.png: empty"), ("2", "", "")]
    (folder / "skipped.csv").write_text("a,b\n1,2\n")
    with pytest.raises(CellfeatError, match=r"skipped\.csv has columns \['a', 'b'\]; possible are id, path, reason"):
        RunFolder.read(folder)


def test_records_of_several_recipes_and_damaged_predictions_are_refused(tmp_path):
    several = in_folder(tmp_path / "several", {}, {"recipe_digest": "2"})
    with pytest.raises(CellfeatError, match=r"records of 2 recipes.*report is of one run.*`cellfeat leaderboard`"):
        RunFolder.read(several)
    damaged = in_folder(tmp_path / "damaged", {})
    (damaged / "predictions.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(CellfeatError, match=r"predictions\.parquet cannot be read as predictions \(.+\); copy it anew"):
        RunFolder.read(damaged)


def test_the_command_in_a_notice_can_be_pasted(tmp_path, monkeypatch):
    folder = in_folder(tmp_path / "my run; x", {})
    monkeypatch.chdir(folder)
    text = " ".join(run_facts.notices(RunFolder.read(Path())))
    assert "cellfeat run --recipe 'my run; x/recipe.yaml' --out NEW (in the folder that has the run's)" in text
