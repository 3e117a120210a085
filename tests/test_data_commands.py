"""`cellfeat data …` as it is typed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cellfeat.commands.data import app
from cellfeat.errors import CellfeatError


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
    assert "1 images are byte for byte another one of them, e.g. a_BA_1 = a_BA_2" in output
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
    call("demo", tmp_path / "demo", "--per-class", 1, "--size", 32, "--seed", 3)
    output = call("info", tmp_path / "demo" / "manifest.csv")
    assert cells(output, "neutrophil") == ["1", "1", "1"]
    assert cells(output, "masks") == ["5", "5", "5"]
    assert cells(output, "size, px") == ["32 x 32"] * 3


def test_the_commands_load_nothing_heavy():
    heavy = "{'torch', 'cv2', 'PIL', 'numpy', 'scipy', 'sklearn'}"
    code = f"import cellfeat.commands.data, sys; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
