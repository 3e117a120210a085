"""Encoding in batches: of one size, halved where memory runs out; written meanwhile, compacted, in half the bytes."""

from __future__ import annotations

import json
import threading
import time
from datetime import datetime, timedelta

import numpy as np
import pytest
import torch
from PIL import Image

from cellfeat import CellfeatError, Features, writing
from cellfeat import store as stores
from cellfeat.batch_size import BatchSize, is_out_of_memory, usual_batch
from cellfeat.encoding import BatchEncoder
from cellfeat.extract import Encoder, decoded
from cellfeat.images import image_digest
from cellfeat.store import Store
from cellfeat.types import ArrayColumn


class Pixels:
    """The images as a token map; remembers what it was given."""

    image_size, interpolation = 8, "area"

    def __init__(self, most: int = 1000) -> None:
        self.most, self.sizes, self.layouts = most, [], []

    def encode(self, images):
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.sizes.append(len(images))
        self.layouts.append(images.is_contiguous())
        return Features(images.float() / 3, images.float().mean(1) < 1000)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)


def encoder(folder, context, backbone, **options) -> Encoder:
    return Encoder(backbone, None, {"way": "toy"}, folder, context, **options)


def test_every_forward_pass_has_one_shape_and_layout(context):
    backbone = Pixels()
    batches = BatchEncoder(backbone, None, context, 4)
    stacked = np.stack([image.transpose(1, 2, 0) for image in images(4)]).transpose(0, 3, 1, 2)
    for batch in (stacked, images(3), images(1)):
        found = batches.encode(batch, ("map", "pooled", "image"))
        np.testing.assert_array_equal(found["image"], batch)
        np.testing.assert_array_equal(found["map"], batch.astype(np.float32) / 3)
        np.testing.assert_allclose(found["pooled"], batch.mean((2, 3)) / 3, rtol=1e-5)
        assert not found["empty"].any()
    assert backbone.sizes == [4, 4, 4]
    assert backbone.layouts == [True] * 3


def test_maps_of_half_the_bytes_are_another_store(tmp_path, context):
    pictures = images(3)
    found = {}
    for maps in ("float32", "float16"):
        made = encoder(tmp_path, context, Pixels(), maps=maps)
        found[maps] = made.encode_images(ArrayColumn(pictures), ("map",), tmp_path)["map"].read(np.arange(3))
        assert found[maps].dtype == maps
    np.testing.assert_array_equal(found["float16"], found["float32"].astype(np.float16))
    assert len(list(tmp_path.glob("*/store.json"))) == 2


def test_memory_that_runs_out_halves_the_batch_once_and_for_all(tmp_path, context):
    pictures, backbone = images(11), Pixels(most=3)
    made = encoder(tmp_path, context, backbone, batch=8)
    found = made.encode_images(ArrayColumn(pictures), ("map",), tmp_path)["map"].read(np.arange(11))
    np.testing.assert_array_equal(found, pictures.astype(np.float32) / 3)
    assert set(backbone.sizes) == {2}
    assert made.description["batch"] == 2
    told = [note for note in context.reporter.notes if "memory ran out" in note]
    assert [note[: note.index(", also in later runs")] for note in told] == [
        "memory ran out encoding 8 images at once; from now on 4 at once",
        "memory ran out encoding 4 images at once; from now on 2 at once",
    ]
    [remembered] = tmp_path.glob("*.batch")
    assert str(remembered) in told[0]
    again = Pixels(most=3)
    encoder(tmp_path, context, again, batch=8).encode_images(ArrayColumn(images(2)), ("map",), tmp_path)
    assert again.sizes == [2], "the size that was found is kept"


def test_memory_too_small_for_one_image_is_one_clear_line(tmp_path, context):
    with pytest.raises(CellfeatError, match=r"too small to encode one image at a time \(CUDA out of memory"):
        encoder(tmp_path, context, Pixels(most=0), batch=2).encode_images(ArrayColumn(images(2)), ("map",), tmp_path)


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path, context, monkeypatch):
    def broken(self, images):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Pixels, "encode", broken)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        encoder(tmp_path, context, Pixels()).encode_images(ArrayColumn(images(2)), ("map",), tmp_path)
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    assert is_out_of_memory(MemoryError())


def test_the_usual_batch_is_smaller_for_large_frames():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [usual_batch(cpu, side) for side in (112, 224, 336, 512, 1024)] == [16, 16, 16, 4, 1]
    assert [usual_batch(gpu, side) for side in (224, 336, 1024)] == [128, 128, 8]


def test_a_damaged_memory_of_the_size_is_forgotten(tmp_path):
    size = BatchSize(tmp_path, {"a": 1}, 16)
    size.halve(16, MemoryError())
    assert BatchSize(tmp_path, {"a": 1}, 16).value == 8
    assert BatchSize(tmp_path, {"a": 2}, 16).value == 16
    [path] = tmp_path.glob("*.batch")
    path.write_text("x")
    assert size.value == 16


def test_rows_are_written_by_a_thread_beside_and_in_order(tmp_path, context, monkeypatch):
    monkeypatch.setattr(writing, "ROWS_PER_VERSION", 5)
    threads, append = [], Store.append

    def spied(self, digests, values):
        threads.append((threading.current_thread().name, len(digests)))
        append(self, digests, values)

    monkeypatch.setattr(Store, "append", spied)
    pictures = images(13)
    made = encoder(tmp_path, context, Pixels(), batch=2)
    found = made.encode_images(ArrayColumn(pictures), ("map",), tmp_path)["map"]
    np.testing.assert_array_equal(found.read(np.arange(13)), pictures.astype(np.float32) / 3)
    assert [count for _, count in threads] == [6, 6, 1]
    assert all(name.startswith("write") for name, _ in threads[:2])


def test_what_was_encoded_before_an_error_is_kept(tmp_path, context, monkeypatch):
    pictures, encode = images(12), Pixels.encode

    def stops(self, images):
        if len(self.sizes) == 4:
            raise KeyboardInterrupt
        return encode(self, images)

    monkeypatch.setattr(Pixels, "encode", stops)
    with pytest.raises(KeyboardInterrupt):
        encoder(tmp_path, context, Pixels(), batch=2).encode_images(ArrayColumn(pictures), ("map",), tmp_path)
    monkeypatch.undo()
    rest = Pixels()
    encoder(tmp_path, context, rest, batch=2).encode_images(ArrayColumn(pictures), ("map",), tmp_path)
    assert len(rest.sizes) == 2, "four batches of two were written"


def test_an_error_of_the_writer_is_raised(tmp_path, context, monkeypatch):
    monkeypatch.setattr(writing, "ROWS_PER_VERSION", 2)

    def full(self, digests, values):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "append", full)
    backbone = Pixels()
    with pytest.raises(OSError, match="No space left"):
        encoder(tmp_path, context, backbone, batch=2).encode_images(ArrayColumn(images(100)), ("map",), tmp_path)
    assert len(backbone.sizes) < 10, "it stops soon after"


def test_a_batch_that_cannot_be_landed_moves_no_other_under_its_name(tmp_path, context, monkeypatch):
    """Batches behind one that failed are under way already; they must not be kept in its place."""
    pictures, land, seen = images(8), BatchEncoder.land, []

    def fails_once(self, done):
        seen.append(1)
        if len(seen) == 2:
            time.sleep(0.2)  # until the next ones wait
            raise ValueError("a broken batch")
        return land(self, done)

    monkeypatch.setattr(BatchEncoder, "land", fails_once)
    with pytest.raises(ValueError, match="a broken batch"):
        encoder(tmp_path, context, Pixels(), batch=2).encode_images(ArrayColumn(pictures), ("map",), tmp_path)
    monkeypatch.undo()
    assert len(seen) == 2, "nothing is landed after it"
    rest = Pixels()
    found = encoder(tmp_path, context, rest, batch=2).encode_images(ArrayColumn(pictures), ("map",), tmp_path)["map"]
    np.testing.assert_array_equal(found.read(np.arange(8)), pictures.astype(np.float32) / 3)
    assert len(rest.sizes) == 3


def test_another_process_that_halves_meanwhile_does_not_mix_two_sizes(tmp_path, context, monkeypatch):
    made, compute, sizes = encoder(tmp_path, context, Pixels(), batch=4), BatchEncoder.compute, []

    def halved(self, batch, columns):
        if not sizes:
            made.batch_size.halve(4, MemoryError())
        sizes.append(self.size)
        return compute(self, batch, columns)

    monkeypatch.setattr(BatchEncoder, "compute", halved)
    made.encode_images(ArrayColumn(images(8)), ("map",), tmp_path)
    [description] = [json.loads(path.read_text()) for path in tmp_path.glob("*/store.json")]
    assert sizes == [4, 4]
    assert description["batch"] == 4


def test_a_file_that_changed_after_its_digest_was_taken_is_refused(tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    good = image_digest((tmp_path / "a.png").read_bytes())
    [batch] = decoded([(tmp_path / "a.png", good)], 4, 8, "area")
    assert batch.shape == (1, 3, 8, 8)
    Image.fromarray(np.ones((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(CellfeatError, match=r"a\.png: it has changed while this command ran"):
        list(decoded([(tmp_path / "a.png", good)], 4, 8, "area"))


@pytest.mark.parametrize("ahead", [0, 2])
def test_files_come_in_order_however_far_ahead_they_aredecoded(tmp_path, ahead):
    files = []
    for number in range(11):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
        files.append((tmp_path / f"{number}.png", image_digest((tmp_path / f"{number}.png").read_bytes())))
    batches = list(decoded(files, 4, 8, "area", ahead))
    assert [len(batch) for batch in batches] == [4, 4, 3]
    np.testing.assert_array_equal(np.concatenate(batches)[:, 0, 0, 0], np.arange(11))


def test_versions_go_a_while_after_they_were_replaced_and_not_after_they_were_made(tmp_path, monkeypatch):
    """A version made long ago may have been replaced just now, and whoever reads it must be able to go on."""
    store, values = Store(tmp_path, {"a": 1}), np.arange(8, dtype=np.float32).reshape(4, 2)
    for row in range(3):
        store.append([str(row)], {"pooled": values[row : row + 1]})
    held = store.column("pooled", ["0", "1", "2"])
    monkeypatch.setattr(stores, "MANY_FRAGMENTS", 1)
    ages = {1: 30, 2: 20, 3: 10}  # days since each version was made: the last was current until a moment ago

    class Backdated:
        def __init__(self, dataset):
            self.dataset, self.removed = dataset, None

        def versions(self):
            now = datetime.now()
            made = [{"timestamp": now - timedelta(days=days)} for days in ages.values()]
            return [*made, {"timestamp": now}]

        def cleanup_old_versions(self, older_than):
            self.removed = older_than

    old = Backdated(held.dataset)
    stores._forget_versions(old)
    assert timedelta(days=10) < old.removed < timedelta(days=10, seconds=5), "the third is still read, those before not"
    ages.clear()
    new = Backdated(held.dataset)
    stores._forget_versions(new)
    assert new.removed is None
    store.compact()
    np.testing.assert_array_equal(held.read(np.arange(3)), values[:3])


def test_columns_of_large_rows_are_not_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "MANY_FRAGMENTS", 1)
    store = Store(tmp_path, {"a": 1})
    for name in ("0", "1", "2"):
        store.append([name], {"map": np.zeros((1, 90, 14, 14), np.float32), "pooled": np.zeros((1, 9), np.float32)})
    store.compact()
    pieces = {name: len(store.column(name, ["0"]).dataset.get_fragments()) for name in ("map", "pooled")}
    assert pieces == {"map": 3, "pooled": 1}


def test_many_small_pieces_are_joined_and_rows_stay_where_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "MANY_FRAGMENTS", 3)
    store, values = Store(tmp_path, {"a": 1}), np.arange(20, dtype=np.float32).reshape(10, 2)
    names = [f"{number:064x}" for number in range(10)]
    for row in range(10):
        store.append([names[row]], {"pooled": values[row : row + 1]})
    held = store.column("pooled", names)
    assert len(held.dataset.get_fragments()) == 10
    store.compact()
    for each in (store, Store(tmp_path, {"a": 1})):
        column = each.column("pooled", names[::-1])
        assert len(column.dataset.get_fragments()) == 1
        np.testing.assert_array_equal(column.read(np.arange(10)), values[::-1])
    np.testing.assert_array_equal(held.read(np.arange(10)), values, "who reads an older version can go on")
    store.append(["new"], {"pooled": values[:1]})
    np.testing.assert_array_equal(store.column("pooled", ["new", names[9]]).read(np.arange(2)), values[[0, 9]])
