"""Files that an earlier run has decoded and that have not changed since: they need not be decoded to be known.

A file counts as unchanged while path, size, inode and both times are the same, as in git's index; the time of the last
change of its inode cannot be set by a program (Windows has none; there size and time of writing must do). What was
changed less than `RACY` seconds ago is not yet trusted, and a URL never is: what lies elsewhere changes without a sign.
"""

from __future__ import annotations

import functools
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

from cellfeat.scan import ImageFacts

RACY = 2.0  # s: file systems tell times no finer, so a second change could bear the time of the first
WAIT = 5.0  # s for another process that writes
TABLE = (
    "CREATE TABLE IF NOT EXISTS files (path TEXT, kind TEXT, stamp TEXT, sha256 TEXT, width INTEGER, height INTEGER, "
    "PRIMARY KEY (path, kind))"
)


class KnownFiles:
    """A data base of facts in one file. What cannot be read or written is forgotten: it is a memory, not a record."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def recall(self, paths: Sequence[Path | str], mask: bool = False) -> list[ImageFacts | None]:
        """The facts of each file, None where it is not known or has changed."""
        try:
            if not self.path.exists():
                return [None] * len(paths)
            with closing(sqlite3.connect(self.path, timeout=WAIT)) as base:
                found = [
                    base.execute(
                        "SELECT sha256, width, height FROM files WHERE path = ? AND kind = ? AND stamp = ?",
                        (_name(path), _kind(mask), stamp),
                    ).fetchone()
                    for path, stamp in zip(paths, self.stamps(paths), strict=True)
                ]
        except (sqlite3.Error, OSError):
            return [None] * len(paths)
        return [row and ImageFacts(*row) for row in found]

    def stamps(self, paths: Sequence[Path | str]) -> list[str | None]:
        """What changes whenever a file does; None for one that cannot be looked at, or was changed a moment ago."""
        now = time.time()
        return [_stamp(path, now) for path in paths]

    def remember(self, facts: Iterable[tuple[Path | str, str | None, ImageFacts]], mask: bool = False) -> None:
        """Files with the stamps that they had before they were read, and what was found in them."""
        rows = [(_name(path), _kind(mask), stamp, *fact) for path, stamp, fact in facts if stamp]
        if not rows:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=WAIT)) as base, base:
                base.execute(TABLE)
                base.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", rows)
        except (sqlite3.OperationalError, OSError):
            return  # another process writes, or the disk takes nothing
        except sqlite3.DatabaseError:
            self.path.unlink(missing_ok=True)  # damaged: the next run begins it anew


def _name(path: Path | str) -> str:
    return path if isinstance(path, str) else str(path.absolute())


def _stamp(path: Path | str, now: float) -> str | None:
    if isinstance(path, str):
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    if now - max(found.st_mtime, found.st_ctime) < RACY:
        return None
    return f"{found.st_size} {found.st_ino} {found.st_mtime_ns} {found.st_ctime_ns}"


@functools.cache
def _kind(mask: bool) -> str:
    """Masks and images are decoded in different ways, and by whatever versions are installed."""
    from importlib.metadata import version

    decoders = " ".join(version(name) for name in ("cellfeat", "opencv-python-headless", "pillow"))
    return f"{'mask' if mask else 'image'} {decoders}"
