"""Data sets: which images there are, of which laboratory and class. Always in the order of their ids."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cellfeat.decode import ImageError
from cellfeat.errors import CellfeatError, unknown
from cellfeat.labels import Vocabulary, load_vocabulary
from cellfeat.manifest import Row, chosen_domains, read_rows, row_problems
from cellfeat.remarks import remarks_of, unmapped
from cellfeat.scan import ImageFacts, Memory, ProgressBar, Skipped, examine_all, refuse_or_skip, write_skipped
from cellfeat.types import UNLABELED

__all__ = [
    "Dataset",
    "Skipped",
    "check_images",
    "read_manifest",
    "without_classes",
    "write_skipped",
]


@dataclass(frozen=True)
class Dataset:
    """N images in the order of their ids; nothing of them is read yet, apart from what `check_images` keeps.

    id, domain, group: (N,) str; path: N files, or URLs as strings; label: (N,) int64 into `classes`, -1 = unknown.
    mask_path: the same, None where a row has no mask, or None when no row has one. dropped_by_domain: domain -> label
    -> number of rows that the vocabulary has no class for. skipped: bad rows and files that were left out. From
    `check_images`: image_digest and mask_digest, (N,) str, SHA-256 of the files ("" without a mask), and size, (N, 2)
    int64, width and height in px.
    """

    id: np.ndarray
    path: tuple[Path | str, ...]
    domain: np.ndarray
    label: np.ndarray
    classes: tuple[str, ...]
    group: np.ndarray
    source: str
    mask_path: tuple[Path | str | None, ...] | None = None
    dropped_by_domain: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    remarks: tuple[str, ...] = ()
    recorded_digest: np.ndarray | None = None  # the manifest's sha256 column, "" where it says nothing
    image_digest: np.ndarray | None = None
    mask_digest: np.ndarray | None = None
    size: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.id)

    @property
    def domains(self) -> tuple[str, ...]:
        """The names of the domains, sorted."""
        return tuple(np.unique(self.domain).tolist())

    @property
    def label_names(self) -> np.ndarray:
        """(N,) str, the class of each cell, "" where it is unknown."""
        return np.array([*self.classes, ""], dtype=str)[self.label]  # UNLABELED is -1, the last

    @property
    def dropped(self) -> dict[str, int]:
        """label -> number of rows, of all domains, that the vocabulary has no class for."""
        total = sum(map(Counter, self.dropped_by_domain.values()), Counter())
        return dict(sorted(total.items()))

    @property
    def digest(self) -> str:
        """SHA-256 over classes, ids, labels, domains and groups, and over images and masks once they were checked."""
        known = [column for column in (self.image_digest, self.mask_digest) if column is not None]
        columns = [column.tolist() for column in (self.id, self.label, self.domain, self.group, *known)]
        return hashlib.sha256(json.dumps([self.classes, columns]).encode()).hexdigest()

    def notes(self) -> list[str]:
        """What a user should be told about these data before any number."""
        return [*self.remarks, *([f"{len(self.skipped)} bad rows or files are left out"] if self.skipped else [])]

    def select(self, rows: np.ndarray | Sequence[int]) -> Dataset:
        """The given rows (indices, or a boolean mask), in the order of their ids."""
        index = np.sort(np.arange(len(self))[np.asarray(rows)])
        changes: dict[str, Any] = {"path": tuple(self.path[i] for i in index)}
        if self.mask_path is not None:
            changes["mask_path"] = tuple(self.mask_path[i] for i in index)
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                changes[name] = value[index]
        return replace(self, **changes)


def read_manifest(
    manifest: Path | str,
    vocabulary: Vocabulary | str | Path | None = None,
    domains: Iterable[str] | None = None,
    skip_bad: bool = False,
) -> Dataset:
    """A data set from a CSV `id,path,label,domain` (optional: mask_path, group, sha256; others are ignored).

    An empty label is a cell to be classified: -1.

    Paths are relative to the CSV's folder. vocabulary: a `Vocabulary`, its name or a YAML file; None takes the labels
    as they are. domains: only these. Without a group every cell is its own.

    Raises: CellfeatError for the first bad row with its line number, unless `skip_bad`, which leaves such rows out
    (`Dataset.skipped`); a file that is no manifest at all is always an error.
    """
    vocabulary = None if vocabulary is None else load_vocabulary(vocabulary)
    rows = chosen_domains(read_rows(manifest), domains)
    problems = row_problems(rows)
    sound = [row for row in rows if row.line not in problems]
    placed = {row.line: _place(row, vocabulary, problems) for row in sound}
    skipped = [
        Skipped(row["id"], str(row.path), f"{manifest}: line {row.line}: {problems[row.line]}")
        for row in rows
        if row.line in problems
    ]
    refuse_or_skip(skipped, skip_bad, "rows")
    without = [row for row in sound if placed[row.line] is None and row.line not in problems]
    kept = sorted((row for row in rows if placed.get(row.line) is not None), key=lambda row: row["id"])
    if not kept:
        labels = ", ".join(sorted({row["label"] for row in without}))
        found = f"only labels without a class: {labels}" if labels else skipped[0].reason.removeprefix(f"{manifest}: ")
        remedy = unmapped(vocabulary, str(manifest)) if labels else ""
        raise CellfeatError(f"{manifest}: no row is left of {len(rows)}; {found}{remedy}")
    names = [str(placed[row.line]) for row in kept]
    classes = vocabulary.classes if vocabulary else tuple(sorted(set(names) - {""}))
    data = from_rows(kept, [classes.index(name) if name else UNLABELED for name in names], classes, str(manifest))
    data = replace(data, dropped_by_domain=_count(without), skipped=tuple(skipped))
    remarks = remarks_of(vocabulary, [row.values for row in kept], names, data.dropped, str(manifest))
    return replace(data, remarks=remarks)


def without_classes(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """A data set less some classes of some domains, each named DOMAIN/CLASS; a name that is not there is refused."""
    kept = np.ones(len(dataset), dtype=bool)
    for name in names:
        domain, _, label = name.rpartition("/")
        if label not in dataset.classes:
            raise CellfeatError(
                unknown("class in dataset.leave_out", label, dataset.classes, "Written as DOMAIN/CLASS")
            )
        rows = (dataset.domain == domain) & (dataset.label == dataset.classes.index(label))
        if not rows.any():
            raise CellfeatError(
                f"dataset.leave_out: {name} names no cell; domains are {', '.join(dataset.domains)}, and a class is "
                "written as DOMAIN/CLASS"
            )
        kept &= ~rows
    return dataset if kept.all() else dataset.select(kept)


def _count(rows: Iterable[Row]) -> dict[str, dict[str, int]]:
    """{domain: {label: number of rows}}."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        counts.setdefault(row["domain"], Counter())[row["label"]] += 1
    return {domain: dict(labels) for domain, labels in sorted(counts.items())}


def _place(row: Row, vocabulary: Vocabulary | None, problems: dict[int, str]) -> str | None:
    """The row's class, "" for a row without a label, None for a label that the vocabulary drops."""
    if vocabulary is None or not row["label"]:
        return row["label"]
    try:
        return vocabulary.place(row["label"])
    except CellfeatError as error:
        problems[row.line] = str(error)
        return None


def from_rows(rows: Sequence[Row], labels: Sequence[int], classes: tuple[str, ...], source: str) -> Dataset:
    """The data set of sound rows in the order of their ids, with one label for each."""
    masks = tuple(row.mask_path for row in rows)
    recorded = np.array([row["sha256"].lower() for row in rows], dtype=str)
    return Dataset(
        id=np.array([row["id"] for row in rows], dtype=str),
        path=tuple(row.path for row in rows),
        domain=np.array([row["domain"] for row in rows], dtype=str),
        label=np.array(labels, dtype=np.int64),
        classes=classes,
        group=np.array([row["group"] or row["id"] for row in rows], dtype=str),
        source=source,
        mask_path=masks if any(masks) else None,
        recorded_digest=recorded if any(recorded) else None,
    )


def check_images(
    dataset: Dataset,
    skip_bad: bool = False,
    progress: ProgressBar | None = None,
    workers: int | None = None,
    known: Memory | None = None,
) -> Dataset:
    """Decode every image and mask once, in threads, and keep digests and sizes; what is `known` is not decoded again.

    Raises: CellfeatError with the first bad file and the number of others, unless `skip_bad`, which leaves them out.
    A file is bad when it cannot be decoded, when its mask has another size, or when it is not the one whose sha256
    the manifest holds.
    """
    images = examine_all(dataset.path, progress, "checking images", workers=workers, known=known)
    masks: list[ImageFacts | ImageError | None] = [None] * len(dataset)
    if dataset.mask_path is not None:
        rows = [row for row, path in enumerate(dataset.mask_path) if path is not None]
        paths = [path for path in dataset.mask_path if path is not None]
        found = examine_all(paths, progress, "checking masks", True, workers, known)
        for row, fact in zip(rows, found, strict=True):
            masks[row] = fact
    return settled(dataset, images, masks, skip_bad)


def settled(
    dataset: Dataset,
    images: Sequence[ImageFacts | ImageError],
    masks: Sequence[ImageFacts | ImageError | None],
    skip_bad: bool = False,
) -> Dataset:
    """The data set with what was found in each of its images and masks; raises and leaves out as `check_images`."""
    reasons = {
        row: reason
        for row in range(len(dataset))
        if (reason := fault(dataset.path[row], recorded(dataset, row), images[row], masks[row]))
    }
    skipped = [Skipped(str(dataset.id[row]), str(dataset.path[row]), reason) for row, reason in reasons.items()]
    refuse_or_skip(skipped, skip_bad, "files")
    good = [row for row in range(len(dataset)) if row not in reasons]
    if not good:
        raise CellfeatError(f"{dataset.source}: no good image left of {len(dataset)}. The first: {skipped[0].reason}")
    facts: list[Any] = [images[row] for row in good]
    checked = dataset.select(good)
    digests = [getattr(masks[row], "sha256", "") for row in good]
    return replace(
        checked,
        skipped=(*dataset.skipped, *skipped),
        image_digest=np.array([fact.sha256 for fact in facts], dtype=str),
        mask_digest=None if dataset.mask_path is None else np.array(digests, dtype=str),
        size=np.array([(fact.width, fact.height) for fact in facts], dtype=np.int64),
    )


def recorded(dataset: Dataset, row: int) -> str:
    """The SHA-256 that the manifest holds of an image, "" where it says nothing."""
    return "" if dataset.recorded_digest is None else str(dataset.recorded_digest[row])


def fault(
    path: Path | str, recorded: str, image: ImageFacts | ImageError, mask: ImageFacts | ImageError | None
) -> str | None:
    """Why an image, or the mask beside it, cannot be used; None when it can."""
    if isinstance(image, ImageError):
        return str(image)
    if isinstance(mask, ImageError):
        return str(mask)
    if recorded and recorded != image.sha256:
        return (
            f"{path}: not the file that the manifest was made for (sha256 {image.sha256[:12]}…, not {recorded[:12]}…); "
            "restore it or index again"
        )
    if mask is not None and mask[1:] != image[1:]:
        return (
            f"{path}: {image.width} x {image.height} pixels, but its mask has {mask.width} x {mask.height}; image and "
            "mask must have the same size"
        )
    return None
