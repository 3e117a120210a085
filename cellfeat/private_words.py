"""What must not leave a machine with a shared folder: paths, ids of cells and patients. Found, or taken out."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cellfeat.private_arrays import members, read_array, words_of
from cellfeat.without_folders import without_folders

LEAST = 6  # characters of an id that is looked for anywhere: shorter ones are in any file by chance
SHORTEST = 3  # of an id with a letter and a digit, which is looked for where it is a whole text in JSON or an array
PROSE = (".yaml", ".txt", ".md")
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
    return words - {""}


def of_predictions(path: Path) -> set[str]:
    """The ids in a run's table of predictions."""
    if not path.is_file():
        return set()
    import pyarrow.parquet as pq

    return {str(one) for one in pq.read_table(path, columns=["id"])["id"].unique().to_pylist()} - {""}


class Piece(NamedTuple):
    """What is searched of a file. text: as a person would read it. whole: the texts that stand in it each by itself, as
    in JSON and arrays. rooted: those that may hold no path from a root. content: bytes that are no text."""

    text: str = ""
    whole: Collection[str] = ()
    rooted: Collection[str] = ()
    content: bytes = b""


def find(folder: Path, words: Collection[str]) -> Iterator[tuple[str, str]]:
    """(file below the folder, word) for the longest of the words in each file, also inside of an archive, or a path
    from a root that stands where `without_paths` does not come: in prose, names in JSON, headers and arrays."""
    long = sorted((word for word in words if len(word) >= LEAST), key=lambda word: (-len(word), word))
    short = {word for word in words if SHORTEST <= len(word) < LEAST and re.search(r"\d", word) and not word.isdigit()}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        for piece in _pieces(path):
            word = _first(piece, long, short)
            if word is not None:
                yield path.relative_to(folder).as_posix(), word
                break


def _pieces(path: Path) -> Iterator[Piece]:
    if path.suffix == ".json":
        yield _json(path.read_text(encoding="utf-8"), names_alone=True)
    elif path.suffix in PROSE:
        text = path.read_text(encoding="utf-8", errors="replace")
        yield Piece(text, rooted=(text,))
    elif path.suffix == ".safetensors":
        content = path.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        yield _json(content[8:end].decode("utf-8", "replace"))
        yield Piece(content=content[end:])
    else:
        for name, content in members(path):
            yield _member(name, content)


def _member(name: str, content: bytes) -> Piece:
    """A file of an archive, or one that is no archive."""
    if name.endswith(".json"):
        return _json(content.decode("utf-8", "replace"))
    array = read_array(content)
    texts = [] if array is None else words_of(array)
    return Piece("\n".join([name, *texts]), texts, texts, b"" if texts else content)


def _json(text: str, names_alone: bool = False) -> Piece:
    """names_alone: only the names in it may still hold paths, as its values have been cleaned."""
    try:
        said = json.loads(text)
    except ValueError:
        return Piece(text, rooted=(text,))
    names, values = set(_names(said)), set(_values(said))
    plain = "\n".join([json.dumps(said, ensure_ascii=False), *names, *values])
    return Piece(plain, names | values, names if names_alone else names | values)


def _names(value: Any) -> Iterator[str]:
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _names(one)
    yield from value if isinstance(value, dict) else ()


def _values(value: Any) -> Iterator[str]:
    """The texts among JSON values; skops writes them as JSON in JSON."""
    if isinstance(value, (dict, list)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _values(one)
    elif isinstance(value, str):
        yield value
        if value[:1] in ('"', "[", "{"):
            try:
                inner = json.loads(value)
            except ValueError:
                return
            yield from (*_values(inner), *_names(inner))


def _rooted(text: str) -> str | None:
    """The first word of a text that begins at a root; addresses of the web are none."""
    for word in re.sub(r"https?://\S+", "", text).split():
        if without_folders(word) != word:
            return word
    return None


def _first(piece: Piece, long: Collection[str], short: Collection[str]) -> str | None:
    """In bytes that are no text only the runs of letters are searched, and words with other letters as UTF-8."""
    plain = piece.text + "\n" + b"\n".join(_RUN.findall(piece.content)).decode()
    for word in long:
        if word in plain and re.search(rf"(?<![\w.]){re.escape(word)}(?![\w.])", plain):
            return word
        code = word.encode()
        if code in piece.content and not word.isascii() and _alone(code, piece.content):
            return word
    found = sorted(set(short) & set(piece.whole))
    return found[0] if found else next(filter(None, map(_rooted, piece.rooted)), None)


def _alone(word: bytes, content: bytes) -> bool:
    """Whether a word stands in bytes without letters of ASCII, digits, _ or a point beside it."""
    return re.search(rb"(?<![\w.])" + re.escape(word) + rb"(?![\w.])", content) is not None
