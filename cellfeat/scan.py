"""Many image files at once: find them below a folder, decode each once, keep digest and size."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from cellfeat.artifacts import atomic_file
from cellfeat.decode import IMAGE_SUFFIXES, ImageError, image_digest, read_bytes, read_mask, read_rgb, read_size
from cellfeat.errors import CellfeatError

ProgressBar = Callable[[int, str], AbstractContextManager[Any]]  # cellfeat.console.progress is one


class ImageFacts(NamedTuple):
    """What is known of an image that was decoded once. sha256: of the file; width, height: in px, upright."""

    sha256: str
    width: int
    height: int


class Memory(Protocol):
    """What earlier runs found in files: `cellfeat.known_files.KnownFiles`."""

    def recall(self, paths: Sequence[Path | str], mask: bool = False) -> Sequence[ImageFacts | None]: ...

    def stamps(self, paths: Sequence[Path | str]) -> Sequence[str | None]: ...

    def remember(self, facts: Iterable[tuple[Path | str, str | None, ImageFacts]], mask: bool = False) -> None: ...


class Skipped(NamedTuple):
    """An image, or a row of a manifest, that was left out, and why."""

    id: str
    path: str
    reason: str


def examine(path: Path | str, mask: bool = False) -> ImageFacts:
    """Decode one file completely and say what it is. Raises: ImageError."""
    data = read_bytes(path)
    pixels = read_mask(data, name=str(path)) if mask else read_rgb(data, name=str(path))
    return ImageFacts(image_digest(data), pixels.shape[1], pixels.shape[0])


def examine_all(
    paths: Sequence[Path | str],
    progress: ProgressBar | None = None,
    text: str = "checking images",
    mask: bool = False,
    workers: int | None = None,
    known: Memory | None = None,
) -> list[ImageFacts | ImageError]:
    """`examine` for many files, results in order; on all cores, as decoding releases the interpreter's lock.

    known: what need not be decoded again.
    """
    facts: list[ImageFacts | ImageError | None] = [*known.recall(paths, mask)] if known else [None] * len(paths)
    unknown = [place for place, fact in enumerate(facts) if fact is None]
    if not unknown:
        return [fact for fact in facts if fact is not None]
    stamps = known.stamps([paths[place] for place in unknown]) if known else []

    def outcome(path: Path | str) -> ImageFacts | ImageError:
        try:
            return examine(path, mask)
        except ImageError as error:
            return error

    show = progress or (lambda total, text: nullcontext())
    with show(len(unknown), text) as bar, ThreadPoolExecutor(workers or _cores()) as pool:
        for place, result in zip(unknown, pool.map(outcome, [paths[place] for place in unknown]), strict=True):
            facts[place] = result
            if bar is not None:
                bar.advance(1)
    if known:
        found = ((paths[place], stamp, facts[place]) for place, stamp in zip(unknown, stamps, strict=True))
        known.remember([(path, stamp, fact) for path, stamp, fact in found if isinstance(fact, ImageFacts)], mask)
    return [fact for fact in facts if fact is not None]


def header_sizes(paths: Sequence[Path | str], workers: int | None = None) -> list[tuple[int, int] | None]:
    """(width, height) of many images from their headers; None where there is none to read."""

    def size(path: Path | str) -> tuple[int, int] | None:
        try:
            return read_size(path)
        except ImageError:
            return None

    with ThreadPoolExecutor(workers or _cores()) as pool:
        return list(pool.map(size, paths))


def find_images(folder: Path) -> list[Path]:
    """Every file below a folder that is named like an image, sorted; hidden files and folders are left out."""
    folder = Path(folder)
    if not folder.is_dir():
        raise CellfeatError(f"{folder}: {'a file, not a folder' if folder.exists() else 'no such folder'}")
    found: list[Path] = []
    seen: set[str] = set()  # links are followed, but never in a circle
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_refuse_folder):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = (name for name in files if not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES))
        found.extend(Path(parent) / name for name in names)
    return sorted(found)


def refuse_or_skip(skipped: Sequence[Skipped], skip_bad: bool, what: str) -> None:
    """Stop at bad files or rows with the first one's reason and their number, unless they may be left out."""
    if not skipped or skip_bad:
        return
    more = f" (and {len(skipped) - 1} more bad {what})" if len(skipped) > 1 else ""
    raise CellfeatError(f"{skipped[0].reason}{more}. --skip-bad leaves such {what} out and lists them")


def write_skipped(path: Path, skipped: Iterable[Skipped]) -> None:
    """A CSV `id,path,reason` of what was left out."""
    import csv

    with atomic_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Skipped._fields)
        writer.writerows(skipped)


def _refuse_folder(error: OSError) -> None:
    raise CellfeatError(f"{error.filename}: cannot be listed ({error.strerror})")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
