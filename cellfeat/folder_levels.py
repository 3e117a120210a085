"""What the levels of a ward's folders are: class, patient, or nothing; and what in them a user should be told."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from cellfeat.decode import IMAGE_SUFFIXES
from cellfeat.errors import CellfeatError, unknown

CLASS, PATIENT, NOTHING = "class", "patient", "-"
LEVELS = (CLASS,)  # DIR/<class>/…
SYSTEM_FILES = ("thumbs.db", "desktop.ini", "ehthumbs.db")  # Windows' own; a Mac's begin with a dot
NAMED = 5  # so many names in one line


def parse_levels(text: str) -> tuple[str, ...]:
    """Levels from "class/patient"; Raises: CellfeatError for an unknown word, or without exactly one class."""
    levels = tuple(part.strip().lower() for part in text.strip().strip("/").split("/"))
    for name in levels:
        if name not in (CLASS, PATIENT, NOTHING):
            raise CellfeatError(unknown("level of folders", name, (CLASS, PATIENT, NOTHING), "As in class/patient"))
    if levels.count(CLASS) != 1 or levels.count(PATIENT) > 1:
        raise CellfeatError(f"--levels {text}: one level is the class and at most one the patient, as in class/patient")
    return levels


def place(folders: Sequence[str], levels: Sequence[str]) -> tuple[str | None, str]:
    """(class, patient) of an image by the folders that it lies in, outermost first; None and "" where there is none."""
    named = dict(zip(levels, folders, strict=False))
    return named.get(CLASS), named.get(PATIENT, "")


def check_levels(
    directory: Path, folders: Iterable[Sequence[str]], levels: Sequence[str], known: Callable[[str], object]
) -> None:
    """Refuse levels by which folders of patients, or one folder around all, would become the classes.

    folders: of every image, those that it lies in. known: whether a word means a kind of cell.

    Raises: CellfeatError when no folder on the level of the class has the name of a cell and those on another level do.
    """
    paths = [tuple(one) for one in folders]
    here = levels.index(CLASS)
    if any(known(name) for name in _names(paths, here)):
        return
    for level in range(max(map(len, paths), default=0)):
        cells = [name for name in _names(paths, level) if known(name)]
        if level == here or not cells or 2 * len(cells) < len(_names(paths, level)):
            continue
        outside = _names(paths, here)
        if level == here + 1 and len(outside) == 1 and len(levels) == 1:
            remedy = f"index that folder: {directory / outside[0]}"
        else:
            words = [PATIENT if number == level - 1 else NOTHING for number in range(level)]
            after = [PATIENT] if level < here and PATIENT in levels else []
            remedy = f"say which level is which: --levels {'/'.join([*words, CLASS, *after])}"
            if level == 1 and not after:
                remedy += ", or index each of them by itself where they are laboratories"
        raise CellfeatError(
            f"{directory}: the folders that would be classes ({_listed(outside)}) are not named like cells, but those "
            f"on level {level + 1} are ({_listed(cells)}); {remedy}"
        )


def _names(paths: Iterable[Sequence[str]], level: int) -> list[str]:
    return sorted({path[level] for path in paths if len(path) > level})


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def patients_by(pattern: str, paths: Sequence[str], option: str) -> list[str]:
    """What the pattern's first bracket holds in each path, "" where it finds nothing.

    Raises: CellfeatError, naming the option, for no pattern, one without a bracket, and one that finds nothing at all.
    """
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise CellfeatError(f"{option} {pattern}: not a regular expression ({error})") from None
    if wanted.groups < 1:
        raise CellfeatError(f"{option} {pattern}: put brackets around the patient, as in '(P[0-9]+)_'")
    matches = [wanted.search(path) for path in paths]
    found = [(match[1] or "") if match else "" for match in matches]
    if not any(found):
        raise CellfeatError(f"{option} {pattern}: finds nothing in any path, e.g. {paths[0]}")
    return found


def remarks(directory: Path, images: Sequence[Path], levels: Sequence[str]) -> list[str]:
    """One line each, with what to do, for stray images, folders inside the classes, empty folders and other files."""
    inside = [path.relative_to(directory).parts[:-1] for path in images]
    empty, others = _without_images(directory)
    said = []
    if stray := sum(len(folders) <= levels.index(CLASS) for folders in inside):
        said.append(
            f"{_count(stray, 'image lies', 'images lie')} in no class folder: move each into one, or leave it out here "
            "and classify it later (cellfeat predict needs no folders)"
        )
    deeper = Counter(folders[: len(levels) + 1] for folders in inside if len(folders) > len(levels))
    if PATIENT not in levels and deeper:
        first = "/".join(min(deeper))
        said.append(
            f"the class folders hold {_count(len(deeper), 'folder', 'folders')} ({first}, …); where these are patients "
            f"or slides, say so, or one patient's cells train and test the model: --levels {'/'.join(levels)}/patient"
        )
    if PATIENT in levels and (alone := sum(levels.index(CLASS) < len(folders) < len(levels) for folders in inside)):
        said.append(f"{_count(alone, 'image lies', 'images lie')} in no patient's folder: each counts as a patient")
    if empty:
        said.append(f"no image in {_listed(empty)}: nothing comes of {'it' if len(empty) == 1 else 'them'}")
    if others:
        endings = ", ".join(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)
        said.append(
            f"{_count(len(others), 'file is', 'files are')} not named like an image and left alone: {_listed(others)} "
            f"(read are {endings})"
        )
    return said


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _without_images(directory: Path) -> tuple[list[str], list[str]]:
    """Folders right below `directory` without any image, and files that are no images, but for the systems' own."""
    empty, others = [], []
    for top in sorted(path for path in directory.iterdir() if not path.name.startswith(".")):
        images = 0
        for parent, folders, files in os.walk(top):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            shown = [name for name in sorted(files) if not name.startswith(".")]
            images += sum(name.lower().endswith(IMAGE_SUFFIXES) for name in shown)
            left = [name for name in shown if not name.lower().endswith((*IMAGE_SUFFIXES, *SYSTEM_FILES))]
            others += [(Path(parent) / name).relative_to(directory).as_posix() for name in left]
        if top.is_dir() and not images:
            empty.append(top.name)
        elif top.is_file() and not top.name.lower().endswith((*IMAGE_SUFFIXES, *SYSTEM_FILES)):
            others.append(top.name)
    return empty, others
