"""Manifests, their checks, published layouts and the demo set."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cellfeat.datasets import check_images, read_manifest, without_classes, write_skipped
from cellfeat.demo import demo_dataset, demo_manifest, write_demo
from cellfeat.errors import CellfeatError
from cellfeat.images import image_digest, read_mask, read_rgb
from cellfeat.layouts import index_dataset
from cellfeat.manifest import domain_problem, merge_manifests, read_rows, write_manifest


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


# The manifest


def test_rows_come_in_the_order_of_ids(folder):
    rows = ["c,c.png,monocyte,two", "a,a.png,basophil,one", "b,b.png,monocyte,one"]
    dataset = read_manifest(write_csv(folder / "m.csv", rows))
    assert dataset.id.tolist() == ["a", "b", "c"]
    assert dataset.classes == ("basophil", "monocyte")
    assert dataset.label.tolist() == [0, 1, 1]
    assert dataset.label.dtype == np.int64
    assert dataset.domain.tolist() == ["one", "one", "two"]
    assert dataset.domains == ("one", "two")
    assert dataset.group.tolist() == ["a", "b", "c"]
    assert dataset.mask_path is None
    assert [path.name for path in dataset.path] == ["a.png", "b.png", "c.png"]
    assert all(path.is_file() for path in dataset.path)
    turned = read_manifest(write_csv(folder / "turned.csv", rows[::-1]))
    assert turned.digest == dataset.digest


def test_groups_masks_extra_columns_and_a_byte_order_mark(folder):
    draw(folder / "masks" / "a.png")
    text = "id,note,path,label,domain,group,mask_path\na,x,a.png,m,one,p1,masks/a.png\nb,y,b.png,n,one,,\n"
    (folder / "m.csv").write_text(text, encoding="utf-8-sig")
    dataset = read_manifest(folder / "m.csv")
    assert dataset.group.tolist() == ["p1", "b"]
    assert dataset.mask_path == (folder / "masks" / "a.png", None)


def test_the_digest_covers_ids_labels_domains_and_groups(folder):
    header = "id,path,label,domain,group"
    variants = [
        "a,a.png,x,one,g",
        "A,a.png,x,one,g",
        "a,a.png,y,one,g",
        "a,a.png,x,two,g",
        "a,a.png,x,one,h",
    ]
    digests = [read_manifest(write_csv(folder / f"{i}.csv", [row], header)).digest for i, row in enumerate(variants)]
    assert len(set(digests)) == len(digests)


def test_a_vocabulary_places_drops_and_says_so(folder):
    rows = ["a,a.png,neutrophil,one", "b,b.png,neutrophil_banded,one", "c,c.png,platelet,one", "d,d.png,platelet,two"]
    manifest = write_csv(folder / "m.csv", rows)
    dataset = read_manifest(manifest, "dorl-13")
    assert [dataset.classes[label] for label in dataset.label] == ["neutrophil_segmented", "neutrophil_banded"]
    assert dataset.dropped == {"platelet": 2}
    assert dataset.dropped_by_domain == {"one": {"platelet": 1}, "two": {"platelet": 1}}
    notes = " ".join(dataset.notes())
    assert "2 cells whose label has no class in dorl-13 are dropped (platelet 2): the evaluation is closed-set" in notes
    assert "dorl-13 counts neutrophil as neutrophil_segmented (1 cell)" in notes
    assert len(read_manifest(manifest)) == 4
    assert read_manifest(manifest).notes() == []


def test_domains_are_chosen_by_name(folder):
    manifest = write_csv(folder / "m.csv", ["a,a.png,x,one", "b,absent.png,x,two"])
    assert read_manifest(manifest, domains=["one"]).id.tolist() == ["a"]
    with pytest.raises(CellfeatError, match=r"no domain named 'on'\. Did you mean 'one'\? Available: one, two"):
        read_manifest(manifest, domains=["on"])


BAD_ROWS = {
    "b,absent.png,x,one": r"m\.csv: line 3: .*absent\.png: no such file",
    "a,b.png,x,one": r"m\.csv: line 3: id 'a' was already given in line 2; ids must be unique",
    "b,b.png,x,": r"m\.csv: line 3: domain is empty",
    "b,b.png,x,..": r"m\.csv: line 3: domain '\.\.' cannot name a folder: it stands for another folder",
    "b,b.png,x,lab/1": r"m\.csv: line 3: domain 'lab/1' cannot name a folder: it has the character '/'; choose another",
    "b,b.png,x,lab\\1": r"m\.csv: line 3: domain .* it has the character '\\\\'",
    'b,b.png,x,"lab\n1"': r"m\.csv: line 4: domain 'lab\\n1' cannot name a folder: it has the character '\\n'",
    f"b,b.png,x,{'x' * 101}": r"m\.csv: line 3: domain 'x{40}'… cannot .* longer than 100 characters, or 200 bytes",
    "b,zero\0.png,x,one": r"m\.csv: line 3: .*: no such file",
    "b,.,x,one": r"m\.csv: line 3: .* is a folder, not an image",
    "b,b.png,basofil,one": r"m\.csv: line 3: no label named 'basofil'\. Did you mean 'basophil'",
}


@pytest.mark.parametrize("row", BAD_ROWS)
def test_a_bad_row_is_one_line_or_skipped(folder, row):
    vocabulary = "five-class" if "basofil" in row else None
    manifest = write_csv(folder / "m.csv", ["a,a.png,basophil,one", row, "c,c.png,monocyte,one"])
    with pytest.raises(CellfeatError, match=BAD_ROWS[row]) as caught:
        read_manifest(manifest, vocabulary)
    assert "\n" not in str(caught.value)
    assert "--skip-bad leaves such rows out" in str(caught.value)
    dataset = read_manifest(manifest, vocabulary, skip_bad=True)
    assert dataset.id.tolist() == ["a", "c"]
    assert [skip.id for skip in dataset.skipped] == [row.split(",")[0]]
    assert dataset.dropped == {}
    assert "1 bad rows or files are left out" in dataset.notes()


def test_many_bad_rows_are_still_one_line(folder):
    rows = ["a,a.png,x,one", *(f"z{i},absent{i}.png,x,one" for i in range(5))]
    with pytest.raises(CellfeatError, match=r"absent0\.png: no such file \(and 4 more bad rows\)"):
        read_manifest(write_csv(folder / "m.csv", rows))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty; a manifest begins with the line id,path,label,domain"),
        (b"id,path,label,domain\n", "no rows below the header"),
        (b"id,path,label\na,a.png,x\n", "no column 'domain'; found: id, path, label"),
        (b"id;path;label;domain\na;a.png;x;one\n", "not separated by commas"),
        (b"id,path,label,domain\na,\xff\xfe.png,x,one\n", "not UTF-8 text"),
        (b"id,path,label,domain\na,a.png,x\n", "line 2 has 3 fields, the header 4"),
        (b'id,path,label,domain\na,"a.png,x,one\n', "not a CSV file"),
        (b"id,path,label,domain,id\na,a.png,x,one,b\n", "a column is there twice"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not UTF-8 text"),
    ],
)
@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_file_that_is_no_manifest(tmp_path, content, message, skip_bad):
    (tmp_path / "m.csv").write_bytes(content)
    with pytest.raises(CellfeatError, match=message) as caught:
        read_manifest(tmp_path / "m.csv", skip_bad=skip_bad)
    assert str(caught.value).startswith(str(tmp_path / "m.csv"))


def test_no_manifest_there(tmp_path):
    with pytest.raises(CellfeatError, match="no such manifest"):
        read_manifest(tmp_path / "m.csv")
    with pytest.raises(CellfeatError, match="a folder, not a manifest; make one with: cellfeat data index"):
        read_manifest(tmp_path)


def test_no_row_left(folder):
    with pytest.raises(CellfeatError, match=r"m\.csv: no row is left of 1; line 2: .*absent\.png: no such file$"):
        read_manifest(write_csv(folder / "m.csv", ["a,absent.png,x,one"]), skip_bad=True)
    with pytest.raises(CellfeatError, match=r"without a class: platelet\. A map of your own can"):
        read_manifest(write_csv(folder / "m.csv", ["a,a.png,platelet,one"]), "five-class")
    (folder / "draft.yaml").write_text('classes: [x, y]\nmap:\n  "Lympho": null  # EDIT: 1 cell\n')
    with pytest.raises(
        CellfeatError, match=r"class: Lympho\. Write classes .* null in .*draft\.yaml, on the lines marked"
    ):
        read_manifest(write_csv(folder / "m.csv", ["a,a.png,Lympho,one"]), folder / "draft.yaml")


# The images


def test_checked_images_have_digests_and_sizes(folder):
    draw(folder / "wide.png")
    Image.new("RGB", (20, 10)).save(folder / "wide.png")
    Image.new("L", (20, 10)).save(folder / "mask.png")
    rows = ["b,b.png,x,one,", "a,wide.png,x,one,mask.png"]
    dataset = read_manifest(write_csv(folder / "m.csv", rows, "id,path,label,domain,mask_path"))
    checked = check_images(dataset)
    assert checked.size.tolist() == [[20, 10], [16, 16]]
    assert checked.image_digest.tolist() == [image_digest((folder / n).read_bytes()) for n in ("wide.png", "b.png")]
    assert checked.mask_digest.tolist() == [image_digest((folder / "mask.png").read_bytes()), ""]
    assert checked.digest != dataset.digest
    draw(folder / "b.png", seed=9)
    assert check_images(dataset).digest != checked.digest


def test_bad_images_stop_or_are_skipped(folder):
    (folder / "b.png").write_text("text")
    (folder / "c.png").write_bytes((folder / "c.png").read_bytes()[:200])
    rows = [f"{name},{name}.png,x,one" for name in "abcd"]
    dataset = read_manifest(write_csv(folder / "m.csv", rows))
    with pytest.raises(CellfeatError, match=r"b\.png: not a JPEG.*\(and 1 more bad files\)\. --skip-bad leaves"):
        check_images(dataset)
    checked = check_images(dataset, skip_bad=True)
    assert checked.id.tolist() == ["a", "d"]
    assert len(checked.image_digest) == len(checked.path) == len(checked.group) == 2
    write_skipped(folder / "skipped.csv", checked.skipped)
    with (folder / "skipped.csv").open(newline="") as file:
        listed = list(csv.reader(file))
    assert listed[0] == ["id", "path", "reason"]
    assert [line[0] for line in listed[1:]] == ["b", "c"]
    assert "truncated" in listed[2][2]


def test_no_good_image_left(folder):
    (folder / "a.png").write_text("text")
    dataset = read_manifest(write_csv(folder / "m.csv", ["a,a.png,x,one"]))
    with pytest.raises(CellfeatError, match="no good image left of 1. The first: .*a.png: not a"):  # noqa: RUF043
        check_images(dataset, skip_bad=True)


def test_a_mask_of_another_size_and_a_changed_file_are_bad(folder):
    draw(folder / "mask.png", side=8)
    header = "id,path,label,domain,mask_path,sha256"
    good = image_digest((folder / "a.png").read_bytes())
    rows = [f"a,a.png,x,one,,{good}", "b,b.png,x,one,mask.png,", f"c,c.png,x,one,,{good}"]
    dataset = read_manifest(write_csv(folder / "m.csv", rows, header))
    checked = check_images(dataset, skip_bad=True)
    assert checked.id.tolist() == ["a"]
    reasons = [skip.reason for skip in checked.skipped]
    assert "16 x 16 pixels, but its mask has 8 x 8" in reasons[0]
    assert "not the file that the manifest was made for" in reasons[1]


def test_progress_counts_every_image(folder):
    seen = []

    class Bar:
        def __init__(self, total, text):
            seen.append([text, total, 0])

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def advance(self, n=1):
            seen[-1][2] += n

    check_images(read_manifest(write_csv(folder / "m.csv", ["a,a.png,x,one", "b,b.png,x,one"])), progress=Bar)
    assert seen == [["checking images", 2, 2]]


# Writing and joining manifests


def test_written_paths_are_relative_to_the_manifest(folder):
    out = folder / "lists" / "m.csv"
    row = {"id": "a", "path": folder / "a.png", "label": "x", "domain": "one", "extra": "kept"}
    write_manifest(out, [{**row, "id": "b"}, row])
    assert out.read_text().splitlines() == [
        "id,path,label,domain,extra",
        "a,../a.png,x,one,kept",
        "b,../a.png,x,one,kept",
    ]
    assert read_manifest(out).path[0].is_file()
    with pytest.raises(CellfeatError, match="exists and is never overwritten"):
        write_manifest(out, [row])


def test_written_paths_hold_through_a_linked_folder(folder):
    (folder / "real" / "deep").mkdir(parents=True)
    (folder / "link").symlink_to(folder / "real" / "deep")
    out = folder / "link" / "m.csv"
    write_manifest(out, [{"id": "a", "path": folder / "a.png", "label": "x", "domain": "one"}])
    assert np.array_equal(read_rgb(read_manifest(out).path[0]), read_rgb(folder / "a.png"))


def test_merged_manifests_keep_columns_and_rewrite_paths(folder):
    (folder / "sub").mkdir()
    draw(folder / "sub" / "e.png")
    write_csv(folder / "one.csv", ["b,b.png,x,one,7"], "id,path,label,domain,age")
    write_csv(folder / "sub" / "two.csv", ["a,e.png,y,two,e.png"], "id,path,label,domain,mask_path")
    out = folder / "other" / "all.csv"
    assert merge_manifests([folder / "one.csv", folder / "sub" / "two.csv"], out) == 2
    rows = read_rows(out)
    assert [row["id"] for row in rows] == ["a", "b"]
    assert rows[1]["age"] == "7"
    assert rows[0]["mask_path"] == "../sub/e.png"
    assert all(row.path.is_file() for row in rows)


def test_merging_ids_that_clash_names_both_places(folder):
    write_csv(folder / "one.csv", ["a,a.png,x,one"])
    write_csv(folder / "two.csv", ["b,b.png,x,one", "a,a.png,x,one"])
    with pytest.raises(CellfeatError, match=r"id 'a' is in .*one\.csv line 2 and in .*two\.csv line 3"):
        merge_manifests([folder / "one.csv", folder / "two.csv"], folder / "all.csv")
    assert not (folder / "all.csv").exists()


# Published layouts


def test_a_folder_per_class(tmp_path):
    draw(tmp_path / "data" / "monocyte" / "2.png", 2)
    draw(tmp_path / "data" / "basophil" / "slide1" / "1.png", 1)
    draw(tmp_path / "data" / "stray.png")
    result = index_dataset("folders", tmp_path / "data", "clinic")
    assert [(row["id"], row["label"]) for row in result.rows] == [
        ("clinic_basophil_slide1_1", "basophil"),
        ("clinic_monocyte_2", "monocyte"),
    ]
    assert (result.found, result.accepted, result.dropped) == (3, 2, {"in no class folder": 1})
    assert result.rows[0]["sha256"] == image_digest((tmp_path / "data/basophil/slide1/1.png").read_bytes())
    assert (result.rows[0]["width"], result.rows[0]["height"]) == ("16", "16")


def test_files_of_one_name_get_ids_of_their_own(tmp_path):
    draw(tmp_path / "x" / "1.png", 1)
    draw(tmp_path / "x" / "1.bmp", 2)
    result = index_dataset("folders", tmp_path, "clinic")
    assert [row["id"] for row in result.rows] == ["clinic_x/1.bmp", "clinic_x/1.png"]


@pytest.mark.parametrize("inside", ["", "PBC_dataset_normal_DIB"])
def test_acevedo20_goes_by_the_prefix(tmp_path, inside):
    names = ["ig/PMY_1.jpg", "ig/MY_2.jpg", "ig/IG_3.jpg", "neutrophil/SNE_4.jpg", "neutrophil/NEUTROPHIL_5.jpg"]
    names += ["platelet/PLATELET_6.jpg", "neutrophil/odd.jpg", "neutrophil/.DS_7.jpg"]
    for seed, name in enumerate(names):
        draw(tmp_path / inside / name, seed)
    result = index_dataset("acevedo20", tmp_path, "acevedo20")
    assert {str(row["id"]): row["label"] for row in result.rows} == {
        "acevedo20_MY_2": "myelocyte",
        "acevedo20_PMY_1": "promyelocyte",
        "acevedo20_SNE_4": "neutrophil_segmented",
    }
    assert result.dropped == {"IG": 1, "NEUTROPHIL": 1, "PLATELET": 1, "unrecognised name": 1}
    assert result.remarks == ("dropped, as in the published studies: IG, NEUTROPHIL, PLATELET",)


def test_matek19_reads_rgba_tiffs_and_annotations(tmp_path):
    root = tmp_path / "AML-Cytomorphology_LMU"
    colours = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    for number, code in enumerate(["BAS", "MOB", "PMB", "NGS"]):
        path = root / "AML-Cytomorphology" / code / f"{code}_0001.tiff"
        path.parent.mkdir(parents=True)
        rgba = np.dstack([np.roll(colours, number, axis=0), np.full((400, 400), 255, np.uint8)])
        Image.fromarray(rgba).save(path)
    lines = ["BAS/BAS_0001.tiff BAS UNC EOS", "MOB/MOB_0001.tiff MOB nan nan", "NGS/NGS_0001.tiff NGB nan nan"]
    lines += ["NGS/NGS_0002.tiff NGS nan nan"]
    (root / "annotations.dat").write_text("\n".join(lines) + "\n")
    result = index_dataset("matek19", root, "matek19")
    assert [(row["id"], row["label"], row["source_label"]) for row in result.rows] == [
        ("matek19_BAS_0001", "basophil", "BAS"),
        ("matek19_MOB_0001", "monocyte", "MOB"),
        ("matek19_NGS_0001", "neutrophil_segmented", "NGS"),
    ]
    assert [row["reannotation_1"] for row in result.rows] == ["UNC", "", ""]
    assert [row["reannotation_2"] for row in result.rows] == ["EOS", "", ""]
    assert result.dropped == {"PMB": 1}
    assert "1 images have another code in annotations.dat than in their name; the name counts" in result.remarks
    assert "1 images named in annotations.dat are not in the folder" in result.remarks
    assert np.array_equal(read_rgb(result.rows[0]["path"]), colours)


def test_broken_annotations_name_the_line(tmp_path):
    draw(tmp_path / "BAS" / "BAS_0001.tiff")
    (tmp_path / "annotations.dat").write_text("BAS/BAS_0001.tiff BAS nan nan\nBAS\n")
    with pytest.raises(CellfeatError, match=r"annotations\.dat: line 2 is not"):
        index_dataset("matek19", tmp_path, "matek19")


def test_identical_images_are_reported(tmp_path):
    draw(tmp_path / "x" / "1.png", 1)
    draw(tmp_path / "y" / "2.png", 1)
    draw(tmp_path / "y" / "3.png", 3)
    assert index_dataset("folders", tmp_path, "c").duplicates == (("c_x_1", "c_y_2"),)


def test_indexing_stops_at_bad_files_or_lists_them(tmp_path):
    draw(tmp_path / "x" / "1.png", 1)
    (tmp_path / "x" / "2.png").write_text("text")
    with pytest.raises(CellfeatError, match=r"2\.png: not a JPEG.*--skip-bad leaves such files out"):
        index_dataset("folders", tmp_path, "c")
    result = index_dataset("folders", tmp_path, "c", skip_bad=True)
    assert result.accepted == 1
    assert [skip.id for skip in result.bad] == ["c_x_2"]


def test_wrong_requests_to_index(tmp_path):
    with pytest.raises(CellfeatError, match=r"no kind of data set named 'matek'\. Did you mean 'matek19'"):
        index_dataset("matek", tmp_path, "c")
    with pytest.raises(CellfeatError, match="no images in this folder"):
        index_dataset("folders", tmp_path, "c")
    draw(tmp_path / "1.png")
    with pytest.raises(CellfeatError, match=r"none of 1 images fits the layout acevedo20 \(unrecognised name 1\)"):
        index_dataset("acevedo20", tmp_path, "c")
    with pytest.raises(CellfeatError, match="the domain is empty"):
        index_dataset("folders", tmp_path, " ")
    with pytest.raises(CellfeatError, match=r"--domain: domain 'a/b' cannot name a folder: it has the character '/'"):
        index_dataset("folders", tmp_path, "a/b")


@pytest.mark.parametrize("name", ["lab-a", "Labor für Blut (2)", "...", "x" * 100, "検査室" * 20])
def test_domains_that_can_name_a_folder(tmp_path, name):
    assert domain_problem(name) is None
    (tmp_path / name).mkdir()


@pytest.mark.parametrize("name", [".", "\0", "a\x1bb", "a\x85b", "a\u2028b", "a\udcffb", "検" * 80])
def test_domains_that_cannot_name_a_folder(name):
    assert "cannot name a folder" in domain_problem(name)


@pytest.mark.slow
@pytest.mark.real
def test_the_real_acevedo20(real_data):
    result = index_dataset("acevedo20", real_data / "acevedo20", "acevedo20")
    assert (result.found, result.accepted) == (7146, 7086)
    assert result.dropped == {"IG": 20, "NEUTROPHIL": 20, "PLATELET": 20}
    assert not result.bad
    assert not result.duplicates
    listed = read_manifest(real_data / "manifest.csv", domains=["acevedo20"])
    assert [row["id"] for row in result.rows] == listed.id.tolist()
    assert [row["label"] for row in result.rows] == [listed.classes[label] for label in listed.label]


@pytest.mark.real
def test_the_real_five_classes(real_data):
    dataset = read_manifest(real_data / "manifest.csv", "five-class")
    counts = {name: int(np.sum(dataset.domain == name)) for name in dataset.domains}
    assert counts == {"acevedo20": 5006, "bccd": 341, "tecom": 300}
    assert dataset.dropped == {"erythroblast": 748, "metamyelocyte": 500, "myelocyte": 544, "promyelocyte": 288}
    tecom = check_images(read_manifest(real_data / "manifest.csv", domains=["tecom"]))
    assert len(set(tecom.image_digest)) == 299  # tecom_112 and tecom_139 are identical
    assert all(tecom.mask_digest)


# The demo set


def test_the_demo_is_deterministic_and_a_larger_one_begins_with_it(tmp_path):
    one = check_images(read_manifest(write_demo(tmp_path / "one", per_class=1, size=32, seed=5)))
    two = check_images(read_manifest(write_demo(tmp_path / "two", per_class=2, size=32, seed=5)))
    other = check_images(read_manifest(write_demo(tmp_path / "other", per_class=1, size=32, seed=6)))
    assert len(one) == 15
    assert one.domains == ("lab-a", "lab-b", "lab-c")
    assert one.classes == ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
    again = two.select(np.isin(two.id, one.id))
    assert again.image_digest.tolist() == one.image_digest.tolist()
    assert again.mask_digest.tolist() == one.mask_digest.tolist()
    assert again.digest == one.digest
    assert not set(other.image_digest) & set(one.image_digest)
    assert read_mask(one.mask_path[0]).any()
    assert "no photographs" in (tmp_path / "one" / "README.txt").read_text()


def test_the_demo_overwrites_nothing_and_refuses_the_impossible(tmp_path):
    (tmp_path / "here").mkdir()
    with pytest.raises(CellfeatError, match="exists and is never overwritten"):
        write_demo(tmp_path / "here", per_class=1, size=32)
    with pytest.raises(CellfeatError, match="0 cells per class"):
        write_demo(tmp_path / "new", per_class=0)
    with pytest.raises(CellfeatError, match="of 8 px cannot be drawn"):
        write_demo(tmp_path / "new", size=8)
    with pytest.raises(CellfeatError, match="-1 smears per laboratory cannot be drawn; 0 or more"):
        write_demo(tmp_path / "new", smears=-1)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_the_cached_demo_is_drawn_once(tmp_path, monkeypatch):
    monkeypatch.setattr("cellfeat.demo.PER_CLASS", 1)
    monkeypatch.setattr("cellfeat.demo.write_demo", lambda folder, progress: write_demo(folder, 1, 32))
    manifest = demo_manifest(tmp_path)
    monkeypatch.setattr("cellfeat.demo.write_demo", lambda *_, **__: pytest.fail("drawn again"))
    assert demo_manifest(tmp_path) == manifest
    assert len(demo_dataset(tmp_path)) == 15


def test_a_row_without_a_label_is_a_cell_to_be_classified(folder):
    manifest = write_csv(folder / "m.csv", ["a,a.png,basophil,one", "b,b.png,,one", "c,c.png,monocyte,one"])
    for vocabulary in (None, "five-class"):
        dataset = read_manifest(manifest, vocabulary)
        assert [dataset.classes[i] if i >= 0 else None for i in dataset.label] == ["basophil", None, "monocyte"]
        assert any("1 cell has no label: it is neither" in text for text in dataset.notes())


# Classes that are left out


@pytest.fixture
def three(folder):
    rows = ["a,a.png,x,one", "b,b.png,y,one", "c,c.png,x,two", "d,d.png,,one"]
    return read_manifest(write_csv(folder / "m.csv", rows))


def test_classes_of_single_domains_are_left_out(three):
    less = without_classes(three, ["one/x"])
    assert less.id.tolist() == ["b", "c", "d"]
    assert less.classes == three.classes, "a class that is left out everywhere is a class still"
    assert [path.name for path in less.path] == ["b.png", "c.png", "d.png"]
    assert less.digest != three.digest
    assert without_classes(three, ["two/x"]).id.tolist() == ["a", "b", "d"]
    assert without_classes(three, ["one/x", "one/y"]).id.tolist() == ["c", "d"]
    assert without_classes(three, ["one/x", "one/x"]).id.tolist() == ["b", "c", "d"]
    assert without_classes(three, []) is three


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("one/z", "no class in dataset.leave_out named 'z'. Available: x, y. Written as DOMAIN/CLASS"),
        ("x", "dataset.leave_out: x names no cell; domains are one, two, and a class is written as DOMAIN/CLASS"),
        ("two/y", "dataset.leave_out: two/y names no cell; domains are one, two"),
        ("three/x", "dataset.leave_out: three/x names no cell"),
        ("one/", "no class in dataset.leave_out named ''. Available: x, y"),
    ],
)
def test_a_class_to_leave_out_that_is_not_there_is_refused(three, name, text):
    with pytest.raises(CellfeatError) as error:
        without_classes(three, [name])
    assert str(error.value).startswith(text)
