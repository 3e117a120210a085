"""Images without labels: files to be classified, and photographs for training that may see no label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from cellfeat.datasets import Dataset, from_rows
from cellfeat.decode import IMAGE_SUFFIXES
from cellfeat.errors import CellfeatError
from cellfeat.manifest import chosen_domains, read_rows, row_problems
from cellfeat.scan import Skipped, find_images, refuse_or_skip
from cellfeat.types import UNLABELED


def without_labels(
    manifest: Path | str, domains: Iterable[str] | None = None, leave_out: Iterable[str] = (), skip_bad: bool = False
) -> Dataset:
    """The images of a manifest, without masks and with every label dropped before anything sees it.

    domains: only these. leave_out: ids of images that must not be seen.

    Raises: CellfeatError as `read_manifest` does, for an id to leave out that is not there, and when nothing is left.
    """
    rows, left_out = chosen_domains(read_rows(manifest), domains), set(leave_out)
    absent = sorted(left_out - {row["id"] for row in rows})
    if absent:
        raise CellfeatError(
            f"{manifest}: {len(absent)} of the ids to leave out are not among its {len(rows)} images, the first is "
            f"{absent[0]!r}; one id to a line, as in the manifest"
        )
    rows = [row for row in rows if row["id"] not in left_out]
    problems = row_problems(rows)
    faults = [(row, problems[row.line]) for row in rows if row.line in problems]
    skipped = [Skipped(row["id"], str(row.path), f"{manifest}: line {row.line}: {fault}") for row, fault in faults]
    refuse_or_skip(skipped, skip_bad, "rows")
    kept = sorted((row for row in rows if row.line not in problems), key=lambda row: row["id"])
    if not kept:
        raise CellfeatError(f"{manifest}: no image is left")
    data = from_rows(kept, [UNLABELED] * len(kept), (), str(manifest))
    return replace(data, mask_path=None, skipped=tuple(skipped))


def unlabelled_images(sources: Path | str | Iterable[Path | str], domain: str = "new") -> Dataset:
    """Image files, and folders of them at any depth, as one domain without labels.

    An id is the path below the folder that was named, or the file's name; where two agree, the whole path.

    Raises: CellfeatError for what does not exist and for a folder without images.
    """
    sources = [sources] if isinstance(sources, str | Path) else list(sources)
    named: list[tuple[str, Path]] = []
    for path in map(Path, sources):
        found = find_images(path) if path.is_dir() else [path]
        if not path.exists():
            raise CellfeatError(f"{path}: no such file or folder")
        if not found:
            raise CellfeatError(f"{path}: no images in this folder (looked for {', '.join(IMAGE_SUFFIXES)})")
        named += [(one.relative_to(path).as_posix() if path.is_dir() else path.name, one) for one in found]
    if not named:
        raise CellfeatError("no images were named; name image files or folders of them")
    clashes = {name for name, count in Counter(name for name, _ in named).items() if count > 1}
    unique = {path.as_posix() if name in clashes else name: path for name, path in named}
    ids = sorted(unique)
    return Dataset(
        id=np.array(ids, dtype=str),
        path=tuple(unique[name] for name in ids),
        domain=np.full(len(ids), domain),
        label=np.full(len(ids), UNLABELED, dtype=np.int64),
        classes=(),
        group=np.array(ids, dtype=str),
        source=", ".join(map(str, sources)),
    )
