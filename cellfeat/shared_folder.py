"""A shared folder on this side of the wire: `cellfeat.json`, which says what is in it, and the check of its files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from cellfeat.digests import file_sha256
from cellfeat.errors import CellfeatError, unknown
from cellfeat.testing.pickles import pickles

ABOUT, CARD, FORMAT = "cellfeat.json", "README.md", 1
KINDS = ("adapter", "pipeline", "method")
METHOD = re.compile(r"\w[\w.:-]*")  # names of methods are written into command lines
SENT = (".json", ".safetensors", ".skops", ".npy", ".npz", ".txt", ".yaml")  # what is loaded again, and no pickle


@dataclass
class Shared:
    """A folder that was prepared. about: its cellfeat.json. records: results of a pipeline. names: of laboratories and
    classes that it tells. kept_back: files that stay here, with the reason. not_searched: for what it could not be
    searched, with the reason."""

    folder: Path
    about: dict[str, Any]
    records: list[dict[str, Any]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    kept_back: list[tuple[str, str]] = field(default_factory=list)
    not_searched: str = ""

    @property
    def kind(self) -> str:
        return self.about["kind"]

    @property
    def files(self) -> list[tuple[str, int]]:
        """(path, bytes) of everything that goes out."""
        found = (path for path in sorted(self.folder.rglob("*")) if path.is_file())
        return [(path.relative_to(self.folder).as_posix(), path.stat().st_size) for path in found]


def write_about(shared: Shared, extra: Mapping[str, Any] | None = None) -> None:
    """`cellfeat.json`, with the digest of every file but of the card, which people edit on the hub's page."""
    files = {
        name: {"sha256": file_sha256(shared.folder / name), "bytes": size}
        for name, size in shared.files
        if name not in (ABOUT, CARD)
    }
    shared.about |= {**(extra or {}), "files": files}
    (shared.folder / ABOUT).write_text(json.dumps(shared.about, indent=1, sort_keys=True), encoding="utf-8")


def read_shared(path: Path, origin: str) -> dict[str, Any]:
    """A `cellfeat.json` from elsewhere, checked: kind, format, and names of files that stay inside of a folder.

    Raises: CellfeatError, beginning with `origin`.
    """
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise CellfeatError(f"{origin}: its {ABOUT} is no JSON; whoever pushed it should push it again") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        got = about.get("format") if isinstance(about, dict) else None
        raise CellfeatError(f"{origin} has format {got!r}, and this cellfeat reads {FORMAT}: pip install -U cellfeat")
    if about.get("kind") not in KINDS:
        raise CellfeatError(f"{origin}: {unknown('kind of shared folder', str(about.get('kind')), KINDS)}")
    _check_words(about, origin)
    files = about.get("files")
    if not isinstance(files, dict) or not files:
        raise CellfeatError(f"{origin} names no files in its {ABOUT}")
    for name, said in files.items():
        if not _is_inside(name) or not isinstance(said, dict) or not isinstance(said.get("sha256"), str):
            raise CellfeatError(f"{origin} names a file {name!r} that cannot be: paths stay inside of the folder")
        if PurePosixPath(name).suffix not in SENT:
            raise CellfeatError(f"{origin} has a file {name}, which is not loaded; possible are {', '.join(SENT)}")
    return about


def check_files(folder: Path, about: Mapping[str, Any], origin: str) -> None:
    """Every file that `cellfeat.json` names is there, with its digest, and none is a pickle.

    Raises: CellfeatError, beginning with `origin`.
    """
    for name, said in about["files"].items():
        path = folder / name
        if not path.is_file():
            raise CellfeatError(f"{origin} lacks {name}, which its {ABOUT} names")
        got = file_sha256(path)
        if got != said["sha256"]:
            raise CellfeatError(
                f"{origin}: {name} has the sha256 {got}, not {said['sha256']}: it is damaged, or was changed by hand"
            )
    bad = pickles(folder)
    if bad:
        raise CellfeatError(f"{origin}: {bad[0]} is or holds a pickle, which could run code; nothing was kept")


def _check_words(about: Mapping[str, Any], origin: str) -> None:
    """Refuse what would be shown or copied into a shell and is not what cellfeat writes."""
    lists = {key: about.get(key) or [] for key in ("method", "classes", "laboratories")}
    if not isinstance(about.get("needs", {}), dict) or not all(
        isinstance(value, list) and all(isinstance(one, str) for one in value) for value in lists.values()
    ):
        raise CellfeatError(f"{origin}: its {ABOUT} is not as cellfeat writes it; whoever pushed it should tell how")
    for name in lists["method"]:
        if not METHOD.fullmatch(name):
            raise CellfeatError(f"{origin} names a method {name!r}, which can be none: letters, digits and -_.: are")
    for text in _texts(about):
        if not text.isprintable():
            raise CellfeatError(f"{origin}: its {ABOUT} has signs that a terminal would obey, in {text!r}")


def _texts(value: Any) -> Iterator[str]:
    """Every text in JSON values, also the names."""
    if isinstance(value, dict):
        yield from value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(one)
    if isinstance(value, str):
        yield value


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and ":" not in name and name != ""
