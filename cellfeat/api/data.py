"""Manifests: the commands `data index`, `labels`, `merge`, `demo` and `info`, and a manifest as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellfeat.api.working import bar

if TYPE_CHECKING:
    from cellfeat.datasets import Dataset
    from cellfeat.label_drafts import Draft
    from cellfeat.layouts import IndexResult


def index(
    kind: str,
    directory: str | Path,
    domain: str,
    out: str | Path,
    *,
    levels: str | None = None,
    group_from: str | None = None,
    skip_bad: bool = False,
    verbose: bool = False,
) -> IndexResult:
    """Write a manifest of a folder of images, each decoded once; gives what was found, accepted and dropped.

    kind: "folders" (one per class), "acevedo20" or "matek19". domain: the laboratory's name. levels: what each
    level of folders is, as in "class/patient"; None is "class". group_from: a regular expression whose first bracket
    is the patient in an image's path. skip_bad: files that cannot be read are listed in NAME-skipped.csv beside
    NAME.csv instead of an error.

    Raises: CellfeatError for files that cannot be read, for no images, and where `out` exists.
    """
    from cellfeat.layouts import write_index

    return write_index(kind, directory, domain, Path(out), skip_bad, bar(verbose), levels, group_from)


def labels(manifests: str | Path | Sequence[str | Path], out: str | Path, *, to: str = "five-class") -> Draft:
    """Draft a label map from the words of manifests to a vocabulary; what is in doubt is left null and told.

    to: "five-class", "dorl-13" or a map of your own.

    Raises: CellfeatError for an unknown vocabulary, manifests without labels, and where `out` exists.
    """
    from cellfeat.label_drafts import draft_labels, write_draft
    from cellfeat.manifest import refuse_existing

    refuse_existing(out)
    draft = draft_labels([manifests] if isinstance(manifests, (str, Path)) else manifests, to)
    write_draft(out, draft)
    return draft


def merge(manifests: Sequence[str | Path], out: str | Path) -> int:
    """Join manifests into one, paths relative to the new file; gives the number of rows.

    Raises: CellfeatError for an id that two of them share, and where `out` exists.
    """
    from cellfeat.manifest import merge_manifests

    return merge_manifests(manifests, out)


def demo(
    directory: str | Path,
    *,
    seed: int = 1234,
    per_class: int = 24,
    size: int | None = None,
    smears: int = 0,
    verbose: bool = False,
) -> Path:
    """Draw the demo set, synthetic cells of three invented laboratories, into a new folder; gives its manifest.

    size: side in px; None leaves each laboratory its own. smears: photographs of whole fields, so many for each
    laboratory, in `smears/` with `smears/cells.csv`, which tells every white cell in them.

    Raises: CellfeatError where the folder exists.
    """
    from cellfeat.demo import write_demo

    return write_demo(directory, per_class, size, seed, bar(verbose), smears)


def data_info(manifest: str | Path, labels: str | None = None, *, skip_bad: bool = False) -> Dataset:
    """A manifest, read and checked: classes, domains, groups, masks, dropped labels; no image is decoded.

    labels: "five-class", "dorl-13" or a YAML map; None: as they are.

    Raises: CellfeatError for the first bad row, unless `skip_bad`.
    """
    from cellfeat.datasets import read_manifest

    return read_manifest(manifest, labels, skip_bad=skip_bad)


def table(manifest: str | Path, labels: str | None = None) -> Any:
    """A manifest as a pandas DataFrame, which scikit-learn can divide: id, path, domain, group, label.

    Paths are absolute. A label that is hidden is None; what the vocabulary `labels` drops is left out.

    Raises: CellfeatError as `data_info`, and where pandas is not installed.
    """
    from cellfeat.extras import import_extra
    from cellfeat.types import UNLABELED

    pandas = import_extra("pandas", "a manifest as a table")
    dataset = data_info(manifest, labels)
    names = [None if number == UNLABELED else dataset.classes[number] for number in dataset.label]
    paths = [str(path.resolve()) if isinstance(path, Path) else path for path in dataset.path]
    columns: dict[str, Any] = {"id": dataset.id, "path": paths, "domain": dataset.domain, "group": dataset.group}
    columns["label"] = names
    return pandas.DataFrame({name: pandas.Series(list(values), dtype=object) for name, values in columns.items()})
