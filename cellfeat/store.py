"""Encoded cells on disk: one Lance data set per column, rows addressed by the digest of the image's bytes.

A store belongs to one way of encoding (backbone, parameters, weights, segmenter, batch shape, threads); what differs
in any of these lies in another store. Rows are appended in atomic versions, so a killed run leaves whole rows, and
the next one goes on from the digests that are present.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from cellfeat.artifacts import atomic_file
from cellfeat.errors import CellfeatError
from cellfeat.lance_rows import LanceColumn, metadata_of, packed_table
from cellfeat.types import Column

COLUMNS = ("image", "mask", "map", "pooled", "crop")
QUALITY = "quality"  # kept beside these where the backbone tells it
MANY_FRAGMENTS = 64  # of a column; beyond so many, opening it begins to cost time
LARGE_ROW, FRAGMENT_BYTES = 64 << 10, 1 << 30  # bytes: rows of token maps, images and crops are larger than the first
KEPT = timedelta(days=7)  # how long a version can be read after it was replaced
ABOUT = "store.json"  # what the store was written with
LAYOUT = 2  # of these files; another layout is another store


def cache_folder() -> Path:
    """Where stores, weights, checkpoints and the demo set live: CELLFEAT_CACHE, else the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("CELLFEAT_CACHE") or platformdirs.user_cache_dir("cellfeat")).expanduser()


def fingerprint(description: Mapping[str, Any]) -> str:
    """sha256 of a JSON description, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


class Store:
    """The columns encoded in one way. `description` says which way, in JSON values."""

    def __init__(self, root: Path, description: Mapping[str, Any]) -> None:
        self.description = _complete(description)
        self._begin(self.folder_of(root, description))

    @classmethod
    def at(cls, folder: Path, description: Mapping[str, Any] | None = None) -> Store:
        """The store in this very folder, whatever its name; without a description that which it was written with.

        Raises: CellfeatError for a folder that is no store, or one of another description or layout.
        """
        path = Path(folder) / ABOUT
        if description is None and not path.is_file():
            raise CellfeatError(f"{folder} is no store: it has no {ABOUT}")
        store = cls.__new__(cls)
        try:
            found = json.loads(path.read_text()) if description is None else description
        except ValueError as error:
            raise CellfeatError(f"{path} is damaged: {error}; copy the store anew") from None
        store.description = json.loads(json.dumps({**found, "layout": LAYOUT}))
        store._begin(Path(folder))
        return store

    def _begin(self, folder: Path) -> None:
        self.folder = folder
        # column -> fragments seen, rows counted, {digest: row}
        self._known: dict[str, tuple[list[int], int, dict[str, int]]] = {}
        self._describe()

    @staticmethod
    def folder_of(root: Path, description: Mapping[str, Any]) -> Path:
        """Where the columns encoded in one way are, or would be."""
        return Path(root) / fingerprint(_complete(description))[:20]

    def _describe(self) -> None:
        path = self.folder / ABOUT
        if not path.is_file():
            with atomic_file(path) as partial:
                partial.write_text(json.dumps(self.description, indent=1, sort_keys=True))
        found = json.loads(path.read_text())
        for key in sorted({*found, *self.description}):
            if found.get(key) != self.description.get(key):
                raise CellfeatError(
                    f"the store {self.folder} was written with {key}={found.get(key)!r}, this run needs "
                    f"{self.description.get(key)!r}; move the folder away"
                )

    def _open(self, column: str) -> Any | None:
        import lance

        path = self.folder / f"{column}.lance"
        # A creation that was killed before its first version leaves a folder without a manifest.
        return lance.dataset(str(path)) if any((path / "_versions").glob("*.manifest")) else None

    def rows(self, column: str) -> dict[str, int]:
        """{digest: row} of what a column holds."""
        return self._rows_of(column, self._open(column))

    def _rows_of(self, column: str, dataset: Any | None) -> dict[str, int]:
        if dataset is None:
            return {}
        seen, count, known = self._known.get(column, ([], 0, {}))
        fragments = [fragment.fragment_id for fragment in dataset.get_fragments()]
        # Another run may have joined fragments meanwhile, and then rows may stand elsewhere.
        if count != dataset.count_rows() or fragments[: len(seen)] != seen:
            digests = dataset.to_table(columns=["digest"]).column("digest").to_pylist()
            # Two runs may have encoded the same image; the first row stands.
            known, count = {digest: row for row, digest in reversed(list(enumerate(digests)))}, len(digests)
        self._known[column] = (fragments, count, known)
        return known

    def _fragments(self, column: str) -> list[int]:
        """Those that the column was last seen to have."""
        return self._known[column][0] if column in self._known else []

    def missing(self, columns: Sequence[str], digests: Sequence[str]) -> list[str]:
        """The distinct digests that lack at least one of the columns, in the order given."""
        have = [self.rows(column) for column in columns]
        return [digest for digest in dict.fromkeys(digests) if not all(digest in rows for rows in have)]

    def append(self, digests: Sequence[str], values: Mapping[str, np.ndarray]) -> None:
        """Add rows to columns, in their order, as one atomic version each; what a column has already stays as it is."""
        for column, array in values.items():
            dataset = self._open(column)
            have = self._rows_of(column, dataset)
            new: dict[str, int] = {}
            for i, digest in enumerate(digests):
                if digest not in have:
                    new.setdefault(digest, i)
            if new:
                self._write(column, dataset, list(new), array[list(new.values())])
                count = 0 if dataset is None else dataset.count_rows()
                have.update({digest: count + i for i, digest in enumerate(new)})
                # Rows that another run added meanwhile make the count differ, and then all are read again.
                self._known[column] = (self._fragments(column), count + len(new), have)

    def _write(self, column: str, dataset: Any | None, digests: list[str], array: np.ndarray) -> None:
        import lance

        table = packed_table(digests, array)
        self._check_alike(column, dataset, table)
        if dataset is not None or not self._create(column, table):
            lance.write_dataset(table, str(self.folder / f"{column}.lance"), mode="append")

    def _create(self, column: str, table: Any) -> bool:
        """Begin a column with these rows; False when another run has just begun it.

        Of two that create at once Lance lets the later one replace the rows of the earlier, hence the lock.
        """
        import lance
        from filelock import FileLock

        with FileLock(self.folder / f"{column}.lock"):
            if self._open(column) is not None:
                return False
            lance.write_dataset(table, str(self.folder / f"{column}.lance"), mode="create")
            return True

    def compact(self) -> None:
        """Join the small pieces that appending leaves, where there are many; rows may stand elsewhere afterwards.

        Columns of large rows stay as they are: writing them again would cost more than their pieces do. Other processes
        may be reading: a version goes `KEPT` after it was replaced. What fails here loses no row, and is left alone.
        """
        for path in sorted(self.folder.glob("*.lance")):
            dataset = self._open(path.stem)
            if dataset is None or len(dataset.get_fragments()) <= MANY_FRAGMENTS:
                continue
            metadata = metadata_of(dataset)
            row_bytes = int(np.prod(json.loads(metadata["shape"]))) * np.dtype(metadata["dtype"]).itemsize
            if row_bytes <= LARGE_ROW:
                with contextlib.suppress(OSError, RuntimeError):  # another process did the same at the same time
                    dataset.optimize.compact_files(target_rows_per_fragment=FRAGMENT_BYTES // max(row_bytes, 1))
                    _forget_versions(dataset)

    def _check_alike(self, column: str, dataset: Any | None, table: Any) -> None:
        """Refuse rows of another shape or type than the column has."""
        shape = metadata_of(table)
        held = shape if dataset is None else metadata_of(dataset)
        if held != shape:
            raise CellfeatError(
                f"the store {self.folder} holds {column} as {held['dtype']} {held['shape']}, but was given "
                f"{shape['dtype']} {shape['shape']}; move the folder away"
            )

    def write_fragment(self, column: str, digests: Sequence[str], array: np.ndarray) -> str:
        """Write rows beside a column without making them part of it; gives what `adopt` needs, as JSON.

        For processes that write at the same time. What is never adopted is a file that nobody reads.
        """
        from lance.fragment import LanceFragment

        table, dataset = packed_table(list(digests), array), self._open(column)
        self._check_alike(column, dataset, table)
        layout = {} if dataset is None else {"data_storage_version": dataset.data_storage_version}
        fragment = LanceFragment.create(str(self.folder / f"{column}.lance"), table, **layout)
        schema = base64.b64encode(table.schema.serialize().to_pybytes()).decode()
        return json.dumps({"fragment": json.dumps(fragment.to_json()), "schema": schema})

    def adopt(self, column: str, written: Sequence[tuple[Sequence[str], str]]) -> None:
        """Make fragments, (digests, what `write_fragment` gave), part of a column in one atomic version.

        Rows that the column has already, because work was done twice, are left out.
        """
        import lance
        import pyarrow as pa

        dataset, have = self._open(column), self.rows(column)
        whole, doubled = [], []
        new: dict[str, int] = {}
        count = 0 if dataset is None else dataset.count_rows()
        for digests, text in written:
            fresh = [digest for digest in dict.fromkeys(digests) if digest not in have and digest not in new]
            if len(fresh) < len(digests):
                doubled.append((fresh, text))
                continue
            new.update({digest: count + len(new) + i for i, digest in enumerate(digests)})
            whole.append(lance.FragmentMetadata.from_json(json.loads(text)["fragment"]))
        if whole:
            schema = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(json.loads(written[0][1])["schema"])))
            dataset = self._created(column, schema) if dataset is None else dataset
            self._check_alike(column, dataset, schema.empty_table())
            path = str(self.folder / f"{column}.lance")
            lance.LanceDataset.commit(path, lance.LanceOperation.Append(whole), read_version=dataset.version)
            have.update(new)
            self._known[column] = (self._fragments(column), count + len(new), have)
        for fresh, text in doubled:
            self._adopt_some(column, [digest for digest in fresh if digest not in self.rows(column)], text)

    def _created(self, column: str, schema: Any) -> Any:
        """A column without rows, unless another run has just begun it."""
        self._create(column, schema.empty_table())
        return self._open(column)

    def _adopt_some(self, column: str, digests: Sequence[str], text: str) -> None:
        """Append some rows of a fragment, whose file is left to nobody."""
        import lance
        import pyarrow.compute as pc
        from lance.file import LanceFileReader

        if not digests:
            return
        fragment = lance.FragmentMetadata.from_json(json.loads(text)["fragment"])
        folder = self.folder / f"{column}.lance"
        table = LanceFileReader(str(folder / "data" / fragment.data_files()[0].path)).read_all().to_table()
        first = {digest: row for row, digest in reversed(list(enumerate(table.column("digest").to_pylist())))}
        rows = pc.take(table, sorted(first[digest] for digest in digests))
        dataset = self._open(column)
        if dataset is None:
            dataset = self._created(column, table.schema)
        lance.write_dataset(rows.cast(dataset.schema), str(folder), mode="append")

    def column(self, name: str, digests: Sequence[str]) -> Column:
        """The rows of these digests, lazily; all of them must be there."""
        dataset = self._open(name)
        rows = self._rows_of(name, dataset)
        absent = {digest for digest in digests if digest not in rows}
        if dataset is None or absent:
            raise CellfeatError(f"the store {self.folder} lacks {name} of {len(absent)} images; encode them first")
        metadata = metadata_of(dataset)
        shape = tuple(json.loads(metadata["shape"]))
        index = np.array([rows[digest] for digest in digests], dtype=np.int64)
        return LanceColumn(dataset, index, (len(index), *shape), np.dtype(metadata["dtype"]))


def _complete(description: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps({"layout": LAYOUT, **description}))


def _forget_versions(dataset: Any) -> None:
    """Delete what only versions hold that were replaced longer than `KEPT` ago.

    Lance counts from when a version was made, and one that was made long ago may have been replaced just now.
    """
    now = datetime.now()
    made = sorted(version["timestamp"] for version in dataset.versions())
    replaced = [time for time in made if time < now - KEPT]  # each of these replaced those before it
    if len(replaced) > 1:
        dataset.cleanup_old_versions(older_than=now - replaced[-1] + timedelta(seconds=1))
