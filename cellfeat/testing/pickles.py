"""Finding pickles among saved files, by their content: a suffix proves nothing."""

from __future__ import annotations

import bz2
import io
import lzma
import pickletools
import zipfile
import zlib
from pathlib import Path

SUFFIXES = (".pkl", ".pickle", ".joblib", ".pt", ".pth")
HEAD = 65_536  # bytes that are looked at
WHOLE = 2**26  # bytes at most of a file that is read as a whole
LEAST = 4  # instructions that a file's first bytes are not by chance


def pickles(folder: Path) -> list[str]:
    """The files below a folder that are or hold a pickle, by their path in it, sorted."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(folder)) for path in files if path.suffix in SUFFIXES or holds_pickle(path))


def holds_pickle(path: Path) -> bool:
    """Whether a file is a pickle (also a compressed one, or joblib's), or has one in it (torch's, or NumPy's)."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(_in_archive(archive, name) for name in archive.namelist())
    with path.open("rb") as file:
        head = file.read(HEAD)
    return any(_is_pickle(part) for part in (head, _unpacked(head))) or _holds_objects(head) or _is_old_pickle(path)


def _is_old_pickle(path: Path) -> bool:
    """Whether a file is a pickle of protocol 0 or 1: these have no mark, so that all of it must read as one."""
    if path.stat().st_size > WHOLE:
        return False
    content, count = path.read_bytes(), 0
    try:
        for operation, _, place in pickletools.genops(content):
            count += 1
            if operation.name == "STOP":
                return count >= LEAST and place == len(content) - 1
    except Exception:  # genops has no error of its own for what is no pickle
        return False
    return False


def _in_archive(archive: zipfile.ZipFile, name: str) -> bool:
    if name.rpartition("/")[2] == "data.pkl":
        return True
    with archive.open(name) as member:
        head = member.read(HEAD)
    return _is_pickle(head) or _holds_objects(head)


def _is_pickle(head: bytes) -> bool:
    """Whether bytes begin as a pickle of protocol 2 or later: with its mark, and instructions that can be read."""
    if head[:1] != b"\x80" or not 2 <= int.from_bytes(head[1:2], "big") <= 5:
        return False
    count = 0
    try:
        for operation, _, _ in pickletools.genops(io.BytesIO(head)):
            count += 1
            if count >= LEAST or operation.name == "STOP":
                return True
    except Exception:  # genops has no error of its own for what is no pickle
        return False
    return False


def _unpacked(head: bytes) -> bytes:
    """The first bytes of what is compressed by zlib, gzip, bz2, xz or lzma; none of anything else."""
    try:
        if head.startswith(b"BZh"):
            return bz2.BZ2Decompressor().decompress(head, HEAD)
        if head.startswith((b"\xfd7zXZ\x00", b"\x5d\x00\x00")):
            return lzma.LZMADecompressor().decompress(head, HEAD)
        return zlib.decompressobj(wbits=47).decompress(head, HEAD)
    except (zlib.error, lzma.LZMAError, OSError, EOFError):
        return b""


def _holds_objects(head: bytes) -> bool:
    """Whether this is NumPy's file of an array of objects, which are pickled."""
    return head[:6] == b"\x93NUMPY" and b"'|O'" in head[: 10 + int.from_bytes(head[8:10], "little")]
