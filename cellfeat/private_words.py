"""What must not leave a machine with a shared folder: paths, ids of cells and patients. Found, or taken out."""

from __future__ import annotations

import csv
import json
import re
import zipfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from cellfeat.without_folders import without_folders

LEAST = 6  # characters of an id that is looked for: shorter ones are in any file by chance
PROSE = (".yaml", ".txt")
TEXTS = (".json", ".md", *PROSE)
_WHERE = re.compile(r"~?[/\\]|\.\.?[/\\]|[A-Za-z]:[/\\]|[A-Za-z][A-Za-z0-9+.-]+://")  # how a path or an address begins
_RUN = re.compile(rb"[\x20-\x7e]{%d,}" % LEAST)


def without_paths(value: Any) -> Any:
    """JSON values with files by their names alone, and texts without the folders in them."""
    if isinstance(value, dict):
        return {key: without_paths(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_paths(one) for one in value]
    if isinstance(value, str) and _WHERE.match(value):
        return re.split(r"[/\\]", value.partition("?")[0].rstrip("/\\"))[-1]
    return without_folders(value) if isinstance(value, str) else value


def of_places(paths: Iterable[str | Path]) -> set[str]:
    """The absolute folders of these paths, and this user's own: none of them may be in a shared file."""
    folders = {str(Path(path).expanduser().resolve()) for path in paths}
    folders |= {str(Path(folder).parent) for folder in folders} | {str(Path.home())}
    return {folder for folder in folders if len(folder) > 1}


def of_manifest(path: Path) -> set[str]:
    """Ids, groups and file names of a manifest's rows; nothing where it cannot be read, as of one that has moved."""
    if not path.is_file():
        return set()
    with path.open(encoding="utf-8", newline="", errors="replace") as file:
        rows = list(csv.DictReader(file))
    words = {str(row.get(name) or "") for row in rows for name in ("id", "group")}
    for row in rows:
        for name in ("path", "image_path", "mask_path"):
            place = str(row.get(name) or "")
            words |= {place, Path(place).name, Path(place).stem}
    return {word for word in words if len(word) >= LEAST}


def of_predictions(path: Path) -> set[str]:
    """The ids in a run's table of predictions."""
    if not path.is_file():
        return set()
    import pyarrow.parquet as pq

    return {
        str(one) for one in pq.read_table(path, columns=["id"])["id"].unique().to_pylist() if len(str(one)) >= LEAST
    }


def find(folder: Path, words: Collection[str]) -> Iterator[tuple[str, str]]:
    """(file below the folder, word) for the longest of the words in each file, also inside of an archive; of texts that
    are no JSON, also any path from a root."""
    words = sorted(words, key=lambda word: (-len(word), word))
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        for content in _contents(path):
            word = _first(content, words, whole=path.suffix in TEXTS)
            if word is None and path.suffix in PROSE:
                word = _rooted(content.decode("utf-8", "replace"))
            if word is not None:
                yield path.relative_to(folder).as_posix(), word
                break


def _contents(path: Path) -> Iterator[bytes]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield name.encode() + b"\n" + archive.read(name)
    else:
        yield path.read_bytes()


def _rooted(text: str) -> str | None:
    """The first word of a text that begins at a root; addresses of the web are none."""
    for word in re.sub(r"https?://\S+", "", text).split():
        if without_folders(word) != word:
            return word
    return None


def _first(content: bytes, words: Collection[str], whole: bool) -> str | None:
    """whole: a text, in which every word is looked for; in numbers only the runs of letters are."""
    text = content if whole else b"\n".join(_RUN.findall(content))
    plain = text.decode("utf-8", "replace")
    if whole:
        plain = _unescaped(plain)
    for word in words:
        if word in plain and re.search(rf"(?<![\w.]){re.escape(word)}(?![\w.])", plain):
            return word
    return None


def _unescaped(text: str) -> str:
    """JSON as a person reads it: a letter with an accent may stand there as a number."""
    try:
        return json.dumps(json.loads(text), ensure_ascii=False)
    except ValueError:
        return text
