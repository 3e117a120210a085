"""Feature files: what stands in them, bit for bit both ways, written whole or not at all, refused in one line."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from cellfeat import CellfeatError, feature_parquet
from cellfeat.feature_files import FeatureTable
from cellfeat.types import ArrayColumn

ABOUT = {
    "features": "pooled",
    "segmenter": None,
    "backbone": {"name": "colour", "bins": 3, "cell_only": True, "factor": 0.5},
    "weights_saw": ["drawn cells", "others"],
    "mixed": [1, "two", None],
    "empty": [],
    "frame": [16, 16],
    "nested": {"a/b": 1, "none": None, "list": [{"x": 1}]},
}
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
BITS = st.integers(0, 2**32 - 1)  # any float32, the numbers that are none and the smallest ones among them


@st.composite
def tables(draw) -> FeatureTable:
    ids = draw(st.lists(TEXT.filter(bool), min_size=1, max_size=4, unique=True))
    n, width = len(ids), draw(st.integers(1, 3))
    texts = {name: draw(st.lists(TEXT, min_size=n, max_size=n)) for name in ("domain", "label", "group")}
    rows = {"id": np.array(ids), **{name: np.array(values, dtype=str) for name, values in texts.items()}}
    rows["mask_quality"] = np.linspace(0, 1, n, dtype=np.float32)
    rows["image_sha256"] = np.array([f"{i:064x}" for i in range(n)])
    bits = draw(st.lists(BITS, min_size=n * width, max_size=n * width))
    vectors = np.array(bits, dtype=np.uint32).view(np.float32).reshape(n, width)
    return FeatureTable(rows, ArrayColumn(vectors), {**ABOUT, "said": draw(TEXT)})


def table(count: int = 5, width: int = 4, **about) -> FeatureTable:
    rng = np.random.default_rng(0)
    rows = {
        "id": np.array([f"c{i}" for i in range(count)]),
        "domain": np.array([f"lab-{'ab'[i % 2]}" for i in range(count)]),
        "label": np.array([("", "monocyte")[i % 2] for i in range(count)]),
        "group": np.array([f"p{i // 2}" for i in range(count)]),
        "image_sha256": np.array([f"{i:064x}" for i in range(count)]),
    }
    return FeatureTable(rows, ArrayColumn(rng.normal(size=(count, width)).astype(np.float32)), {**ABOUT, **about})


def bits(values: np.ndarray) -> np.ndarray:
    return values.view(np.uint32)


def assert_same(one: FeatureTable, other: FeatureTable) -> None:
    assert list(one.rows) == list(other.rows)
    for name, values in one.rows.items():
        assert values.dtype.kind == other.rows[name].dtype.kind, name
        assert values.tolist() == other.rows[name].tolist(), name
    every = np.arange(len(one))
    np.testing.assert_array_equal(bits(one.vectors.read(every)), bits(other.vectors.read(every)))
    assert one.vectors.dtype == other.vectors.dtype == np.float32
    assert one.provenance == other.provenance


@pytest.mark.parametrize("ending", ["parquet", "h5ad"])
def test_every_text_and_every_bit_comes_back(tmp_path, ending):
    count = iter(range(1000))

    @settings(max_examples=20, deadline=None)
    @given(tables())
    def check(written):
        path = tmp_path / f"{next(count)}.{ending}"
        written.write(path)
        assert_same(written, FeatureTable.read(path))

    check()


@pytest.mark.parametrize("ending", ["parquet", "h5ad"])
def test_any_rows_in_any_order_are_read_from_any_group(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(feature_parquet, "ROWS_PER_GROUP", 3)
    written, path = table(11), tmp_path / f"f.{ending}"
    written.write(path)
    if ending == "parquet":
        assert pq.ParquetFile(path).num_row_groups == 4
    vectors = FeatureTable.read(path).vectors
    assert vectors.shape == (11, 4)
    for rows in ([10, 0, 5, 5], [2, 3, 4], [], [7]):
        np.testing.assert_array_equal(vectors.read(np.array(rows, int)), written.vectors.read(np.array(rows, int)))


def test_anndata_has_what_scanpy_looks_for(tmp_path):
    path = tmp_path / "f.h5ad"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table(400, 300).write(path)
        data = anndata.read_h5ad(path)
    assert list(data.var_names[:2]) == ["f0", "f1"]
    assert list(data.obs.columns) == ["domain", "label", "group", "image_sha256"]
    assert data.obs.domain.dtype == "category"
    assert list(data.obs.label.cat.categories) == ["", "monocyte"]
    np.testing.assert_array_equal(data.X, data.obsm["X_cellfeat"])
    assert path.stat().st_size < 1.5 * data.X.nbytes, "one block of bytes with two names"
    about = data.uns["cellfeat"]
    assert (about["backbone"]["name"], about["backbone"]["bins"], about["backbone"]["cell_only"]) == ("colour", 3, True)
    assert list(about["weights_saw"]) == ["drawn cells", "others"]
    assert list(about["frame"]) == [16, 16]
    assert "segmenter" not in about
    assert "a/b" not in about["nested"]
    assert json.loads(about["mixed"]) == [1, "two", None]
    assert json.loads(about["json"]) == ABOUT


def test_what_scanpy_does_to_x_does_not_reach_the_features(tmp_path):
    written = table()
    written.write(tmp_path / "f.h5ad")
    data = anndata.read_h5ad(tmp_path / "f.h5ad")
    data.X = data.X - data.X.mean(0)
    data.obs["cluster"] = pandas.Categorical([None, "1", "0", "1", "0"])
    data[[3, 1]].copy().write_h5ad(tmp_path / "changed.h5ad")
    found = FeatureTable.read(tmp_path / "changed.h5ad")
    np.testing.assert_array_equal(found.vectors.read(np.arange(2)), written.vectors.read(np.array([3, 1])))
    assert found.rows["cluster"].tolist() == ["1", "1"]
    data.write_h5ad(tmp_path / "whole.h5ad")
    assert FeatureTable.read(tmp_path / "whole.h5ad").rows["cluster"].tolist() == ["", "1", "0", "1", "0"]


def test_files_of_earlier_versions_are_read(tmp_path):
    rows, vectors = table().rows, table().vectors.read(np.arange(5))
    about = {"backbone": {"name": "colour"}}
    columns = {name: pa.array(rows[name]) for name in ("id", "domain", "label", "group")}
    columns |= {f"f{i}": pa.array(vectors[:, i]) for i in range(4)}
    old = pa.table(columns).replace_schema_metadata({"cellfeat": json.dumps(about)})
    pq.write_table(old, tmp_path / "old.parquet")
    obs = pandas.DataFrame({name: rows[name] for name in ("domain", "label", "group")}, index=rows["id"].astype(object))
    anndata.AnnData(X=vectors, obs=obs, uns={"cellfeat": json.dumps(about)}).write_h5ad(tmp_path / "old.h5ad")
    for name in ("old.parquet", "old.h5ad"):
        found = FeatureTable.read(tmp_path / name)
        assert (found.provenance, found.features) == (about, "pooled")
        assert [found.rows[name].tolist() for name in columns if name in rows] == [
            rows[name].tolist() for name in columns if name in rows
        ]
        np.testing.assert_array_equal(found.vectors.read(np.arange(5)), vectors)
    assert FeatureTable(rows, ArrayColumn(vectors), {"pipeline": "lab-a"}).features == "aligned"


def test_the_seal_tells_of_every_change():
    sealed = table().sealed()
    assert sealed.provenance["content_sha256"] == sealed.content_sha256()
    every = np.arange(5)
    changes = [
        FeatureTable({**sealed.rows, "image_sha256": sealed.rows["image_sha256"][::-1]}, sealed.vectors, {}),
        FeatureTable(sealed.rows, ArrayColumn(sealed.vectors.read(every)[::-1]), {}),
        FeatureTable(sealed.rows, ArrayColumn(sealed.vectors.read(every)[:, :3]), {}),
        FeatureTable({**sealed.rows, "mask_quality": np.ones(5, np.float32)}, sealed.vectors, {}),
    ]
    digests = {change.content_sha256() for change in changes}
    assert len(digests) == 4
    assert sealed.content_sha256() not in digests
    renamed = FeatureTable({**sealed.rows, "id": sealed.rows["group"]}, sealed.vectors, {})
    assert renamed.content_sha256() == sealed.content_sha256(), "a store knows no names"


class Breaking:
    shape, dtype = (5, 4), np.dtype(np.float32)

    def read(self, rows):
        if len(rows):
            raise RuntimeError("no more")
        return np.empty((0, 4), np.float32)


@pytest.mark.parametrize("ending", ["parquet", "h5ad"])
def test_a_file_is_whole_or_absent_and_never_replaced(tmp_path, ending):
    path = tmp_path / f"f.{ending}"
    with pytest.raises(RuntimeError, match="no more"):
        FeatureTable(table().rows, Breaking(), {}).write(path)
    assert list(tmp_path.iterdir()) == []
    path.write_text("mine")
    with pytest.raises(CellfeatError, match="exists and is never overwritten"):
        table().write(path)
    assert path.read_text() == "mine"


def test_columns_of_other_lengths_are_no_table():
    with pytest.raises(ValueError, match="differ in length"):
        FeatureTable({"id": np.array(["a"])}, ArrayColumn(np.zeros((2, 3), np.float32)), {})


def parquet(path: Path, about: dict | None = ABOUT, **columns) -> Path:
    made = pa.table({"id": ["a", "b"], "f0": np.zeros(2, np.float32), **columns})
    pq.write_table(made.replace_schema_metadata({"cellfeat": json.dumps(about)} if about else None), path)
    return path


def h5ad(path: Path, x, **uns) -> Path:
    anndata.AnnData(X=x, uns=uns).write_h5ad(path)
    return path


def text(path: Path) -> Path:
    path.write_text("id,label\n")
    return path


TOLD = {"cellfeat": {"json": "{}"}}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: p / "f.csv", r"a feature file ends in \.parquet or \.h5ad"),
        (lambda p: p / "f.parquet", "no such file"),
        (lambda p: text(p / "f.parquet"), "cannot be read as Parquet: it is none, or damaged"),
        (lambda p: text(p / "f.h5ad"), r"cannot be read as \.h5ad: it is no HDF5 file"),
        (lambda p: parquet(p / "f.parquet", None), "is no feature file: it has no key 'cellfeat'"),
        (lambda p: parquet(p / "f.parquet", f2=np.zeros(2, np.float32)), "not f0, f1, … without a gap"),
        (lambda p: parquet(p / "f.parquet", f1=np.zeros(2)), "features of type double, float, not float32"),
        (lambda p: parquet(p / "f.parquet", label=["x", None]), "1 cells have no label"),
        (lambda p: parquet(p / "f.parquet", label=[["x"], []]), "label is of type list.*; possible are texts, numbers"),
        (lambda p: h5ad(p / "f.h5ad", np.zeros((2, 3), np.float32)), 'it has no uns\\["cellfeat"\\]'),
        (lambda p: h5ad(p / "f.h5ad", np.zeros((2, 3)), **TOLD), r"X is float64 \(2, 3\), not float32"),
        (lambda p: h5ad(p / "f.h5ad", scipy.sparse.csr_matrix((2, 3)), **TOLD), "X is a sparse matrix, or nothing"),
    ],
)
def test_what_is_no_feature_file_is_refused_in_one_line(tmp_path, make, said):
    with pytest.raises(CellfeatError, match=said) as error:
        FeatureTable.read(make(tmp_path))
    assert "\n" not in str(error.value)


def test_what_a_form_cannot_hold_is_refused_and_nothing_is_left(tmp_path):
    rows = table().rows
    bad = FeatureTable({**rows, "group": np.array(["a", "b\0c", "d", "e", "f"])}, table().vectors, {})
    with pytest.raises(CellfeatError, match=r"the group 'b\\x00c' has a zero byte, which \.h5ad cannot hold"):
        bad.write(tmp_path / "f.h5ad")
    bad = FeatureTable({**rows, "p_a/b": rows["id"]}, table().vectors, {})
    with pytest.raises(CellfeatError, match=r"\.h5ad cannot hold a column called 'p_a/b'; rename it"):
        bad.write(tmp_path / "f.h5ad")
    bad = FeatureTable({**rows, "f7": rows["id"]}, table().vectors, {})
    with pytest.raises(CellfeatError, match="a column about the cells is called f7, as a feature is"):
        bad.write(tmp_path / "f.parquet")
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_closed_between_reads(tmp_path):
    table().write(tmp_path / "f.h5ad")
    found = FeatureTable.read(tmp_path / "f.h5ad")
    with h5py.File(tmp_path / "f.h5ad", "r+") as file:
        file.attrs["mine"] = 1
    assert found.vectors.read(np.array([1])).shape == (1, 4)
