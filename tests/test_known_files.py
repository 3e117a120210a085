"""Files that need not be decoded twice: what counts as unchanged, and what a broken memory costs."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cellfeat import known_files, scan
from cellfeat.decode import ImageError
from cellfeat.known_files import KnownFiles
from cellfeat.scan import examine_all


@pytest.fixture
def pictures(tmp_path, monkeypatch) -> list[Path]:
    monkeypatch.setattr(known_files, "RACY", -1.0)  # files of this very moment
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        Image.fromarray(np.full((8, 6 + number, 3), 40 * number, np.uint8)).save(path)
    return paths


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The names of the files that were decoded."""
    names, usual = [], scan.examine
    monkeypatch.setattr(scan, "examine", lambda path, mask=False: names.append(path.name) or usual(path, mask))
    return names


def test_what_has_not_changed_is_not_decoded_again(pictures, decoded, tmp_path):
    known = KnownFiles(tmp_path / "cache" / "files.sqlite")
    first = examine_all(pictures, known=known)
    assert sorted(decoded) == ["0.png", "1.png", "2.png"]
    assert first == examine_all(pictures)
    decoded.clear()
    assert examine_all(pictures[::-1], known=KnownFiles(known.path)) == first[::-1]
    assert decoded == []


@pytest.mark.parametrize("change", ["content", "same size and time", "touched", "replaced"])
def test_what_has_changed_is_decoded_again(pictures, decoded, tmp_path, change):
    known = KnownFiles(tmp_path / "files.sqlite")
    before = examine_all(pictures, known=known)
    path, times = pictures[1], pictures[1].stat()
    if change == "content":
        Image.fromarray(np.full((9, 9, 3), 7, np.uint8)).save(path)
    elif change == "same size and time":
        time.sleep(0.02)
        path.write_bytes(path.read_bytes())
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    elif change == "touched":
        os.utime(path)
    else:
        (tmp_path / "new.png").write_bytes(pictures[2].read_bytes())
        (tmp_path / "new.png").replace(path)
    decoded.clear()
    after = examine_all(pictures, known=known)
    assert decoded == ["1.png"]
    assert (after[1] == before[1]) == (change in ("same size and time", "touched"))
    assert [after[0], after[2]] == [before[0], before[2]]


def test_a_file_of_this_moment_is_not_trusted_yet(pictures, decoded, tmp_path, monkeypatch):
    monkeypatch.setattr(known_files, "RACY", 60.0)
    known = KnownFiles(tmp_path / "files.sqlite")
    for _ in range(2):
        examine_all(pictures, known=known)
    assert len(decoded) == 6


def test_bad_files_are_looked_at_every_time(pictures, decoded, tmp_path):
    pictures[0].write_bytes(b"no image")
    known = KnownFiles(tmp_path / "files.sqlite")
    for _ in range(2):
        assert isinstance(examine_all(pictures, known=known)[0], ImageError)
    assert decoded.count("0.png") == 2
    assert decoded.count("1.png") == 1
    pictures[1].unlink()
    assert isinstance(examine_all(pictures, known=known)[1], ImageError)


def test_masks_and_images_are_known_apart(pictures, decoded, tmp_path, monkeypatch):
    known = KnownFiles(tmp_path / "files.sqlite")
    examine_all(pictures, known=known)
    examine_all(pictures, mask=True, known=known)
    assert len(decoded) == 6
    monkeypatch.setattr(known_files, "_kind", lambda mask: "other versions of the decoders")
    examine_all(pictures, known=known)
    assert len(decoded) == 9


def test_a_damaged_memory_is_begun_anew(pictures, decoded, tmp_path):
    known = KnownFiles(tmp_path / "files.sqlite")
    known.path.write_bytes(b"this is no data base, but it is long enough to look like a file of one" * 99)
    for _ in range(3):
        assert len(examine_all(pictures, known=known)) == 3
    assert len(decoded) == 6  # the first run removes it, the second fills it


def test_a_memory_that_another_holds_is_left_alone(pictures, decoded, tmp_path, monkeypatch):
    known = KnownFiles(tmp_path / "files.sqlite")
    examine_all(pictures, known=known)
    monkeypatch.setattr(known_files, "WAIT", 0.01)
    holder = sqlite3.connect(known.path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        assert len(examine_all(pictures, known=known)) == 3
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    decoded.clear()
    examine_all(pictures, known=known)
    assert decoded == []
