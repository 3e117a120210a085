"""Encoded cells on disk: what is read equals what was appended, and a killed run costs only what it had not written."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cellfeat import store as stores
from cellfeat.errors import CellfeatError
from cellfeat.store import Store, cache_folder, fingerprint
from cellfeat.types import Cells

WAY = {"backbone": "toy", "batch": 16, "frame": [8, "bilinear"]}


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path, WAY)


def digests(*numbers: int) -> list[str]:
    return [f"digest-{number}" for number in numbers]


def pooled(*numbers: int) -> np.ndarray:
    return np.array([[number, number + 0.5] for number in numbers], np.float32)


def versions(store: Store, column: str) -> int:
    import lance

    return len(lance.dataset(str(store.folder / f"{column}.lance")).versions())


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("uint8", (3, 4, 4)),
        ("float32", (2, 3, 5)),
        ("float32", (7,)),
        ("float16", (3,)),
        ("float64", (3,)),
        ("int64", (2,)),
        ("bool", (4, 4)),
        ("bool", (3, 5)),  # 15 bits: the last byte is not full
        ("bool", (1,)),
    ],
)
def test_what_is_read_equals_what_was_appended(store, dtype, shape):
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(6, *shape)) * 100).astype(dtype) if dtype != "bool" else rng.random((6, *shape)) < 0.5
    store.append(digests(*range(4)), {"map": values[:4]})
    store.append(digests(4, 5), {"map": values[4:]})
    column = Store(store.folder.parent, WAY).column("map", digests(*range(6)))
    assert column.shape == (6, *shape)
    assert column.dtype == np.dtype(dtype)
    everything = column.read(np.arange(6))
    assert everything.dtype == np.dtype(dtype)
    assert everything.flags.writeable
    np.testing.assert_array_equal(everything, values)
    for rows in ([5, 0, 3], [2, 2, 5, 2], [1], []):
        got = column.read(np.array(rows, int))
        assert got.shape == (len(rows), *shape)
        assert got.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(got, values[rows])


def test_a_column_follows_the_digests_in_any_order_and_with_repeats(store):
    store.append(digests(1, 2, 3), {"pooled": pooled(1, 2, 3)})
    column = store.column("pooled", digests(3, 1, 3))
    np.testing.assert_array_equal(column.read(np.arange(3)), pooled(3, 1, 3))
    cells = Cells.from_arrays([0, 0, 0]).with_column("pooled", column)
    np.testing.assert_array_equal(cells[[2, 1]].pooled, pooled(3, 1))
    [(rows, batch)] = cells.batches(("pooled",), 3)
    np.testing.assert_array_equal(batch["pooled"].numpy(), pooled(3, 1, 3)[rows])


def test_what_was_read_can_be_changed_without_harm(store):
    store.append(digests(1, 2), {"pooled": pooled(1, 2)})
    column = store.column("pooled", digests(1, 2))
    column.read(np.arange(2))[:] = -1
    np.testing.assert_array_equal(column.read(np.arange(2)), pooled(1, 2))


def test_the_next_run_goes_on_from_the_digests_that_are_there(store):
    wanted = digests(1, 2, 3, 2)
    assert store.missing(["pooled", "mask"], wanted) == digests(1, 2, 3)
    store.append(digests(2), {"pooled": pooled(2), "mask": np.ones((1, 3, 3), bool)})
    store.append(digests(3), {"pooled": pooled(3)})
    again = Store(store.folder.parent, WAY)
    assert again.missing(["pooled"], wanted) == digests(1)
    assert again.missing(["pooled", "mask"], wanted) == digests(1, 3)
    assert again.missing([], wanted) == []
    with pytest.raises(CellfeatError, match="lacks mask of 2 images; encode them first"):
        again.column("mask", wanted)
    with pytest.raises(CellfeatError, match="lacks crop of 3 images"):
        again.column("crop", wanted)


def test_a_digest_that_is_there_keeps_its_values(store):
    store.append(digests(1, 2), {"pooled": pooled(1, 2)})
    store.append(digests(2, 3), {"pooled": pooled(90, 3)})
    np.testing.assert_array_equal(store.column("pooled", digests(1, 2, 3)).read(np.arange(3)), pooled(1, 2, 3))
    before = versions(store, "pooled")
    store.append(digests(3, 1), {"pooled": pooled(91, 92)})
    assert versions(store, "pooled") == before


def test_a_digest_twice_in_one_batch_is_kept_once(store):
    store.append(digests(1, 2, 1), {"pooled": pooled(1, 2, 90)})
    assert store.rows("pooled") == {"digest-1": 0, "digest-2": 1}
    np.testing.assert_array_equal(store.column("pooled", digests(1, 2)).read(np.arange(2)), pooled(1, 2))


def test_two_runs_that_write_at_once_read_the_right_rows(tmp_path):
    one, two = Store(tmp_path, WAY), Store(tmp_path, WAY)
    one.append(digests(1), {"pooled": pooled(1)})
    two.rows("pooled")
    one.append(digests(2, 3), {"pooled": pooled(2, 3)})
    two.append(digests(4), {"pooled": pooled(4)})
    one.append(digests(5), {"pooled": pooled(5)})
    for store in (one, two, Store(tmp_path, WAY)):
        column = store.column("pooled", digests(5, 4, 3, 2, 1))
        np.testing.assert_array_equal(column.read(np.arange(5)), pooled(5, 4, 3, 2, 1))


def test_two_runs_that_create_a_column_at_once_both_go_on(tmp_path, monkeypatch):
    one, two = Store(tmp_path, WAY), Store(tmp_path, WAY)
    really_open = Store._open

    def late(self, column):  # the other run creates it between the look and the write
        found = really_open(self, column)
        if self is one and found is None and not two.rows(column):
            two.append(digests(1, 2), {column: pooled(1, 2)})
        return found

    monkeypatch.setattr(Store, "_open", late)
    one.append(digests(2, 3), {"pooled": pooled(90, 3)})
    monkeypatch.undo()
    for store in (one, two, Store(tmp_path, WAY)):  # digest 2 is there twice; the first stands
        column = store.column("pooled", digests(3, 2, 1))
        np.testing.assert_array_equal(column.read(np.arange(3)), pooled(3, 2, 1))


def test_runs_that_create_a_column_at_the_same_moment_lose_no_row(tmp_path):
    """Of two creations Lance lets the later one replace the earlier."""
    for trial in range(4):
        start, runs = threading.Barrier(4), [Store(tmp_path / str(trial), WAY) for _ in range(4)]

        def create(number, start=start, runs=runs):
            start.wait(30)
            runs[number].append(digests(number), {"pooled": pooled(number)})

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(create, range(4)))
        for store in (*runs, Store(tmp_path / str(trial), WAY)):
            column = store.column("pooled", digests(0, 1, 2, 3))
            np.testing.assert_array_equal(column.read(np.arange(4)), pooled(0, 1, 2, 3))


def test_rows_that_another_run_moved_are_found(store):
    """Joining fragments while another run appends may change their order, as many rows as before."""
    import lance

    store.append(digests(1, 2), {"pooled": pooled(1, 2)})
    store.append(digests(3), {"pooled": pooled(3)})
    store.rows("pooled")
    path = str(store.folder / "pooled.lance")
    dataset = lance.dataset(path)
    turned = [fragment.metadata for fragment in reversed(dataset.get_fragments())]
    lance.LanceDataset.commit(
        path, lance.LanceOperation.Overwrite(dataset.schema, turned), read_version=dataset.version
    )
    assert lance.dataset(path).to_table().column("digest").to_pylist() == digests(3, 1, 2)
    np.testing.assert_array_equal(store.column("pooled", digests(1, 2, 3)).read(np.arange(3)), pooled(1, 2, 3))


def test_digests_are_not_read_again_after_every_append(store, monkeypatch):
    import lance

    store.append(digests(0), {"pooled": pooled(0)})
    monkeypatch.setattr(lance.LanceDataset, "to_table", lambda *args, **options: pytest.fail("read everything again"))
    for number in range(1, 4):
        store.append(digests(number), {"pooled": pooled(number)})
        assert store.missing(["pooled"], digests(*range(5))) == digests(*range(number + 1, 5))
    np.testing.assert_array_equal(store.column("pooled", digests(2)).read(np.arange(1)), pooled(2))


def test_a_kill_before_the_commit_loses_only_that_batch(store, monkeypatch):
    """The data files of a version are written before its manifest; without the manifest they count for nothing."""
    store.append(digests(1, 2), {"pooled": pooled(1, 2)})
    folder = store.folder / "pooled.lance"
    manifests = set((folder / "_versions").glob("*.manifest"))
    store.append(digests(3), {"pooled": pooled(3)})
    for path in set((folder / "_versions").glob("*.manifest")) - manifests:
        path.unlink()
    (folder / "_versions" / "latest_version_hint.json").unlink(missing_ok=True)
    assert len(list((folder / "data").iterdir())) == 2
    again = Store(store.folder.parent, WAY)
    assert again.missing(["pooled"], digests(1, 2, 3)) == digests(3)
    again.append(digests(3), {"pooled": pooled(30)})
    np.testing.assert_array_equal(again.column("pooled", digests(3, 1)).read(np.arange(2)), pooled(30, 1))


def test_a_kill_before_the_first_commit_leaves_a_store_that_can_be_used(store):
    store.append(digests(1), {"pooled": pooled(1)})
    folder = store.folder / "pooled.lance"
    shutil.rmtree(folder / "_versions")
    (folder / "_versions").mkdir()
    (folder / "_versions" / ".tmp_1").write_text("half a manifest")
    again = Store(store.folder.parent, WAY)
    assert again.missing(["pooled"], digests(1)) == digests(1)
    again.append(digests(1), {"pooled": pooled(7)})
    np.testing.assert_array_equal(again.column("pooled", digests(1)).read(np.arange(1)), pooled(7))


def test_an_error_in_one_batch_leaves_the_earlier_ones(store, monkeypatch):
    import lance

    store.append(digests(1), {"pooled": pooled(1)})

    def full(*args, **options):
        raise OSError("No space left on device")

    monkeypatch.setattr(lance, "write_dataset", full)
    with pytest.raises(OSError, match="No space left"):
        store.append(digests(2), {"pooled": pooled(2)})
    with pytest.raises(OSError, match="No space left"):
        store.append(digests(2), {"mask": np.ones((1, 2, 2), bool)})
    monkeypatch.undo()
    assert store.missing(["pooled"], digests(1, 2)) == digests(2)


def test_values_of_another_shape_or_dtype_are_refused(store):
    store.append(digests(1), {"map": np.zeros((1, 2, 3), np.float32)})
    for shape, dtype in (((3, 2), "float32"), ((2, 3), "float16")):
        message = rf"holds map as float32 \[2, 3\], but was given {dtype} \{list(shape)}; move the folder away"
        with pytest.raises(CellfeatError, match=message):
            store.append(digests(2), {"map": np.zeros((1, *shape), dtype)})
    assert store.missing(["map"], digests(1, 2)) == digests(2)


def test_every_way_of_encoding_has_its_own_store(tmp_path):
    one, two = Store(tmp_path, WAY), Store(tmp_path, WAY | {"batch": 8})
    one.append(digests(1), {"pooled": pooled(1)})
    assert one.folder != two.folder
    assert two.missing(["pooled"], digests(1)) == digests(1)
    assert Store(tmp_path, dict(reversed(WAY.items()))).folder == one.folder
    assert json.loads((one.folder / "store.json").read_text()) == {"layout": stores.LAYOUT, **WAY}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 8}, "was written with batch=8, this run needs 16; move the folder away"),
        ({"frame": [8, "area"]}, r"was written with frame=\[8, 'area'\], this run needs \[8, 'bilinear'\]"),
        ({"extra": 1}, "was written with extra=1, this run needs None"),
    ],
)
def test_a_store_of_another_description_is_refused_by_field_and_both_values(store, change, message):
    path = store.folder / "store.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CellfeatError, match=message):
        Store(store.folder.parent, WAY)


def test_a_fingerprint_is_of_content_not_of_order():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": [1, 2]}) != fingerprint({"a": [2, 1]})


def test_the_cache_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv("CELLFEAT_CACHE", "")
    assert cache_folder().name == "cellfeat"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CELLFEAT_CACHE", "~/cells")
    assert cache_folder() == tmp_path / "cells"
