"""The conformance kit: what it checks methods on, and what it remembers of them."""

from __future__ import annotations

import gzip
import pickle
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from cellfeat.testing import checks_of, cpu_context, examine, toy_cells, toy_images
from cellfeat.testing.bars import WatchedReporter
from cellfeat.testing.columns import Reads, Snapshot
from cellfeat.testing.devices import gpu_in_sight
from cellfeat.testing.pickles import pickles
from cellfeat.types import UNLABELED


def test_toy_cells_are_as_described():
    cells = toy_cells(per_class=2, size=20, channels=5, grid=7)
    assert len(cells) == 18
    shapes = {name: cells.column(name).shape[1:] for name in cells.columns}
    assert shapes == {
        "image": (3, 20, 20),
        "mask": (20, 20),
        "map": (5, 7, 7),
        "pooled": (5,),
        "crop": (3, 128, 128),
    }
    assert {name: str(cells.column(name).dtype) for name in cells.columns} == {
        "image": "uint8",
        "mask": "bool",
        "map": "float32",
        "pooled": "float32",
        "crop": "uint8",
    }
    assert set(cells.domain[~cells.is_target]) == {"here"}
    assert set(cells.label[cells.is_target]) == {UNLABELED}
    assert np.bincount(cells.label[~cells.is_target]).tolist() == [2, 2, 2]
    np.testing.assert_array_equal(toy_cells(seed=3).image, toy_cells(seed=3).image)
    assert not np.array_equal(toy_cells(seed=3).image, toy_cells(seed=4).image)


def test_toy_images_show_something_dark_in_the_middle():
    images = toy_images(2, 40)
    assert images.shape == (2, 3, 40, 40)
    assert images.dtype == torch.uint8
    assert images[:, :, 18:22, 18:22].float().mean() < 120 < 200 < images[:, :, :4, :4].float().mean()


def test_the_context_is_seeded_and_quiet(tmp_path, capsys):
    context = cpu_context(tmp_path / "new", seed=5)
    context.note("a fallback")
    assert context.seed == 5
    assert context.scratch.is_dir()
    assert context.reporter.notes == ["a fallback"]
    assert capsys.readouterr() == ("", "")


def test_a_bar_is_remembered_and_interrupts_once():
    reporter = WatchedReporter(stop_at=3)
    with reporter.progress(4, "steps") as bar:
        bar.advance(2)
        with pytest.raises(KeyboardInterrupt):
            bar.advance()
    assert (reporter.done, reporter.stopped, list(bar.faults())) == (3, True, [])
    with reporter.progress(4, "steps") as again:
        again.advance(4)
    assert (reporter.done, list(again.faults())) == (7, [])


def test_columns_count_their_reads_and_interrupt_once_also_when_read_ahead():
    reads = Reads(stop_at=2)
    cells = reads.of(toy_cells())
    with pytest.raises(KeyboardInterrupt):
        list(cells[5:].batches(("pooled",), 4))
    assert reads.stopped
    count = reads.count
    assert len(list(cells.batches(("pooled", "mask"), 12))) == 3
    assert reads.count == count + 6


def test_a_snapshot_tells_what_is_no_longer_as_it_was():
    cells = toy_cells()
    snapshot = Snapshot("the cells", cells, ("pooled",))
    assert list(snapshot.changes()) == []
    cells.label.setflags(write=True)
    cells.label[0] = 2
    object.__setattr__(cells, "domain", cells.domain[::-1])
    array = cells.column("pooled").array
    array.setflags(write=True)
    array[0] = np.nan
    assert list(snapshot.changes()) == ["domain of the cells", "label of the cells", "pooled of the cells"]
    snapshot = Snapshot("the cells", cells, ("pooled",))
    assert list(snapshot.changes()) == [], "NaN is NaN"
    object.__setattr__(cells, "columns", dict(replace(cells).with_column("pooled", cells.pooled).columns))
    assert list(snapshot.changes()) == ["the columns of the cells"]


def test_pickles_are_found_by_their_content(tmp_path):
    import joblib
    import skops.io
    from safetensors.numpy import save_file
    from sklearn.linear_model import LogisticRegression

    value = {"means": np.arange(300.0), "name": "a"}
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "plain.bin").write_bytes(pickle.dumps(value))
    (tmp_path / "gzip.bin").write_bytes(gzip.compress(pickle.dumps(value)))
    (tmp_path / "zlib.bin").write_bytes(zlib.compress(pickle.dumps(value)))
    joblib.dump(value, tmp_path / "joblib.bin")
    torch.save({"a": torch.ones(2)}, tmp_path / "torch.bin")
    torch.save({"a": torch.ones(2)}, tmp_path / "legacy.bin", _use_new_zipfile_serialization=False)
    np.save(tmp_path / "objects.npy", np.array([None, 1], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "objects.npz", a=np.array([None, 1], dtype=object))
    (tmp_path / "empty.pkl").write_bytes(b"")
    wrong = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}

    np.save(tmp_path / "right.npy", np.arange(3.0))
    np.savez_compressed(tmp_path / "right.npz", a=np.arange(3.0), b=np.array(["x"]))
    (tmp_path / "right.json").write_text("{}")
    (tmp_path / "right.gz").write_bytes(gzip.compress(b"a text, and not a pickle"))
    (tmp_path / "header.safetensors").write_bytes(b"\x80\x02\x00\x00\x00\x00\x00\x00" + b" " * 640)
    save_file({"a": np.arange(9.0)}, tmp_path / "right.safetensors")
    skops.io.dump(LogisticRegression().fit([[0.0], [1.0]], [0, 1]), tmp_path / "right.skops")
    assert set(pickles(tmp_path)) == wrong


def test_a_check_of_a_method_keeps_its_files_where_it_is_told(tmp_path):
    from mutants.right_aligners import Walk

    examine("align", Walk, {"steps": 3}, folder=tmp_path / "kept", only=["save-load"]).raise_failures()
    assert (tmp_path / "kept" / "life-1" / "moved" / "state.json").is_file()
    assert "row-order" in {item.name for item in checks_of("align")}


def test_a_real_gpu_is_found_to_be_used_by_what_is_allocated_there(monkeypatch):
    allocated = [5]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda: {"allocation.all.allocated": allocated[0]})
    with gpu_in_sight() as tempted:
        pass
    assert tempted == []
    with gpu_in_sight() as tempted:
        allocated[0] += 1
    assert tempted == ["it chose the GPU that torch sees, though its context names the CPU"]


def test_a_pretended_gpu_is_seen_by_all_but_torch_and_gone_afterwards():
    before = torch.cuda.is_available, torch.cuda.device_count
    with gpu_in_sight() as tempted:
        assert torch.cuda.is_available()
        assert torch.cuda.device_count() == 1
        torch.optim.Adam([torch.nn.Parameter(torch.ones(2))]).step()
        torch.manual_seed(torch.initial_seed())
        with torch.random.fork_rng():
            pass
    assert tempted == []
    assert (torch.cuda.is_available, torch.cuda.device_count) == before
    with gpu_in_sight() as tempted, pytest.raises(RuntimeError, match="it chose the GPU"):
        torch.ones(1).cuda()
    assert tempted
