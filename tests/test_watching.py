"""What a block of code writes outside the folders it was given, by Python or by compiled code, is found."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from cellfeat.watching import written_outside


@pytest.fixture
def places(tmp_path, monkeypatch):
    """(scratch, elsewhere): a folder to write to, and the working folder, which is not."""
    for name in ("scratch", "elsewhere", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "scratch", tmp_path / "elsewhere"


def text(folder: Path) -> Path:
    (folder / "a.txt").write_text("x")
    return folder / "a.txt"


def appended(folder: Path) -> Path:
    with open(os.fsencode(folder / "log"), "ab") as file:  # noqa: PTH123 - a path of bytes
        file.write(b"x")
    return folder / "log"


def descriptor(folder: Path) -> Path:
    os.close(os.open(folder / "raw", os.O_WRONLY | os.O_CREAT))
    return folder / "raw"


def made(folder: Path) -> Path:
    (folder / "checkpoints").mkdir()
    return folder / "checkpoints"


def linked(folder: Path) -> Path:
    (folder / "link").symlink_to(folder)
    return folder / "link"


def by_torch(folder: Path) -> Path:
    import torch

    torch.save({"weight": torch.ones(2)}, folder / "best.pt")
    return folder / "best.pt"


def by_safetensors(folder: Path) -> Path:
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"weight": np.ones(2)}, folder / "best.safetensors")
    return folder / "best.safetensors"


def by_a_thread(folder: Path) -> Path:
    thread = threading.Thread(target=text, args=(folder,))
    thread.start()
    thread.join()
    return folder / "a.txt"


WAYS = [text, appended, descriptor, made, linked, by_torch, by_safetensors, by_a_thread]


@pytest.mark.parametrize("write", WAYS)
def test_what_is_written_elsewhere_is_named_and_in_the_given_folder_is_not(places, write):
    scratch, elsewhere = places
    with written_outside([scratch]) as found:
        write(scratch)
    assert found == []
    with written_outside([scratch]) as found:
        path = write(elsewhere)
    assert found == [path.parent.resolve() / path.name]
    assert os.path.lexists(path), "it is seen, not stopped"


@pytest.mark.parametrize("name", ["a.txt", "./a.txt", "../elsewhere/a.txt"])
def test_relative_paths_are_those_of_the_working_folder(places, name):
    with written_outside([places[0]]) as found:
        Path(name).write_text("x")
        Path(name).write_text("y")
    assert found == [places[1] / "a.txt"], "once, however often it is written"


def test_what_is_moved_or_taken_away_elsewhere_is_named(places):
    scratch, elsewhere = places
    for name in ("a", "b", "folder/c"):
        (elsewhere / name).parent.mkdir(exist_ok=True)
        (elsewhere / name).write_text("x")
    with written_outside([scratch]) as found:
        (elsewhere / "a").rename(scratch / "a")
        (elsewhere / "b").unlink()
        shutil.rmtree(elsewhere / "folder")
    assert {elsewhere / "a", elsewhere / "b", elsewhere / "folder"} <= set(found)


def test_a_link_in_the_given_folder_does_not_hide_where_it_leads(places):
    scratch, elsewhere = places
    (scratch / "link").symlink_to(elsewhere)
    with written_outside([scratch]) as found:
        text(scratch / "link")
    assert found == [elsewhere / "a.txt"]


def test_reading_and_what_changes_nothing_is_not_writing(places):
    _, elsewhere = places
    text(elsewhere)
    (elsewhere / "old.pt").write_bytes(b"x")
    with written_outside([]) as found:
        (elsewhere / "a.txt").read_text()
        elsewhere.mkdir(exist_ok=True)
        (elsewhere / "absent").unlink(missing_ok=True)
        shutil.rmtree(elsewhere / "absent", ignore_errors=True)
        assert list(elsewhere.iterdir())
    assert found == []


def test_temporary_files_caches_and_devices_do_not_count(places, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with written_outside([]) as found:
        with tempfile.TemporaryDirectory() as folder:
            text(Path(folder))
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
        for folder in (tmp_path / "torch", tmp_path / "home" / ".cache" / "lib", tmp_path / "home" / "__pycache__"):
            folder.mkdir(parents=True)
            text(folder)
        Path(os.devnull).write_text("x")
    assert found == []


def test_the_home_folder_is_no_cache(places, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with written_outside([]) as found:
        text(tmp_path / "home")
    assert found == [tmp_path / "home" / "a.txt"]


def test_compiled_code_is_found_out_beside_the_method_too(places, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    module = tmp_path / "module"
    (module / "weights").mkdir(parents=True)
    with written_outside([], beside=[module]) as found:
        path = by_torch(module / "weights")
    assert found == [path]
    with written_outside([], beside=[module]) as found:
        os.utime(path, ns=(1, 1))  # as if written again
    assert found == [path]


def test_nothing_is_watched_before_and_after_nor_in_other_threads(places):
    scratch, elsewhere = places
    start, written = threading.Event(), threading.Event()

    def other() -> None:
        start.wait(5)
        text(elsewhere)
        written.set()

    thread = threading.Thread(target=other)
    thread.start()
    with written_outside([scratch]) as found:
        start.set()
        assert written.wait(5)
    thread.join()
    made(elsewhere)
    assert found == []


def test_blocks_within_blocks_are_watched_each_for_itself(places):
    scratch, elsewhere = places
    with written_outside([scratch]) as outer:
        with written_outside([elsewhere]) as inner:
            text(elsewhere)
        text(scratch)
    assert (outer, inner) == ([elsewhere / "a.txt"], [])


def test_blocks_of_one_kind_end_in_any_order(places):
    with ExitStack() as stack:
        first, second = written_outside([places[0]]), written_outside([places[0]])
        lists = [first.__enter__(), stack.enter_context(second)]
        first.__exit__(None, None, None)
        text(places[1])
    assert lists == [[], [places[1] / "a.txt"]]


def test_an_error_of_the_block_comes_out_and_what_was_written_is_known(places):
    lists = []

    def fails() -> None:
        with written_outside([places[0]]) as found:
            lists.append(found)
            by_torch(places[1])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    text(places[1])
    assert lists == [[places[1] / "best.pt"]]
