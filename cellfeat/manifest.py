"""The manifest CSV: one row per image, paths relative to the file's folder. Read with line numbers, written whole."""

from __future__ import annotations

import csv
import io
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cellfeat import storage
from cellfeat.artifacts import atomic_file
from cellfeat.errors import CellfeatError, unknown

REQUIRED = ("id", "path", "label", "domain")
PATH_COLUMNS = ("path", "mask_path")
LARGEST = 4 << 30  # bytes of a manifest that is read from elsewhere
LONGEST_DOMAIN = (100, 200)  # characters, bytes as UTF-8


@dataclass(frozen=True)
class Row:
    """One line of a manifest. values: every column by name, stripped; path, mask_path: absolute or as the CSV is, and
    strings where they are URLs."""

    line: int
    values: Mapping[str, str]
    path: Path | str
    mask_path: Path | str | None

    def __getitem__(self, column: str) -> str:
        return self.values.get(column, "")


def read_rows(manifest: Path | str) -> list[Row]:
    """The rows of a manifest, a file or a URL, in file order; the content of single rows is not judged here.

    Raises: CellfeatError when the file is absent, no UTF-8 CSV, lacks a column or has no rows.
    """
    manifest = storage.located(str(manifest))
    if isinstance(manifest, Path) and manifest.is_dir():
        raise CellfeatError(f"{manifest}: a folder, not a manifest; make one with: cellfeat data index KIND {manifest}")
    if isinstance(manifest, Path) and not manifest.is_file():
        raise CellfeatError(f"{manifest}: no such manifest")
    try:
        with _opened(manifest) as file:
            reader = csv.reader(file, strict=True)
            header = _checked_header(manifest, next(reader, []))
            rows = [_row(manifest, header, reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
    except UnicodeDecodeError as error:
        raise CellfeatError(f"{manifest}: not UTF-8 text (byte {error.start}); save it as a UTF-8 CSV") from None
    except csv.Error as error:
        raise CellfeatError(f"{manifest}: not a CSV file: line {reader.line_num}: {error}") from None
    except FileNotFoundError:
        raise CellfeatError(f"{manifest}: no such manifest") from None
    except OSError as error:
        raise CellfeatError(f"{manifest}: cannot be read ({error.strerror or error})") from None
    if not rows:
        raise CellfeatError(f"{manifest}: no rows below the header; a manifest has one row per image")
    return rows


@contextmanager
def _opened(manifest: Path | str) -> Iterator[io.TextIOBase]:
    if isinstance(manifest, Path):
        with manifest.open(encoding="utf-8-sig", newline="") as file:
            yield file
        return
    data = storage.read(manifest, LARGEST)
    if len(data) > LARGEST:
        raise CellfeatError(f"{manifest}: more than {LARGEST / 1e9:.1f} GB, too large for a manifest; divide it")
    yield io.StringIO(data.decode("utf-8-sig"), newline="")


def _checked_header(manifest: Path | str, names: list[str]) -> list[str]:
    header = [name.strip() for name in names]
    if not any(header):
        raise CellfeatError(f"{manifest}: empty; a manifest begins with the line {','.join(REQUIRED)}")
    missing = [name for name in REQUIRED if name not in header]
    if missing and len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        raise CellfeatError(f"{manifest}: its columns are not separated by commas; save it with commas")
    if missing:
        found = ", ".join(name[:40] for name in header[:12])
        raise CellfeatError(
            f"{manifest}: no column {' and no column '.join(map(repr, missing))}; found: {found}. A manifest has "
            f"{','.join(REQUIRED)} and, optionally, mask_path and group"
        )
    if len(set(header)) != len(header):
        raise CellfeatError(f"{manifest}: a column is there twice: {', '.join(header)}")
    return header


def _row(manifest: Path | str, header: Sequence[str], line: int, cells: Sequence[str]) -> Row:
    if len(cells) != len(header):
        raise CellfeatError(
            f"{manifest}: line {line} has {len(cells)} fields, the header {len(header)}; quote a field that has commas"
        )
    values = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
    folder = manifest.parent if isinstance(manifest, Path) else storage.parent(manifest)
    mask = values.get("mask_path")
    return Row(line, values, storage.located(values["path"], folder), storage.located(mask, folder) if mask else None)


def row_problems(rows: Iterable[Row], files: bool = True) -> dict[int, str]:
    """{line: what is wrong} for empty fields, ids given twice, domains that cannot name a folder and, with `files`,
    paths that are no files."""
    problems: dict[int, str] = {}
    first: dict[str, int] = {}
    for row in rows:
        empty = [name for name in REQUIRED if not row[name] and name != "label"]  # no label: a cell to be classified
        if empty:
            problems[row.line] = f"{' and '.join(empty)} {'is' if len(empty) == 1 else 'are'} empty"
        elif row["id"] in first:
            problems[row.line] = f"id {row['id']!r} was already given in line {first[row['id']]}; ids must be unique"
        elif wrong := domain_problem(row["domain"]):
            problems[row.line] = wrong
        elif files:
            wrong = next(filter(None, map(_path_problem, (row.path, row.mask_path))), None)
            if wrong:
                problems[row.line] = wrong
        first.setdefault(row["id"], row.line)
    return problems


def domain_problem(domain: str) -> str | None:
    """Why a domain cannot name a folder, which a run keeps for each source domain; None when it can."""
    characters, octets = LONGEST_DOMAIN
    if domain in (".", ".."):
        why = "it stands for another folder"
    elif mark := next((mark for mark in domain if mark in "/\\" or _is_control(mark)), None):
        why = f"it has the character {mark!r}"
    elif len(domain) > characters or len(domain.encode()) > octets:
        why = f"it is longer than {characters} characters, or {octets} bytes"
    else:
        return None
    return f"domain {domain[:40]!r}{'…' if len(domain) > 40 else ''} cannot name a folder: {why}; choose another name"


def _is_control(mark: str) -> bool:
    """Control characters, line and paragraph separators, and what is left of bytes that are no UTF-8."""
    return unicodedata.category(mark) in ("Cc", "Cs", "Zl", "Zp")


def _path_problem(path: Path | str | None) -> str | None:
    if isinstance(path, str):  # whether there is such a file is seen when it is read
        wrong = storage.problem(path)
        return wrong and f"{path[:80]}: {wrong}"
    try:
        if path is None or path.is_file():
            return None
        if path.is_dir():
            return f"{path} is a folder, not an image"
        return f"{path} is not a regular file" if path.exists() else f"{path}: no such file"
    except (OSError, ValueError) as error:  # name too long, a zero byte in it
        return f"path {str(path)[:80]!r} cannot be a file ({error})"


def write_manifest(manifest: Path | str, rows: Sequence[Mapping[str, str | Path]]) -> None:
    """Write rows (column: value) sorted by id, their paths relative to the new file; nothing is overwritten.

    Columns: the four required ones, then the others in the order in which they first appear.
    """
    manifest = Path(manifest)
    refuse_existing(manifest)
    columns = list(dict.fromkeys((*REQUIRED, *(name for row in rows for name in row))))
    folder = manifest.parent.resolve()
    with atomic_file(manifest) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        for row in sorted(rows, key=lambda row: str(row["id"])):
            paths = {name: relative(row[name], folder) for name in PATH_COLUMNS if row.get(name)}
            writer.writerow({**row, **paths})


def refuse_existing(path: Path | str) -> None:
    """Raises: CellfeatError when a file of this name exists; results are never overwritten."""
    if Path(path).exists():
        raise CellfeatError(f"{path} exists and is never overwritten; choose another name or move it away")


def relative(path: str | Path, folder: Path) -> str:
    """`path` as seen from `folder` (absolute, without links), with forward slashes; a URL as it is."""
    if storage.is_url(path):
        return str(path)
    path = Path(path)
    absolute = path.parent.resolve() / path.name  # a link to an image stays the link
    try:
        return Path(os.path.relpath(absolute, folder)).as_posix()
    except ValueError:  # another drive
        return absolute.as_posix()


def merge_manifests(manifests: Sequence[Path | str], out: Path | str) -> int:
    """Join manifests into one, with all their columns; returns the number of rows.

    Raises: CellfeatError for an id that two of them share, naming both places, and for empty fields.
    """
    refuse_existing(out)
    place: dict[str, str] = {}
    merged: list[dict[str, str | Path]] = []
    for manifest in manifests:
        rows = read_rows(manifest)
        for line, problem in row_problems(rows, files=False).items():
            raise CellfeatError(f"{manifest}: line {line}: {problem}")
        for row in rows:
            here = f"{manifest} line {row.line}"
            if row["id"] in place:
                raise CellfeatError(f"id {row['id']!r} is in {place[row['id']]} and in {here}; ids must be unique")
            place[row["id"]] = here
            paths: dict[str, str | Path] = {"path": row.path}
            if row.mask_path:
                paths["mask_path"] = row.mask_path
            merged.append({**row.values, **paths})
    write_manifest(out, merged)
    return len(merged)


def chosen_domains(rows: Sequence[Row], domains: Iterable[str] | None) -> list[Row]:
    """The rows of some domains; raises CellfeatError for a domain that no row has."""
    if domains is None:
        return list(rows)
    wanted = set(domains)
    there = {row["domain"] for row in rows}
    for name in sorted(wanted - there):
        raise CellfeatError(unknown("domain", name, there - {""}))
    return [row for row in rows if row["domain"] in wanted]
