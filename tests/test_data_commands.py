"""`cellfeat data …` as it is typed."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cellfeat.commands.data import app
from cellfeat.datasets import read_manifest
from cellfeat.errors import CellfeatError
from cellfeat.labels import FIVE_CLASS, load_vocabulary


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder per class: two monocytes, a basophil, and a text file that calls itself an image."""
    for seed, name in enumerate(["monocyte/1.png", "monocyte/2.png", "basophil/3.png"]):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 24, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


def call(*arguments: object) -> str:
    """Output of `cellfeat data …`; what the main program would print as an error is raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def cells(output: str, first: str) -> list[str]:
    """The cells of the table row that begins with `first`."""
    rows = [[cell.strip() for cell in line.strip().strip("│┃").split("│")] for line in output.splitlines()]
    return next(row[1:] for row in rows if row[0] == first)


def test_index_writes_a_manifest_and_says_what_it_found(images, tmp_path):
    out = tmp_path / "m.csv"
    output = call("index", "folders", images, "--domain", "clinic", "--out", out)
    assert cells(output, "found") == ["", "3"]
    assert cells(output, "accepted") == ["", "3"]
    assert out.read_text().splitlines()[1].startswith("clinic_basophil_3,images/basophil/3.png,basophil,clinic,24,16,")
    with pytest.raises(CellfeatError, match=r"m\.csv exists and is never overwritten"):
        call("index", "folders", images, "--domain", "clinic", "--out", out)


def test_index_with_bad_files(images, tmp_path):
    (images / "monocyte" / "4.png").write_text("text")
    out = tmp_path / "m.csv"
    with pytest.raises(CellfeatError, match=r"4\.png: not a JPEG"):
        call("index", "folders", images, "--domain", "clinic", "--out", out)
    assert not out.exists()
    output = call("index", "folders", images, "--domain", "clinic", "--out", out, "--skip-bad")
    assert cells(output, "unreadable") == ["", "1"]
    skipped = (tmp_path / "m-skipped.csv").read_text()
    assert "clinic_monocyte_4" in skipped
    assert len(out.read_text().splitlines()) == 4


def test_index_of_dropped_classes_and_duplicates(tmp_path):
    for name in ("BA_1.jpg", "BA_2.jpg", "IG_3.jpg"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / name)
    output = call("index", "acevedo20", tmp_path, "--domain", "a", "--out", tmp_path / "m.csv")
    assert cells(output, "dropped") == ["", "1"]
    assert "1 image is byte for byte another one of them, e.g. a_BA_1 = a_BA_2: keep one of each" in output
    assert "dropped, as in the published studies: IG" in output


def test_an_empty_folder_is_one_line(tmp_path):
    with pytest.raises(CellfeatError, match="no images in this folder"):
        call("index", "folders", tmp_path, "--domain", "c", "--out", tmp_path / "m.csv")


def test_merge_then_info(images, tmp_path):
    for domain in ("one", "two"):
        call("index", "folders", images, "--domain", domain, "--out", tmp_path / f"{domain}.csv")
    merged = tmp_path / "lists" / "all.csv"
    call("merge", tmp_path / "one.csv", tmp_path / "two.csv", "--out", merged)
    output = call("info", merged)
    assert cells(output, "monocyte") == ["2", "2"]
    assert cells(output, "cells") == ["3", "3"]
    assert cells(output, "masks") == ["0", "0"]
    assert cells(output, "size, px") == ["24 x 16", "24 x 16"]
    with pytest.raises(CellfeatError, match="merge joins two or more manifests"):
        call("merge", merged, "--out", tmp_path / "again.csv")
    with pytest.raises(CellfeatError, match=r"id 'one_basophil_3' is in .*one\.csv line 2 and in .*all\.csv line 2"):
        call("merge", tmp_path / "one.csv", merged, "--out", tmp_path / "again.csv")


def test_info_counts_dropped_labels_per_laboratory(images, tmp_path):
    rows = ["a,images/monocyte/1.png,monocyte,one", "b,images/monocyte/2.png,platelet,two"]
    rows += ["c,images/basophil/3.png,basophil,one"]
    (tmp_path / "m.csv").write_text("\n".join(["id,path,label,domain", *rows]))
    output = call("info", tmp_path / "m.csv", "--labels", "five-class")
    assert cells(output, "dropped: platelet") == ["0", "1"]
    assert cells(output, "cells") == ["2", "0"]
    assert cells(output, "eosinophil") == ["0", "0"]
    with pytest.raises(CellfeatError, match="no label vocabulary named 'six-class'"):
        call("info", tmp_path / "m.csv", "--labels", "six-class")


def test_info_of_a_manifest_with_a_missing_file(images, tmp_path):
    rows = ["a,images/monocyte/1.png,monocyte,one", "b,absent.png,monocyte,one"]
    (tmp_path / "m.csv").write_text("\n".join(["id,path,label,domain", *rows]))
    with pytest.raises(CellfeatError, match=r"line 3: .*absent\.png: no such file"):
        call("info", tmp_path / "m.csv")
    assert cells(call("info", tmp_path / "m.csv", "--skip-bad"), "cells") == ["1"]


def test_demo_draws_what_was_asked_for(tmp_path):
    call("demo", tmp_path / "demo", "--per-class", 1, "--size", 32, "--seed", 3, "--smears", 1)
    assert len(list((tmp_path / "demo" / "smears").glob("lab-?-1.png"))) == 3
    output = call("info", tmp_path / "demo" / "manifest.csv")
    assert cells(output, "neutrophil") == ["1", "1", "1"]
    assert cells(output, "masks") == ["5", "5", "5"]
    assert cells(output, "size, px") == ["32 x 32"] * 3


def test_the_commands_load_nothing_heavy():
    heavy = "{'torch', 'cv2', 'PIL', 'numpy', 'scipy', 'sklearn'}"
    code = f"import cellfeat.commands.data, sys; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def draw(folder: Path, *names: str) -> Path:
    """A folder of small images, each of its own colour."""
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (seed, 7 * seed, 99)).save(path, format="PNG")
    return folder


def rows_of(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("names", "options", "groups"),
    [
        (["Mono/Öz A/1.JPG", "Mono/2.png", "Eos/Öz A/3.png"], ["--levels", "class/patient"], ["w_Öz A", "", "w_Öz A"]),
        (
            ["Öz A/Mono/1.png", "Öz A/Eos/2.png", "B/Eos/3.png"],
            ["--levels", "patient/class"],
            ["w_B", "w_Öz A", "w_Öz A"],
        ),
        (["2024/Mono/P1/1.png", "2024/Eos/P2/2.png"], ["--levels", "-/class/patient"], ["w_P2", "w_P1"]),
        (["Mono/P01_1.png", "Mono/P02_2.png", "Eos/3.png"], ["--group-from", "(P[0-9]+)_"], ["", "w_P01", "w_P02"]),
        (["BA_s1.png", "BA_s2.png"], ["--group-from", "_(s.)"], ["w_s1", "w_s2"]),
    ],
)
def test_patients_are_groups(tmp_path, names, options, groups):
    kind = "acevedo20" if names[0].startswith("BA") else "folders"
    folder, out = draw(tmp_path / "ward", *names), tmp_path / "m.csv"
    output = call("index", kind, folder, "--domain", "w", "--out", out, *options)
    assert [row["group"] for row in rows_of(out)] == groups
    assert {row["label"] for row in rows_of(out)} <= {"Mono", "Eos", "basophil"}
    assert f"{len(set(groups) - {''})} patients or slides; no split will divide one" in output
    assert ("counts as" in output) == ("" in groups)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--levels", "class/patent"], r"no level of folders named 'patent'\. Did you mean 'patient'"),
        (["--levels", "patient"], "one level is the class and at most one the patient"),
        (["--levels", "patient/class/patient"], "one level is the class and at most one the patient"),
        (["--group-from", "(P"], r"--group-from \(P: not a regular expression"),
        (["--group-from", "P.*"], "put brackets around the patient"),
        (["--group-from", "(Q[0-9]+)"], r"finds nothing in any path, e\.g\. Eos/3\.png"),
    ],
)
def test_patients_that_cannot_be_found(tmp_path, options, message):
    folder = draw(tmp_path / "ward", "Mono/P01_1.png", "Eos/3.png")
    with pytest.raises(CellfeatError, match=message):
        call("index", "folders", folder, "--domain", "w", "--out", tmp_path / "m.csv", *options)
    with pytest.raises(CellfeatError, match="--levels belongs to folders; matek19 has a published layout"):
        call("index", "matek19", folder, "--domain", "w", "--out", tmp_path / "m.csv", "--levels", "class")
    assert not (tmp_path / "m.csv").exists()


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (
            ["Bilder/Mono/1.png", "Bilder/Eos/2.png"],
            [],
            r"classes \(Bilder\) are not named like cells, .* index that folder",
        ),
        (
            ["P1/Mono/1.png", "P2/Eos/2.png"],
            [],
            "level 2 are .Eos, Mono.; say which level is which: --levels patient/class",
        ),
        (["Mono/P1/1.png", "Eos/P2/2.png"], ["--levels", "patient/class"], "level 1 are .*: --levels class/patient"),
        (["a/P1/Mono/1.png", "a/P1/Eos/2.png"], [], "level 3 are .*: --levels -/patient/class"),
        (["1.png", "2.png"], [], r"in no class folder 2\); sort them into a folder per class"),
    ],
)
def test_folders_on_another_level_are_one_line(tmp_path, names, options, message):
    folder = draw(tmp_path / "ward", *names)
    with pytest.raises(CellfeatError, match=message) as caught:
        call("index", "folders", folder, "--domain", "w", "--out", tmp_path / "m.csv", *options)
    assert "\n" not in str(caught.value)


def test_what_lies_about_in_a_ward_is_told_in_one_line_each(tmp_path):
    folder = draw(tmp_path / "ward", "Mono/P1/1.png", "Mono/P2/2.png", "Eos/3.png", "lose.png")
    (folder / "unklar").mkdir()
    copy = (folder / "Eos" / "3.png").read_bytes()
    (folder / "unklar" / "Kopie.png").write_bytes(copy)
    (folder / "Baso").mkdir()
    for name in ("Baso/Thumbs.db", ".DS_Store", "Eos/scan.czi", "Liste.txt"):
        (folder / name).write_bytes(b"\0")
    output = " ".join(call("index", "folders", folder, "--domain", "w", "--out", tmp_path / "m.csv").split())
    for said in (
        "dropped │ │ 1",
        "1 image lies in no class folder: move each into one",
        "the class folders hold 2 folders (Mono/P1, …); where these are patients or slides, say so",
        "--levels class/patient",
        "no image in Baso: nothing comes of it",
        "2 files are not named like an image and left alone: Eos/scan.czi, Liste.txt",
        "1 image is byte for byte another one of them, 1 of them under two labels, e.g. w_Eos_3 = w_unklar_Kopie",
        "Next: cellfeat data labels",
    ):
        assert said in output
    (folder / "Eos" / "leer.jpg").touch()
    with pytest.raises(CellfeatError, match=r"leer\.jpg: an empty file; copy it again\. --skip-bad"):
        call("index", "folders", folder, "--domain", "w", "--out", tmp_path / "n.csv")


def test_a_draft_of_labels_decides_what_is_sure_and_marks_the_rest(tmp_path):
    names = [
        "Lymphos/1.png",
        "lymphos /2.png",
        "Stabkernige/3.png",
        "Monozytn/4.png",
        "unklar/5.png",
        "Plt/6.png",
        "EO/7.png",
    ]
    out = tmp_path / "labels.yaml"
    call("index", "folders", draw(tmp_path / "ward", *names), "--domain", "w", "--out", tmp_path / "m.csv")
    output = call("labels", tmp_path / "m.csv", "--to", "five-class", "--out", out)
    assert cells(output, "Lymphos") == ["2", "lymphocyte", "means lymphocyte"]
    assert cells(output, "unklar")[:2] == ["1", "EDIT"]
    assert "no label for basophil" in output
    assert "2 of 6 labels are undecided (2 cells)" in output
    assert f"Next: cellfeat data info {tmp_path / 'm.csv'} --labels {out}" in output.replace("\n", "")
    text = out.read_text(encoding="utf-8").splitlines()
    assert [line.partition("#")[0].strip() for line in text[4:]] == [
        '"EO": "eosinophil"',
        '"Lymphos": "lymphocyte"',
        '"Monozytn": null',
        '"Plt": null',
        '"Stabkernige": "neutrophil"',
        '"unklar": null',
    ]
    assert [line.partition('"')[2][:6] for line in text if "EDIT: 1 cell;" in line] == ["Monozy", "unklar"]
    vocabulary = load_vocabulary(out)
    assert vocabulary.classes == FIVE_CLASS.classes
    assert vocabulary.place("LYMPHOS") == "lymphocyte"
    assert vocabulary.place("unklar") is None
    assert cells(call("info", tmp_path / "m.csv", "--labels", out), "neutrophil") == ["1"]
    with pytest.raises(CellfeatError, match=r"labels\.yaml exists and is never overwritten"):
        call("labels", tmp_path / "m.csv", "--out", out)


def test_folders_that_may_be_patients_are_asked_about(tmp_path):
    call(
        "index",
        "folders",
        draw(tmp_path / "w", "Müller/1.png", "Kaya/2.png"),
        "--domain",
        "w",
        "-o",
        tmp_path / "m.csv",
    )
    output = call("labels", tmp_path / "m.csv", "--out", tmp_path / "labels.yaml")
    assert "2 of 2 labels are undecided" in output
    assert "Not one label is a known word. Are they classes, or patients?" in output


@pytest.mark.parametrize(
    ("names", "following"),
    [
        (["monocyte/1.png", "Neutrophil Banded/2.png"], "data info {} --labels five-class"),
        (["monocyte/1.png", "promyelocyte/2.png"], "data info {} --labels dorl-13"),
        (["monocyte/1.png", "Eos/2.png"], "data labels {} --to five-class -o labels.yaml"),
    ],
)
def test_the_command_after_a_manifest_depends_on_its_words(tmp_path, names, following):
    out = tmp_path / "my manifest.csv"
    output = call("index", "folders", draw(tmp_path / "w", *names), "--domain", "w", "--out", out)
    assert f"Next: cellfeat {following.format(chr(39) + str(out) + chr(39))}" in output.replace("\n", "")


def test_a_draft_for_classes_of_ones_own(tmp_path):
    (tmp_path / "mine.yaml").write_text("blast: immature\nlymphocyte: mature\n", encoding="utf-8")
    call("index", "folders", draw(tmp_path / "w", "Blast/1.png", "Lymphos/2.png", "Mono/3.png"), "--domain", "w", "-o",
         tmp_path / "m.csv")  # fmt: skip
    output = call("labels", tmp_path / "m.csv", "--to", tmp_path / "mine.yaml", "--out", tmp_path / "labels.yml")
    assert [cells(output, name)[1] for name in ("Blast", "Lymphos", "Mono")] == ["immature", "mature", "left out"]
    assert "labels.yml: all 3 labels have their place" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "labels.txt"], r"--out labels\.txt: the name must end in \.yaml"),
        (["--out", "labels.yaml", "--to", "six-class"], "no label vocabulary named 'six-class'"),
    ],
)
def test_a_draft_that_cannot_be_written(images, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    call("index", "folders", images, "--domain", "one", "--out", "m.csv")
    with pytest.raises(CellfeatError, match=message):
        call("labels", "m.csv", *options)
    Path("n.csv").write_text("id,path,label,domain\na,images/basophil/3.png,,one\n")
    with pytest.raises(CellfeatError, match=r"n\.csv: no row has a label, so there is nothing to map"):
        call("labels", "n.csv", "--out", "labels.yaml")
    assert not Path("labels.yaml").exists()


def test_laboratories_without_a_common_word_and_one_alone_are_told(tmp_path):
    for name, words in {"a": ("Mono", "Eos"), "b": ("monosit", "eozinofil")}.items():
        call("index", "folders", draw(tmp_path / name, *(f"{word}/1.png" for word in words)), "--domain", name, "-o",
             tmp_path / f"{name}.csv")  # fmt: skip
    call("merge", tmp_path / "a.csv", tmp_path / "b.csv", "--out", tmp_path / "both.csv")
    (said,) = read_manifest(tmp_path / "both.csv").notes()
    assert said.startswith("a, b: no label is one of another laboratory's")
    assert f"cellfeat data labels {tmp_path / 'both.csv'} --to five-class -o labels.yaml" in said
    assert read_manifest(tmp_path / "a.csv").notes() == []
    assert "One laboratory: a run tests on held-out parts of a alone" in call("info", tmp_path / "a.csv")
    call("labels", tmp_path / "both.csv", "--out", tmp_path / "labels.yaml")
    assert read_manifest(tmp_path / "both.csv", tmp_path / "labels.yaml").notes() == []
