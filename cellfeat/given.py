"""Cells as Python hands them over: image files, arrays of pixels, a table, a manifest, or vectors; read and encoded."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cellfeat import datasets, images, storage
from cellfeat.class_labels import text_of
from cellfeat.errors import CellfeatError
from cellfeat.extract import Encoder
from cellfeat.manifest import Row, domain_problem, row_problems
from cellfeat.types import UNLABELED, ArrayColumn, Cells, Column
from cellfeat.unlabelled import unlabelled_images
from cellfeat.workplace import Workplace, checked

KINDS = (
    "a list of image paths, a list of (H, W, 3) uint8 RGB arrays, an (N, H, W, 3) uint8 array, a table with a column "
    "'path', the path of a manifest CSV, or a folder of images"
)
ARRAYS = "arrays"  # beside the stores of files: the larger columns of images that came as arrays


@dataclass(frozen=True)
class Given:
    """N cells in the caller's order, from one of: `files`, `pixels` (each (H, W, 3) uint8 RGB), `vectors` (N, D).

    id, domain, group: (N,) str. label: the classes as they came with the cells, None where hidden; None: none came.
    has_domain: whether the caller said which laboratory they are of.
    """

    id: np.ndarray
    domain: np.ndarray
    group: np.ndarray
    label: list[Any] | None = None
    has_domain: bool = True
    files: datasets.Dataset | None = None
    pixels: Sequence[np.ndarray] | None = None
    vectors: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.id)

    def of(self, domain: Any, group: Any, name: str = "X") -> Given:
        """The same cells of these laboratories and groups, one name for all or one for each; None leaves them."""
        changes: dict[str, Any] = {}
        if domain is not None:
            changes = {"domain": _per_row(domain, len(self), f"the domain of {name}"), "has_domain": True}
            for one in sorted(set(changes["domain"].tolist())):
                if not one or domain_problem(one):
                    raise CellfeatError(f"{name}: {domain_problem(one) or 'a domain is empty'}")
        if group is not None:
            names = _per_row(group, len(self), f"the group of {name}")
            changes["group"] = np.where(names == "", self.id, names)
        return replace(self, **changes)

    def content(self) -> set[str]:
        """What tells the cells' content: the paths of files, and digests of arrays."""
        if self.files is not None:
            return set(map(str, self.files.path))
        arrays = self.vectors if self.pixels is None else self.pixels
        assert arrays is not None
        return {_mark(one) for one in arrays}

    def select(self, rows: np.ndarray) -> Given:
        """The cells at `rows`, (n,) int indices."""
        changes: dict[str, Any] = {name: getattr(self, name)[rows] for name in ("id", "domain", "group")}
        if self.label is not None:
            changes["label"] = [self.label[row] for row in rows]
        if self.pixels is not None:
            changes["pixels"] = [self.pixels[row] for row in rows]
        if self.vectors is not None:
            changes["vectors"] = self.vectors[rows]
        if self.files is not None:
            changes["files"] = self.files.select(np.isin(self.files.id, self.id[rows]))
        return replace(self, **changes)

    def encoded(self, columns: Sequence[str], encoder: Encoder | None, work: Workplace) -> tuple[Cells, str]:
        """The cells in the caller's order, labels hidden, with columns as `Cells` says; and a digest of their content.

        Raises: CellfeatError for images that cannot be decoded, and for columns that vectors do not have.
        """
        if self.vectors is not None:
            read: dict[str, Column] = {"pooled": ArrayColumn(self.vectors)}
            digest = hashlib.sha256(np.ascontiguousarray(self.vectors).tobytes()).hexdigest()
        else:
            assert encoder is not None
            read, digest = self._of_files(columns, encoder, work) if self.files else self._of_pixels(columns, encoder)
        hidden = np.full(len(self), UNLABELED)
        return Cells(self.id, self.domain, hidden, self.group, np.zeros(len(self), bool), read), digest

    def images(self) -> Callable[[int], np.ndarray]:
        """Gives the image of a cell by its number, (H, W, 3) uint8 RGB, as it is before any resizing.

        Raises: CellfeatError for vectors; ImageError, when called, for a file that cannot be decoded.
        """
        if self.pixels is not None:
            return self.pixels.__getitem__
        if self.files is None:
            raise CellfeatError(f"features have no pixels; images are needed: {KINDS}")
        files = self.files
        paths = [files.path[row] for row in np.searchsorted(files.id, self.id)]
        return lambda row: images.read_rgb(images.read_bytes(paths[row]), name=str(paths[row]))

    def _of_files(self, columns: Sequence[str], encoder: Encoder, work: Workplace) -> tuple[dict[str, Column], str]:
        assert self.files is not None
        dataset = checked(self.files, work)
        cells = encoder.encode(dataset, columns)
        cells = cells[np.searchsorted(dataset.id, self.id)]  # a data set is in the order of its ids
        return dict(cells.columns), dataset.digest

    def _of_pixels(self, columns: Sequence[str], encoder: Encoder) -> tuple[dict[str, Column], str]:
        assert self.pixels is not None
        frames = _Frames(self.pixels, encoder.backbone.image_size, encoder.backbone.interpolation)
        wanted = [name for name in columns if name != "image"]
        read = encoder.encode_images(frames, wanted, encoder.root / ARRAYS) if wanted else {}
        content = hashlib.sha256()
        for one in self.pixels:
            content.update(f"{one.shape}".encode() + np.ascontiguousarray(one).tobytes())
        return {"image": frames, **read}, content.hexdigest()


@dataclass(frozen=True, eq=False)
class _Frames:
    """Images in a backbone's frame, (N, 3, S, S) uint8 RGB, resized when they are read, as files are."""

    pixels: Sequence[np.ndarray]
    size: int
    interpolation: str

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.pixels), 3, self.size, self.size)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    def read(self, rows: np.ndarray) -> np.ndarray:
        frames = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for place, row in enumerate(rows):
            frames[place] = images.resize(self.pixels[row], self.size, self.interpolation).transpose(2, 0, 1)
        return frames


def given(X: Any, default: str, labels: str | None = None, name: str = "X") -> Given:
    """What the caller gave, as cells of the laboratory `default` where nothing else says.

    X: see `KINDS`; a table's other columns are `domain`, `group`, `id`, `label` and `sha256`, all optional. labels: a
    vocabulary for the labels of a manifest; those without a class in it are hidden. name: what messages call X.

    Raises: CellfeatError for anything else, for no cells, and for rows that name no file.
    """
    if isinstance(X, (str, os.PathLike)):
        return _of_path(str(X), default, labels, name)
    if hasattr(X, "columns"):
        found = _of_table(X, default, name)
    else:
        items = list(X) if hasattr(X, "__len__") and not isinstance(X, dict) else None
        if items is None:
            raise CellfeatError(f"{name} is a {type(X).__name__}; possible is {KINDS}")
        if not items:
            raise CellfeatError(f"{name} has no cells; give {KINDS}")
        if all(isinstance(item, (str, os.PathLike)) for item in items):
            found = _of_rows({"path": [str(item) for item in items]}, default, name)
        else:
            ids = positions(len(items))
            found = Given(ids, np.full(len(ids), default), ids, has_domain=False, pixels=_checked_pixels(items, name))
    return found


def of_vectors(values: np.ndarray, default: str) -> Given:
    """Cells that come as their (N, D) float features. Their ids are made of these, and do not tell their places."""
    vectors = np.ascontiguousarray(values, np.float32)
    marks = [_mark(row) for row in vectors]
    met: Counter[str] = Counter()
    for row, mark in enumerate(marks):  # equal rows are told apart by their places
        marks[row], met[mark] = f"{mark}-{met[mark]}", met[mark] + 1
    ids = np.array(marks, dtype=str)
    return Given(ids, np.full(len(ids), default), ids, has_domain=False, vectors=vectors)


def _mark(values: np.ndarray) -> str:
    """32 hexadecimal digits of an array's content."""
    return hashlib.blake2b(
        f"{values.shape}".encode() + np.ascontiguousarray(values).tobytes(), digest_size=16
    ).hexdigest()


def positions(count: int) -> np.ndarray:
    """(N,) str ids by position, whose order is that of the rows."""
    return np.array([f"{row:08d}" for row in range(count)], dtype=str)


def _of_path(path: str, default: str, labels: str | None, name: str) -> Given:
    if path.partition("?")[0].lower().endswith(".csv"):
        dataset = datasets.read_manifest(storage.located(path))
        named = dataset if labels is None else datasets.read_manifest(storage.located(path), labels)
        class_of = {
            name: named.classes[number]
            for name, number in zip(named.id, named.label, strict=True)
            if number != UNLABELED
        }
        # A label that has no class in the vocabulary is hidden; its cell stays, as no label may choose among cells.
        known = [class_of.get(name) for name in dataset.id]
        return Given(dataset.id, dataset.domain, dataset.group, known, files=dataset)
    if Path(path).is_dir():
        dataset = unlabelled_images(path, default)
        return Given(dataset.id, dataset.domain, dataset.group, has_domain=False, files=dataset)
    raise CellfeatError(
        f"{name} is the text {path!r}; a single image is a list of one, [{path!r}]. Possible is {KINDS}"
    )


def _of_table(table: Any, default: str, name: str) -> Given:
    there = [str(column) for column in table.columns]
    if "path" not in there:
        raise CellfeatError(
            f"{name} is a table without a column 'path'; it has {', '.join(there[:12])}. For a table of features, "
            "give backbone=None"
        )
    used = [column for column in ("path", "domain", "group", "id", "label", "sha256") if column in there]
    columns: dict[str, list[str]] = {column: [text_of(value) for value in table[column]] for column in used}
    found = _of_rows(columns, default, name)
    return replace(found, label=list(table["label"])) if "label" in used else found


def _of_rows(columns: dict[str, list[str]], default: str, name: str) -> Given:
    """Cells of image files, from columns of texts."""
    count = len(columns["path"])
    if not count:
        raise CellfeatError(f"{name} has no cells; give {KINDS}")
    ids = columns.get("id") or positions(count).tolist()
    filled = {"id": ids, "domain": [default] * count} | {key: columns[key] for key in columns if key != "label"}
    rows = []
    for row in range(count):
        values = {key: texts[row] for key, texts in filled.items()} | {"label": ""}
        rows.append(Row(row, values, storage.located(values["path"]), None))
    for row, problem in row_problems(rows).items():
        raise CellfeatError(f"{name}: row {row}: {problem}")
    in_order = sorted(rows, key=lambda row: row["id"])
    dataset = datasets.from_rows(in_order, [UNLABELED] * count, (), name)
    group = np.array([row["group"] or row["id"] for row in rows], dtype=str)
    domain = np.array(filled["domain"], dtype=str)
    return Given(np.array(ids, dtype=str), domain, group, has_domain="domain" in columns, files=dataset)


def _checked_pixels(items: Sequence[Any], name: str) -> list[np.ndarray]:
    for row, item in enumerate(items):
        fits = isinstance(item, np.ndarray) and item.ndim == 3 and item.shape[2] == 3 and min(item.shape) > 0
        if not fits or item.dtype != np.uint8:
            got = f"{item.dtype} {item.shape}" if isinstance(item, np.ndarray) else type(item).__name__
            raise CellfeatError(f"{name}: row {row} is {got}; an image is a (H, W, 3) uint8 RGB array. Give {KINDS}")
    return list(items)


def _per_row(names: Any, count: int, what: str) -> np.ndarray:
    """(N,) str: one name for all, or one for each."""
    if isinstance(names, str):
        return np.full(count, names)
    texts = np.array([text_of(value) for value in names], dtype=str)
    if len(texts) != count:
        raise CellfeatError(f"{what} has {len(texts)} entries for {count} cells; give one for each, or a single name")
    return texts
