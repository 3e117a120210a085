"""The table of a review: what is read of it, what is refused, and where its pictures and answers lie."""

from __future__ import annotations

import contextlib
import csv

import pytest
from reviewing import read, smear_folder

from cellfeat import CellfeatError
from cellfeat.decode import ImageError
from cellfeat.review_table import read_table

PREDICTED = "id,path,label,probability,p_a,p_=b\n"


def write(folder, text, name="predictions.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_smears_folder_is_read_with_its_doubts(tmp_path):
    table = read_table(smear_folder(tmp_path / "smear", 14))
    assert table.classes == ("neutrophil", "lymphocyte", "monocyte")
    assert [cell.id for cell in table.cells] == [f"slide/{number:04d}" for number in range(14)]
    assert (table.cells[0].answer, table.cells[0].best) == ("neutrophil", "neutrophil")
    assert (table.cells[6].answer, table.cells[6].best) == ("", "neutrophil"), "the method abstained"
    assert (table.cells[1].flags, table.cells[5].flags) == (("touching",), ("novel",))
    unsure = [cell for cell in table.cells if cell.probability < 0.6]
    assert unsure
    assert all(cell.set == ("neutrophil", "lymphocyte") for cell in unsure)
    assert table.check_pictures() == (0, 0)
    names = (table.journal.name, table.reviewed.name, table.lock.name)
    assert names == ("review.jsonl", "reviewed.csv", ".review.lock")
    assert read_table(tmp_path / "smear" / "cells.csv") == table


def test_predictions_lie_beside_the_table_or_where_predict_was_run(tmp_path):
    smear_folder(tmp_path / "smear", 2)
    inside = write(tmp_path / "smear", f"{PREDICTED}'=x,crops/slide/0000.png,'=b,1,0.2,0.8\n")
    table = read_table(inside)
    assert (table.cells[0].id, table.cells[0].answer) == ("=x", "=b"), "apostrophes were for a spreadsheet"
    assert (table.journal.name, table.reviewed.name) == ("predictions-review.jsonl", "predictions-reviewed.csv")
    assert table.check_pictures() == (0, 0)
    elsewhere = read_table(write(tmp_path, f"{PREDICTED}x,crops/slide/0000.png,a,1,1,0\ny,no.png,a,1,1,0\n"))
    with contextlib.chdir(tmp_path / "smear"):
        assert elsewhere.check_pictures() == (1, 0)
    with contextlib.chdir(tmp_path), pytest.raises(CellfeatError, match="none of its 2 pictures is there"):
        elsewhere.check_pictures()


def test_the_reviewed_table_is_the_table_and_a_column(tmp_path):
    path = write(tmp_path, f"{PREDICTED}'=x,1.png,,1,0.2,0.8\ny,2.png,a,1,1,0\nz,3.png,a,1,1,0\n")
    table, out = read_table(path), tmp_path / "out.csv"
    table.write_reviewed({"=x": "=b", "y": "not a cell"}, out)
    with path.open(newline="") as old, out.open(newline="") as new:
        for before, after in zip(csv.reader(old), csv.reader(new), strict=True):
            assert after[:-1] == before
    assert [line["reviewed"] for line in read(out)] == ["'=b", "not a cell", ""]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("id,path\nx,1.png\n", "has no column label; it is no table of predictions"),
        ("id,path,label,p_a,reviewed\nx,1.png,a,1,a\n", "it has a column 'reviewed', so a review wrote it"),
        ("id,path,label\nx,1.png,a\n", "no column p_CLASS; a review needs cells.csv of `cellfeat smear`"),
        ("id,path,label,p_a,p_a\nx,1.png,a,1,1\n", "the column p_a is there twice"),
        ("id,path,label,p_unsure\nx,1.png,unsure,1\n", "a class is called 'unsure'"),
        ("id,path,label,p_a\nx,1.png,b,1\n", "line 2: the label 'b' is none of its classes (a)"),
        ("id,path,label,p_a\n,1.png,a,1\n", "line 2: the id is empty"),
        ("id,path,label,p_a\nx,1.png,a,nan\n", "line 2: a probability is no number"),
        ("id,path,label,p_a\nx,1.png,a\n", "line 2: a probability is no number"),
        ("id,path,label,p_a\nx,1.png,a,1\nx,2.png,a,1\n", "the cell 'x' is there 2 times"),
        ("id,path,label,p_a\n", "no cells below the header"),
        ('id,path,label,p_a\nx,"1.png,a,1\n', "not a CSV in UTF-8"),
    ],
)
def test_a_table_that_cannot_be_reviewed_is_refused(tmp_path, text, part):
    with pytest.raises(CellfeatError) as caught:
        read_table(write(tmp_path, text))
    assert part in str(caught.value)


def test_what_is_no_table_is_refused(tmp_path):
    with pytest.raises(CellfeatError, match=r"a folder without cells\.csv; name a folder of `cellfeat smear`"):
        read_table(tmp_path)
    with pytest.raises(CellfeatError, match="no such table"):
        read_table(tmp_path / "absent.csv")
    (tmp_path / "latin.csv").write_bytes(b"id,path,label,p_a\n\xe9,1.png,a,1\n")
    with pytest.raises(CellfeatError, match=r"not a CSV in UTF-8 \(byte 18\)"):
        read_table(tmp_path / "latin.csv")


def test_a_reviewed_table_names_the_one_that_it_was_made_of(tmp_path):
    folder = smear_folder(tmp_path / "smear", 2)
    text = "id,path,label,p_a,reviewed\nx,1.png,a,1,a\n"
    with pytest.raises(CellfeatError, match=r"so a review wrote it; go on with: cellfeat review \S+/smear$"):
        read_table(write(folder, text, "reviewed.csv"))
    first = write(tmp_path, "id,path,label,p_a\nx,1.png,a,1\n", "first.csv")
    with pytest.raises(CellfeatError, match=rf"go on with: cellfeat review {first}$"):
        read_table(write(tmp_path, text, "first-reviewed.csv"))


@pytest.mark.parametrize("outside", ["../other.png", "{folder}/other.png", "file://{folder}/other.png", "link.png"])
def test_a_smear_shows_no_picture_from_outside_its_folder(tmp_path, outside):
    folder = smear_folder(tmp_path / "smear", 2)
    (folder / "crops/slide/0001.png").rename(tmp_path / "other.png")
    (folder / "link.png").symlink_to(tmp_path / "other.png")
    lines = (folder / "cells.csv").read_text().replace("crops/slide/0001.png", outside.format(folder=tmp_path))
    (folder / "cells.csv").write_text(lines)
    table = read_table(folder)
    assert table.picture(0).is_file()
    with pytest.raises(CellfeatError, match="lies outside its folder, where a smear has its own; it is not read"):
        table.check_pictures()
    with pytest.raises(ImageError, match="lies outside its folder"):
        table.picture(1)


def test_predictions_of_elsewhere_are_shown_and_told_and_urls_are_not_fetched(tmp_path):
    smear_folder(tmp_path / "smear", 2)
    (tmp_path / "far").mkdir()
    lines = f"x,{tmp_path}/smear/crops/slide/0000.png,a,1,1,0\ny,http://127.0.0.1:9/y.png,a,1,1,0\n"
    table = read_table(write(tmp_path / "far", f"{PREDICTED}{lines}"))
    assert table.check_pictures() == (1, 1)
    assert table.picture(0).is_file()
    with pytest.raises(ImageError, match="a review fetches nothing"):
        table.picture(1)
    only = read_table(write(tmp_path / "far", f"{PREDICTED}y,http://127.0.0.1:9/y.png,a,1,1,0\n"))
    with pytest.raises(CellfeatError, match=r"none of its 1 pictures is there; .* URLs are not fetched"):
        only.check_pictures()
