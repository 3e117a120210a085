"""Published folder layouts, and a folder per class, to the rows of a manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cellfeat import folder_levels
from cellfeat.decode import IMAGE_SUFFIXES, ImageError
from cellfeat.errors import CellfeatError, unknown
from cellfeat.labels import ACEVEDO20, MATEK19
from cellfeat.manifest import domain_problem, refuse_existing, write_manifest
from cellfeat.scan import ImageFacts, ProgressBar, Skipped, examine_all, find_images, refuse_or_skip, write_skipped
from cellfeat.synonyms import meaning


class Found(NamedTuple):
    """One image of a layout. label: canonical, or None when it is dropped, then `reason` says why. group: patient."""

    path: Path
    name: str  # becomes the id, behind the domain
    label: str | None
    reason: str = ""
    extra: Mapping[str, str] = {}
    group: str = ""


@dataclass(frozen=True)
class IndexResult:
    """What `index_dataset` made of a folder.

    rows: columns of a manifest, in the order of ids; found: images seen; dropped: reason -> count; bad: files that
    cannot be read; duplicates: ids of byte-identical images, in groups; remarks: what else the user should know.
    """

    rows: list[dict[str, str | Path]]
    found: int
    dropped: dict[str, int]
    bad: tuple[Skipped, ...]
    duplicates: tuple[tuple[str, ...], ...]
    remarks: tuple[str, ...] = ()

    @property
    def accepted(self) -> int:
        return len(self.rows)


def index_dataset(
    kind: str,
    directory: Path | str,
    domain: str,
    skip_bad: bool = False,
    progress: ProgressBar | None = None,
    workers: int | None = None,
    levels: str | None = None,
    group_from: str | None = None,
) -> IndexResult:
    """List the images of a layout (see `KINDS`) and decode every one that is accepted once.

    levels: what the levels of `folders` are, as in "class/patient". group_from: a regular expression whose first group,
    found in an image's path below `directory`, is its patient or slide. Groups are named behind the domain, so that the
    third patients of two laboratories stay two.

    Raises: CellfeatError for an unknown kind, a folder without images of that layout, a domain that is empty or
    cannot name a folder, levels that do not fit, and, unless `skip_bad`, for files that cannot be read.
    """
    _check_request(kind, domain, levels)
    directory = Path(directory)
    images = find_images(directory)
    if not images:
        raise CellfeatError(f"{directory}: no images in this folder (looked for {', '.join(IMAGE_SUFFIXES)})")
    lister = KINDS[kind] if levels is None else partial(_class_folders, levels=folder_levels.parse_levels(levels))
    found, remarks = lister(directory, images)
    kept = [item for item in found if item.label is not None]
    dropped = Counter(item.reason for item in found if item.label is None)
    if not kept:
        raise CellfeatError(_nothing_fits(kind, directory, dropped))
    if group_from is not None:
        kept, more = _grouped(kept, directory, group_from)
        remarks += more
    ids = _ids(kept, domain.strip(), directory)
    facts = examine_all([item.path for item in kept], progress, workers=workers)
    rows, bad = [], []
    for item, key, fact in zip(kept, ids, facts, strict=True):
        if isinstance(fact, ImageError):
            bad.append(Skipped(key, str(item.path), str(fact)))
        else:
            rows.append(_manifest_row(item, key, domain.strip(), fact))
    refuse_or_skip(bad, skip_bad, "files")
    rows.sort(key=lambda row: str(row["id"]))
    return IndexResult(rows, len(found), dict(sorted(dropped.items())), tuple(bad), _duplicates(rows), tuple(remarks))


def write_index(
    kind: str,
    directory: Path | str,
    domain: str,
    out: Path,
    skip_bad: bool = False,
    progress: ProgressBar | None = None,
    levels: str | None = None,
    group_from: str | None = None,
) -> IndexResult:
    """`index_dataset`, written as a manifest, and files that cannot be read as NAME-skipped.csv beside NAME.csv.

    Raises: CellfeatError as `index_dataset`, and before any work for a file that exists.
    """
    refuse_existing(out)
    if skip_bad:
        refuse_existing(skipped_beside(out))
    result = index_dataset(kind, directory, domain, skip_bad, progress, levels=levels, group_from=group_from)
    write_manifest(out, result.rows)
    if result.bad:
        write_skipped(skipped_beside(out), result.bad)
    return result


def skipped_beside(out: Path) -> Path:
    return out.with_name(f"{out.stem}-skipped.csv")


def _check_request(kind: str, domain: str, levels: str | None) -> None:
    if kind not in KINDS:
        raise CellfeatError(unknown("kind of data set", kind, KINDS))
    if levels is not None and kind != "folders":
        raise CellfeatError(f"--levels belongs to folders; {kind} has a published layout")
    if not domain.strip():
        raise CellfeatError("the domain is empty; name the laboratory or data set: --domain NAME")
    if problem := domain_problem(domain.strip()):
        raise CellfeatError(f"--domain: {problem}")


def _nothing_fits(kind: str, directory: Path, dropped: Mapping[str, int]) -> str:
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(dropped.items()))
    remedy = "; sort them into a folder per class. To have them classified, no folders are needed: cellfeat predict"
    return f"{directory}: none of {sum(dropped.values())} images fits the layout {kind} ({reasons})" + (
        remedy if kind == "folders" else ""
    )


def _grouped(items: Iterable[Found], directory: Path, pattern: str) -> tuple[list[Found], list[str]]:
    """The images with the patients that a pattern finds in their paths, and how many there are."""
    items = list(items)
    paths = [item.path.relative_to(directory).as_posix() for item in items]
    groups = folder_levels.patients_by(pattern, paths, "--group-from")
    without = groups.count("")
    said = [f"no patient in the names of {without:,} images: each counts as one"] if without else []
    return [item._replace(group=group) for item, group in zip(items, groups, strict=True)], said


def _manifest_row(item: Found, key: str, domain: str, fact: ImageFacts) -> dict[str, str | Path]:
    size = {"width": str(fact.width), "height": str(fact.height), "sha256": fact.sha256}
    group = {"group": f"{domain}_{item.group}"} if item.group else {}
    return {"id": key, "path": item.path, "label": str(item.label), "domain": domain, **group, **item.extra, **size}


def _ids(items: Iterable[Found], domain: str, directory: Path) -> list[str]:
    """domain_name, or domain_path where two files have one name."""
    items = list(items)
    often = Counter(item.name for item in items)
    paths = [item.path.relative_to(directory).as_posix() for item in items]
    return [f"{domain}_{item.name if often[item.name] == 1 else path}" for item, path in zip(items, paths, strict=True)]


def _duplicates(rows: Iterable[Mapping[str, str | Path]]) -> tuple[tuple[str, ...], ...]:
    same: dict[str, list[str]] = {}
    for row in rows:
        same.setdefault(str(row["sha256"]), []).append(str(row["id"]))
    return tuple(tuple(ids) for ids in same.values() if len(ids) > 1)


def _class_folders(
    directory: Path, images: Iterable[Path], levels: Sequence[str] = folder_levels.LEVELS
) -> tuple[list[Found], list[str]]:
    """DIR/<class>/…/<name>, or as `levels` say: the label is the name of a folder, as it is written."""
    images = list(images)
    inside = [path.relative_to(directory).parts[:-1] for path in images]
    folder_levels.check_levels(directory, inside, levels, meaning)
    found = []
    for path, folders in zip(images, inside, strict=True):
        label, patient = folder_levels.place(folders, levels)
        name = "_".join((*folders, path.stem)) if label else path.stem
        found.append(Found(path, name, label, "" if label else "in no class folder", group=patient))
    return found, folder_levels.remarks(directory, images, levels)


def _acevedo20(directory: Path, images: Iterable[Path]) -> tuple[list[Found], list[str]]:
    """PBC_dataset_normal_DIB/<folder>/<PREFIX>_<n>.jpg: the prefix is the class, the folder is coarser."""
    found = [_coded(path, ACEVEDO20, path.stem.partition("_")[0]) for path in images]
    return found, _dropped_codes(found)


def _matek19(directory: Path, images: Iterable[Path]) -> tuple[list[Found], list[str]]:
    """<CODE>/<CODE>_<n>.tiff: the code in the file's name is the class, as in DoRL.

    A few images were labelled again, twice, by an expert; `annotations.dat` has these labels, which become the
    columns reannotation_1 and reannotation_2 and change nothing else.
    """
    annotations = _annotations(directory)
    listed = bool(annotations)
    found, disagree = [], 0
    for path in images:
        item = _coded(path, MATEK19, path.stem.partition("_")[0])
        if listed:
            label, first, second = annotations.pop(path.stem, ("", "", ""))
            disagree += bool(label) and label != item.extra.get("source_label", label)
            item = item._replace(extra={**item.extra, "reannotation_1": first, "reannotation_2": second})
        found.append(item)
    remarks = _dropped_codes(found)
    if disagree:
        remarks.append(f"{disagree} images have another code in annotations.dat than in their name; the name counts")
    if annotations:
        remarks.append(f"{len(annotations)} images named in annotations.dat are not in the folder")
    return found, remarks


def _coded(path: Path, codes: Mapping[str, str | None], code: str) -> Found:
    code = code.upper()
    if code not in codes:
        return Found(path, path.stem, None, "unrecognised name")
    return Found(path, path.stem, codes[code], code, {"source_label": code})


def _dropped_codes(found: Iterable[Found]) -> list[str]:
    codes = sorted({item.reason for item in found if item.label is None and "source_label" in item.extra})
    return [f"dropped, as in the published studies: {', '.join(codes)}"] if codes else []


def _annotations(directory: Path) -> dict[str, tuple[str, str, str]]:
    """{stem of the image: (code, first and second re-annotation, "" where there is none)} of `annotations.dat`."""
    path = next((one for one in sorted(directory.rglob("annotations.dat"))), directory.parent / "annotations.dat")
    if not path.is_file():
        return {}
    table: dict[str, tuple[str, str, str]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CellfeatError(f"{path}: cannot be read ({error})") from None
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if fields and len(fields) != 4:
            raise CellfeatError(f"{path}: line {number} is not 'path code re-annotation re-annotation': {line[:80]!r}")
        if fields:
            name, *codes = fields
            first, *rest = ("" if code == "nan" else code for code in codes)
            table[Path(name).stem] = (first, rest[0], rest[1])
    return table


Lister = Callable[[Path, Iterable[Path]], tuple[list[Found], list[str]]]
KINDS: dict[str, Lister] = {"folders": _class_folders, "acevedo20": _acevedo20, "matek19": _matek19}
