"""Converting features: nothing is lost on the way, what was computed elsewhere is found, a store keeps its identity."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import cache_in
from hypothesis import given, settings
from test_feature_files import assert_same, table, tables

from cellfeat import CellfeatError, cli, recipe, use
from cellfeat.console import SilentReporter
from cellfeat.conversion import convert, of_store
from cellfeat.demo import write_demo
from cellfeat.encoding import BatchEncoder
from cellfeat.feature_files import FeatureTable
from cellfeat.registry import installed
from cellfeat.run import run
from cellfeat.store import QUALITY, Store
from cellfeat.types import ArrayColumn
from cellfeat.workplace import Workplace

ENCODING = {"backbone": {"name": "toy", "parameters": {"bins": 3}}, "weights_sha256": None, "device": "cpu", "batch": 4}


@pytest.fixture(scope="module")
def machine_a(tmp_path_factory) -> Path:
    """A folder with the cells' manifest, their features, a finished run and what was encoded for it in `a`."""
    folder = tmp_path_factory.mktemp("machine")
    manifest = write_demo(folder / "demo", per_class=4, size=32)
    with cache_in(folder / "a"):
        use.extract(recipe_of(manifest), folder / "features.parquet", workplace())
        run(recipe_of(manifest), folder / "run", workplace(), pictures=False)
        use.transform(folder / "run", str(manifest), folder / "aligned.parquet", None, False, workplace())
    return folder


def recipe_of(manifest: Path) -> recipe.Recipe:
    content = {"dataset": {"manifest": str(manifest)}, "backbone": {"name": "colour", "bins": 3}}
    return recipe.parse({**content, "classifier": {"name": "lr"}, "protocol": {"folds": 2, "source": ["lab-a"]}})


def workplace() -> Workplace:
    return Workplace(installed(), SilentReporter(), "cpu")


def enters(count: int = 5, width: int = 4, **about) -> FeatureTable:
    """A table that a store takes."""
    made = table(count, width, **{"encoding": ENCODING, **about})
    quality = {"mask_quality": np.linspace(0, 1, count, dtype=np.float32)}
    return FeatureTable({**made.rows, **quality}, made.vectors, made.provenance).sealed()


def written(made: FeatureTable, path: Path) -> Path:
    made.write(path)
    return path


def store_of(folder: Path) -> Path:
    [found] = (folder / "stores").glob("*/store.json")
    return found.parent


@pytest.mark.parametrize("ending", ["parquet", "h5ad"])
def test_what_one_machine_has_encoded_another_does_not_encode_again(machine_a, tmp_path, monkeypatch, ending):
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "b"))
    file, manifest = machine_a / "features.parquet", machine_a / "demo" / "manifest.csv"
    if ending == "h5ad":
        convert(file, str(tmp_path / "features.h5ad"))
        file = tmp_path / "features.h5ad"
    done = convert(file, "cache")
    assert (done.cells, done.added, done.where) == (60, 60, store_of(tmp_path / "b"))
    assert (convert(file, "cache").added, done.differs) == (0, ())

    def encode(*_):
        raise AssertionError("it is encoded again")

    with monkeypatch.context() as patched:
        patched.setattr(BatchEncoder, "compute", encode)
        use.extract(recipe_of(manifest), tmp_path / "again.parquet", workplace())
    assert_same(FeatureTable.read(tmp_path / "again.parquet"), FeatureTable.read(machine_a / "features.parquet"))


def test_another_encoding_finds_nothing_of_it(machine_a, tmp_path, monkeypatch):
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "b"))
    convert(machine_a / "features.parquet", "cache")
    other = recipe_of(machine_a / "demo" / "manifest.csv")
    other = recipe.parse({**other.as_dict(), "backbone": {"name": "colour", "bins": 4}})
    use.extract(other, tmp_path / "other.parquet", workplace())
    assert len(list((tmp_path / "b" / "stores").glob("*/store.json"))) == 2


def test_other_versions_are_told_of(machine_a, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "b"))
    was = FeatureTable.read(machine_a / "features.parquet")
    older = without(was, encoding={**was.provenance["encoding"], "torch": "2.0", "pillow": "1.0"})
    monkeypatch.setattr(sys, "argv", ["cellfeat", "convert", str(written(older, tmp_path / "f.parquet")), "cache"])
    with pytest.raises(SystemExit):
        cli.main()
    said = " ".join(capsys.readouterr().err.split())
    assert "note: runs here will encode again, as features differ with versions: pillow 1.0, here " in said
    assert "; torch 2.0, here " in said


def test_a_store_with_its_manifest_is_what_extract_wrote(machine_a, tmp_path, monkeypatch):
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "c"))
    store, manifest = store_of(machine_a / "a"), machine_a / "demo" / "manifest.csv"
    convert(store, str(tmp_path / "named.h5ad"), data=str(manifest))
    found, was = FeatureTable.read(tmp_path / "named.h5ad"), FeatureTable.read(machine_a / "features.parquet")
    assert_same(FeatureTable(found.rows, found.vectors, {}), FeatureTable(was.rows, was.vectors, {}))
    for key in ("features", "encoding", "weights_sha256", "dataset", "content_sha256", "versions", "segmenter"):
        assert found.provenance[key] == was.provenance[key]
    assert found.provenance["backbone"] == was.provenance["backbone"]
    assert found.provenance["weights_saw"] is None, "a store does not know"


def test_a_store_alone_gives_digests_as_ids(machine_a, tmp_path):
    found, was = of_store(store_of(machine_a / "a")), FeatureTable.read(machine_a / "features.parquet")
    assert found.rows["id"].tolist() == sorted(was.rows["image_sha256"].tolist())
    assert found.rows["id"].tolist() == found.rows["image_sha256"].tolist() == found.rows["group"].tolist()
    assert set(found.rows["label"]) == set(found.rows["domain"]) == {""}
    order = np.argsort(was.rows["image_sha256"])
    np.testing.assert_array_equal(found.vectors.read(np.arange(60)), was.vectors.read(order))


def test_every_table_goes_to_the_other_form_and_back(tmp_path):
    count = iter(range(1000))

    @settings(max_examples=12, deadline=None)
    @given(tables())
    def check(made):
        names = [tmp_path / f"{next(count)}.{ending}" for ending in ("parquet", "h5ad", "parquet")]
        made.write(names[0])
        convert(names[0], str(names[1]))
        convert(names[1], str(names[2]))
        assert_same(made, FeatureTable.read(names[2]))

    check()


def test_every_vector_goes_into_a_store_and_back(tmp_path):
    made = enters(7, 3)
    odd = np.array([[np.nan, -0.0, 1e-45], [np.inf, -np.inf, 3e38]], np.float32)
    vectors = np.concatenate([made.vectors.read(np.arange(5)), odd])
    made = FeatureTable(made.rows, ArrayColumn(vectors), made.provenance).sealed()
    done = convert(written(made, tmp_path / "f.parquet"), str(tmp_path / "mine"))
    assert (done.where, done.cells, done.added, done.width) == (tmp_path / "mine", 7, 7, 3)
    assert done.encoding == "backbone toy, device cpu, batch 4"
    found = of_store(tmp_path / "mine")
    np.testing.assert_array_equal(found.vectors.read(np.arange(7)).view(np.uint32), vectors.view(np.uint32))
    np.testing.assert_array_equal(found.rows["mask_quality"], made.rows["mask_quality"])
    assert (found.provenance["encoding"], found.provenance["features"]) == (ENCODING, "pooled")
    assert found.provenance["content_sha256"] == made.provenance["content_sha256"]
    convert(tmp_path / "mine", str(tmp_path / "other-store"))
    assert_same(found, of_store(tmp_path / "other-store"))


def test_a_store_is_filled_where_it_was_left(tmp_path):
    made = enters(6)
    rows = {name: values[:4] for name, values in made.rows.items()}
    first = FeatureTable(rows, ArrayColumn(made.vectors.read(np.arange(4))), made.provenance).sealed()
    folder = tmp_path / "store"
    assert convert(written(first, tmp_path / "first.parquet"), str(folder)).added == 4
    done = convert(written(made, tmp_path / "all.parquet"), str(folder))
    assert (done.cells, done.added) == (6, 2)
    np.testing.assert_array_equal(of_store(folder).vectors.read(np.arange(6)), made.vectors.read(np.arange(6)))


def test_aligned_features_never_enter_a_store(machine_a, tmp_path):
    aligned = FeatureTable.read(machine_a / "aligned.parquet")
    assert aligned.features == "aligned"
    with pytest.raises(CellfeatError, match=r"holds aligned features, .* a store holds what a backbone computed"):
        convert(machine_a / "aligned.parquet", str(tmp_path / "store"))
    convert(machine_a / "aligned.parquet", str(tmp_path / "aligned.h5ad"))
    with pytest.raises(CellfeatError, match="holds aligned features"):
        convert(tmp_path / "aligned.h5ad", "cache")
    assert not (tmp_path / "store").exists()


def without(made: FeatureTable, *names: str, **about) -> FeatureTable:
    rows = {name: values for name, values in made.rows.items() if name not in names}
    provenance = {key: value for key, value in made.provenance.items() if key not in names}
    return FeatureTable(rows, made.vectors, {**provenance, **about})


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (without(enters(), "encoding"), "does not say how its features were encoded"),
        (without(enters(), "image_sha256"), "does not say of which images its features are"),
        (without(enters(), "content_sha256"), "has been changed since its features were extracted"),
        (without(enters(), "mask_quality"), "has been changed since its features were extracted"),
        (FeatureTable(enters().rows, ArrayColumn(np.ones((5, 4), np.float32)), enters().provenance), "been changed"),
        (
            FeatureTable({**enters().rows, "image_sha256": enters().rows["id"]}, enters().vectors, enters().provenance),
            "image_sha256 'c0' is no SHA-256",
        ),
    ],
)
def test_features_of_unknown_origin_are_refused_before_anything_is_written(tmp_path, made, said):
    with pytest.raises(CellfeatError, match=said) as error:
        convert(written(made, tmp_path / "f.parquet"), str(tmp_path / "store"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "store").exists()


def test_a_store_of_another_encoding_or_width_is_refused_with_both_values(tmp_path):
    convert(written(enters(), tmp_path / "f.parquet"), str(tmp_path / "store"))
    other = written(enters(encoding={**ENCODING, "batch": 8}), tmp_path / "other.parquet")
    with pytest.raises(CellfeatError, match="was written with batch=4, this run needs 8"):
        convert(other, str(tmp_path / "store"))
    narrow = written(enters(6, 3), tmp_path / "narrow.parquet")
    with pytest.raises(CellfeatError, match=r"holds pooled as float32 \[4\], but was given float32 \[3\]"):
        convert(narrow, str(tmp_path / "store"))


@pytest.fixture
def given_files(machine_a, tmp_path) -> Path:
    """A folder with every kind of thing to convert from and to."""
    for name in ("features.parquet", "aligned.parquet"):
        shutil.copy(machine_a / name, tmp_path / name)
    shutil.copytree(store_of(machine_a / "a"), tmp_path / "store")
    for name in ("empty", "full", "damaged", "imageless"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    (tmp_path / "damaged" / "store.json").write_text("{")
    Store.at(tmp_path / "imageless", ENCODING).append(["a" * 64], {QUALITY: np.ones(1, np.float32)})
    Store.at(tmp_path / "old", ENCODING)
    text = (tmp_path / "old" / "store.json").read_text()
    (tmp_path / "old" / "store.json").write_text(text.replace('"layout": 2', '"layout": 1'))
    for name in ("cells.csv", "plain"):
        (tmp_path / name).write_text("id,path,label,domain\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent", "f.parquet"], "absent: no such file or folder"),
        (["features.parquet", "other.parquet"], "features.parquet and other.parquet have the same form"),
        (["features.parquet", "f.csv"], "f.csv: features are written as .parquet, .h5ad, into the folder of a store"),
        (["features.parquet", "full"], "full is there and is no store (it has no store.json)"),
        (["features.parquet", "plain"], "plain is there and is no store"),
        (["features.parquet", "s", "--data", "cells.csv"], "--data and --labels belong to a store"),
        (["store", "f.parquet", "--labels", "five-class"], "--labels belongs to --data"),
        (["store", "features.parquet"], "features.parquet exists and is never overwritten"),
        (["full", "f.parquet"], "full is no store: it has no store.json"),
        (["damaged", "f.parquet"], "damaged/store.json is damaged"),
        (["imageless", "f.parquet"], "the store imageless has no pooled vectors"),
        (["old", "f.parquet"], "was written with layout=1, this run needs 2"),
    ],
)
def test_a_mistake_is_one_line(given_files, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(given_files)
    monkeypatch.setattr(sys, "argv", ["cellfeat", "convert", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    assert said in err.strip()
    assert len(err.strip().splitlines()) == 1


def test_an_image_that_the_store_lacks_is_told(machine_a, tmp_path, monkeypatch):
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "cache"))
    other = write_demo(tmp_path / "other", per_class=1, size=32, seed=7)
    with pytest.raises(CellfeatError, match="lacks pooled of 15 images; encode them first"):
        convert(store_of(machine_a / "a"), str(tmp_path / "f.parquet"), data=str(other))


def test_the_command_says_what_it_did(given_files, monkeypatch, capsys):
    monkeypatch.chdir(given_files)
    monkeypatch.setenv("CELLFEAT_CACHE", str(given_files / "here"))

    def said(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["cellfeat", "convert", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
        return capsys.readouterr().err

    width = FeatureTable.read(given_files / "features.parquet").width
    assert f"f.h5ad: 60 cells × {width} features" in said("features.parquet", "f.h5ad")
    first = said("f.h5ad", "empty")
    assert f"empty: 60 images × {width} features added, 0 were there" in first
    assert "with just this encoding: backbone colour, device cpu, precision float32" in first
    assert "0 images" in said("f.h5ad", "empty")
    assert "60 images" in said("store", "cache")
