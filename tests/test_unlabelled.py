"""Images without labels: files and folders of them, and manifests whose labels nothing may see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cellfeat import Workplace, load_photographs
from cellfeat.console import SilentReporter
from cellfeat.datasets import check_images
from cellfeat.errors import CellfeatError
from cellfeat.registry import Registry
from cellfeat.unlabelled import unlabelled_images, without_labels


def draw(path: Path, seed: int = 0, side: int = 16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
    return path


def write_csv(path: Path, rows: list[str], header: str = "id,path,label,domain") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with images a.png to d.png."""
    for seed, name in enumerate("abcd"):
        draw(tmp_path / f"{name}.png", seed)
    return tmp_path


ROWS = ["c,c.png,monocyte,two", "a,a.png,basophil,one", "d,d.png,no such class,one", "b,b.png,,one"]


@pytest.fixture
def manifest(folder) -> Path:
    return write_csv(folder / "m.csv", ROWS)


# Files and folders


def test_unlabelled_images_are_one_domain(folder):
    draw(folder / "more" / "deep" / "e.jpg")
    draw(folder / "more" / "b.png", seed=1)
    dataset = unlabelled_images([folder / "a.png", folder / "more"], "clinic")
    assert dataset.id.tolist() == ["a.png", "b.png", "deep/e.jpg"]
    assert dataset.label.tolist() == [-1, -1, -1]
    assert set(dataset.domain) == {"clinic"}
    assert dataset.classes == ()
    clash = unlabelled_images([folder / "b.png", folder / "more"])
    assert len(set(clash.id)) == 3
    assert check_images(clash).size.shape == (3, 2)


def test_unlabelled_images_that_are_not_there(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(CellfeatError, match="no images in this folder"):
        unlabelled_images(tmp_path)
    with pytest.raises(CellfeatError, match=r"absent\.png: no such file or folder"):
        unlabelled_images(tmp_path / "absent.png")
    with pytest.raises(CellfeatError, match="no images were named"):
        unlabelled_images([])


# Manifests without their labels


def test_every_label_is_dropped_and_every_image_kept(manifest):
    dataset = without_labels(manifest)
    assert dataset.id.tolist() == ["a", "b", "c", "d"]
    assert [path.name for path in dataset.path] == ["a.png", "b.png", "c.png", "d.png"]
    assert dataset.label.tolist() == [-1] * 4
    assert dataset.label.dtype == np.int64
    assert dataset.classes == ()
    assert dataset.domain.tolist() == ["one", "one", "two", "one"]
    assert dataset.notes() == []  # no word about labels, not even how many there are


def test_nothing_of_the_labels_is_left(manifest, folder):
    turned = [f"{row.split(',')[0]},{row.split(',')[0]}.png,other,{row.rpartition(',')[2]}" for row in ROWS]
    other = without_labels(write_csv(folder / "other.csv", turned))
    assert other.digest == without_labels(manifest).digest
    assert not [value for value in vars(without_labels(manifest)).values() if "monocyte" in str(value)]


def test_domains_and_ids_are_left_out(manifest):
    assert without_labels(manifest, domains=["two"]).id.tolist() == ["c"]
    assert without_labels(manifest, leave_out=iter(["a", "c"])).id.tolist() == ["b", "d"]
    assert without_labels(manifest, ["one"], ["a"]).id.tolist() == ["b", "d"]
    with pytest.raises(CellfeatError, match="no domain named 'three'"):
        without_labels(manifest, ["three"])


@pytest.mark.parametrize(
    ("domains", "leave_out", "message"),
    [
        (
            None,
            ["y", "x", "a"],
            r"m\.csv: 2 of the ids to leave out are not among its 4 images, the first is 'x'; one id",
        ),
        (["one"], ["c"], "1 of the ids to leave out are not among its 3 images, the first is 'c'"),
        (["one"], ["a", "b", "d"], r"m\.csv: no image is left"),
    ],
)
def test_ids_that_are_not_there_are_an_error(manifest, domains, leave_out, message):
    with pytest.raises(CellfeatError, match=message):
        without_labels(manifest, domains, leave_out)


def test_bad_rows_are_an_error_or_skipped(folder):
    bad = write_csv(folder / "bad.csv", ["a,a.png,x,one", "z,absent.png,x,one"])
    with pytest.raises(CellfeatError, match=r"bad\.csv: line 3: .*absent\.png: no such file"):
        without_labels(bad)
    dataset = without_labels(bad, skip_bad=True)
    assert dataset.id.tolist() == ["a"]
    assert [skip.id for skip in dataset.skipped] == ["z"]
    assert dataset.notes() == ["1 bad rows or files are left out"]
    assert without_labels(bad, leave_out=["z"]).id.tolist() == ["a"]  # what is left out need not be there


def test_photographs_are_checked_and_notes_told(manifest, folder):
    work = Workplace(Registry(), SilentReporter())
    dataset = load_photographs(str(manifest), ["one"], ["a"], work)
    assert dataset.id.tolist() == ["b", "d"]
    assert dataset.label.tolist() == [-1, -1]
    assert dataset.size.tolist() == [[16, 16], [16, 16]]
    assert len(load_photographs(str(manifest), [], [], work)) == 4
    (folder / "b.png").write_bytes(b"no image")
    with pytest.raises(CellfeatError, match=r"b\.png"):
        load_photographs(str(manifest), [], [], work)
    skipping = Workplace(Registry(), SilentReporter(), skip_bad=True)
    assert load_photographs(str(manifest), [], [], skipping).id.tolist() == ["a", "c", "d"]
    write_csv(folder / "bad.csv", ["a,a.png,x,one", "z,absent.png,x,one"])
    load_photographs(str(folder / "bad.csv"), [], [], skipping)
    assert skipping.reporter.notes == ["1 bad rows or files are left out"]


def test_masks_of_a_manifest_are_left_where_they_are(folder):
    manifest = write_csv(
        folder / "masked.csv", ["a,a.png,x,one,no-such-mask.png", "b,b.png,x,one,"], "id,path,label,domain,mask_path"
    )
    with pytest.raises(CellfeatError, match="no-such-mask"):
        without_labels(manifest)
    draw(folder / "no-such-mask.png", 5, side=4)
    assert without_labels(manifest).mask_path is None
    assert len(check_images(without_labels(manifest))) == 2
