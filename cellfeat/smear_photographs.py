"""The photographs of smears: which there are, of which patient, each file once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from cellfeat.decode import IMAGE_SUFFIXES, ImageError
from cellfeat.edited_tables import read_lines
from cellfeat.errors import CellfeatError
from cellfeat.folder_levels import patients_by
from cellfeat.scan import Memory, ProgressBar, Skipped, examine_all, find_images, refuse_or_skip

UNSAFE = re.compile(r"[^\w.-]+")  # in the name of a file, on every system
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # one letter and a colon is a drive of Windows
LONGEST_NAME = 80  # characters; a folder's path and `/0001.png` come in addition
COLUMNS = ("path", "patient")  # of a CSV of photographs


@dataclass(frozen=True)
class Photograph:
    """One field of a smear. name: short, unique, fit for a file. said: the path as the user knows it. width, height:
    px, and sha256, once it was looked into."""

    name: str
    path: Path
    patient: str
    said: str
    width: int = 0
    height: int = 0
    sha256: str = ""


@dataclass(frozen=True)
class Photographs:
    """Photographs in the order of their names. rule: how they were given to patients, as a sentence's end."""

    fields: tuple[Photograph, ...]
    rule: str
    skipped: tuple[Skipped, ...] = ()

    @property
    def patients(self) -> list[str]:
        """Their names, sorted."""
        return sorted({one.patient for one in self.fields})

    def looked_into(
        self, skip_bad: bool, progress: ProgressBar | None = None, known: Memory | None = None
    ) -> Photographs:
        """Every file decoded once, with its size and digest.

        Raises: CellfeatError for one that cannot be read, or has the same content as another one, since its cells would
        be counted twice; with `skip_bad` such files are left out instead.
        """
        facts = examine_all([one.path for one in self.fields], progress, "checking photographs", known=known)
        kept: list[Photograph] = []
        skipped: list[Skipped] = []
        first: dict[str, str] = {}
        for one, fact in zip(self.fields, facts, strict=True):
            if isinstance(fact, ImageError):
                skipped.append(Skipped(one.name, str(one.path), str(fact)))
            elif fact.sha256 in first:
                reason = f"{one.said} is the same file as {first[fact.sha256]}, and its cells would be counted twice"
                skipped.append(Skipped(one.name, str(one.path), reason))
            else:
                first[fact.sha256] = one.said
                kept.append(replace(one, width=fact.width, height=fact.height, sha256=fact.sha256))
        refuse_or_skip(skipped, skip_bad, "photographs")
        if not kept:
            raise CellfeatError(f"{skipped[0].reason}; no photograph is left")
        return replace(self, fields=tuple(kept), skipped=tuple(skipped))


def listed(sources: Sequence[Path], patient: str | None = None, patient_from: str | None = None) -> Photographs:
    """The photographs that files, folders at any depth, or one CSV `path,patient` name.

    patient: all are of this one. patient_from: a regular expression whose first bracket is the patient in a path. Else
    a CSV says it, or the folders below a named folder; where several folders are named, a photograph right in one of
    them is of the patient that this folder is called after; any other is a patient of its own, since fields of
    different patients that were joined unseen would give a wrong count.

    Raises: CellfeatError for what does not exist, holds no image, or is said twice.
    """
    if patient is not None and patient_from is not None:
        raise CellfeatError("--patient and --patient-from both say whose photographs these are; give one of them")
    if patient is not None and not patient.strip():
        raise CellfeatError("--patient is empty; give the patient of these photographs a name")
    table = len(sources) == 1 and sources[0].suffix.lower() == ".csv"
    if table and (patient or patient_from):
        raise CellfeatError(f"{sources[0]} says the patients; leave out --patient and --patient-from")
    found = _of_table(sources[0]) if table else _of_files(sources)
    twice = [path for path, count in Counter(path.resolve() for _, path, _ in found).items() if count > 1]
    if twice:
        raise CellfeatError(f"{twice[0]} is named twice, and its cells would be counted twice; name it once")
    said = [text for text, _, _ in found]
    names = _names(said)
    if patient is not None:
        return _made(found, names, [patient] * len(found), "all of one patient, as --patient says")
    if patient_from is not None:
        whose = patients_by(patient_from, said, "--patient-from")
        return _made(found, names, whose, "patients as --patient-from finds them in the paths")
    whose = [folder for _, _, folder in found]
    if table:
        return _made(found, names, whose, f"patients as {sources[0]} says")
    if not any(whose):
        rule = "each a patient of its own" if len(found) > 1 else "one patient"
        more = "; for fields of one patient give --patient NAME, or a folder for each patient" if len(found) > 1 else ""
        return _made(found, names, whose, rule + more)
    return _made(found, names, whose, "patients by the folders that they lie in")


Found = tuple[str, Path, str]  # as the user knows it, the file, the patient or ""


def _made(found: Sequence[Found], names: Sequence[str], whose: Sequence[str], rule: str) -> Photographs:
    made = [
        Photograph(name, path, one or name, said)
        for name, (said, path, _), one in zip(names, found, whose, strict=True)
    ]
    return Photographs(tuple(sorted(made, key=lambda one: one.name)), rule)


def _of_files(sources: Sequence[Path]) -> list[Found]:
    found: list[Found] = []
    folders = [one for one in sources if one.is_dir()]
    often = Counter(one.resolve().name for one in folders)
    for source in sources:
        _refuse_url(source.as_posix())
        if not source.exists():
            raise CellfeatError(f"{source}: no such file or folder")
        if not source.is_dir():
            found.append((source.as_posix(), source, ""))
            continue
        called = source.resolve().name if often[source.resolve().name] == 1 else source.as_posix()
        images = find_images(source)
        if not images:
            raise CellfeatError(f"{source}: no images in this folder (looked for {', '.join(IMAGE_SUFFIXES)})")
        for path in images:
            inside = path.relative_to(source).parent.as_posix()
            above = called if len(folders) > 1 else ""
            whose = "/".join(part for part in (above, "" if inside == "." else inside) if part)
            found.append((path.as_posix(), path, whose))
    if not found:
        raise CellfeatError("no photographs were named; name image files or folders of them")
    return found


def _of_table(path: Path) -> list[Found]:
    """The rows of a CSV; paths are relative to its folder."""
    lines = read_lines(path)
    names = list(lines[0].values) if lines else []
    if not set(COLUMNS) <= set(names):
        raise CellfeatError(
            f"{path}: a table of photographs has the columns path and patient, and a line for each photograph; found: "
            f"{', '.join(names) or 'no lines'}"
        )
    for number, row in lines:
        if empty := [name for name in COLUMNS if not row.get(name)]:
            raise CellfeatError(f"{path}: line {number}: {empty[0]} is empty")
        _refuse_url(row["path"], f"{path}: line {number}: ")
    return [(row["path"], path.parent / row["path"], row["patient"]) for _, row in lines]


def _refuse_url(path: str, place: str = "") -> None:
    """A path of the command line has lost a slash of its two."""
    if URL.match(path):
        raise CellfeatError(f"{place}{path} is no file of this machine; download the photographs first")


def _names(said: Sequence[str]) -> list[str]:
    """A short name of each path: the file's, with as many folders before it as tell it from all others."""
    parts = [PurePosixPath(one).with_suffix("").parts for one in said]
    depth = [1] * len(parts)
    for _ in range(max(map(len, parts))):
        names = [safe_name("-".join(part[-count:])) for part, count in zip(parts, depth, strict=True)]
        often = Counter(name.casefold() for name in names)  # as Windows and a Mac tell files apart
        if max(often.values()) == 1:
            return names
        depth = [count + (often[name.casefold()] > 1) for name, count in zip(names, depth, strict=True)]
    seen: Counter[str] = Counter()
    unique = []
    for name in names:  # a.png beside a.jpg
        seen[name.casefold()] += 1
        unique.append(name if often[name.casefold()] == 1 else f"{name}_{seen[name.casefold()]}")
    return unique


def safe_name(name: str) -> str:
    """Letters, digits, `.`, `_` and `-` alone, as every file system takes them."""
    return UNSAFE.sub("_", name).strip("-._")[-LONGEST_NAME:] or "field"
