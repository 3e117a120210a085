"""What `cellfeat extract` and `cellfeat transform` write, in memory and as files: rows, vectors, provenance."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from cellfeat import feature_anndata, feature_parquet
from cellfeat.artifacts import atomic_file
from cellfeat.errors import CellfeatError
from cellfeat.manifest import refuse_existing
from cellfeat.types import Column

FORMS = {".parquet": feature_parquet, ".h5ad": feature_anndata}
POOLED, ALIGNED = "pooled", "aligned"  # what vectors are: a backbone's own, or those after an alignment
DIGEST = "image_sha256"  # the column that says of which image a row is
ROWS_AT_ONCE = 2048


@dataclass(frozen=True)
class FeatureTable:
    """N cells with their features.

    rows: columns about the cells, (N,) each: id, domain, label ("" where it is not known) and group as str;
    image_sha256 as str and mask_quality as float32 where they are known; others by name. vectors: (N, D) float32, read
    when they are needed. provenance: JSON values; `features` in it says "pooled" or "aligned".
    """

    rows: Mapping[str, np.ndarray]
    vectors: Column
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        sizes = {name: len(values) for name, values in self.rows.items()} | {"vectors": self.vectors.shape[0]}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"the columns of a feature table differ in length: {sizes}")

    def __len__(self) -> int:
        return self.vectors.shape[0]

    @property
    def width(self) -> int:
        """Features of a cell."""
        return self.vectors.shape[1]

    @property
    def features(self) -> str:
        """ "pooled" or "aligned"."""
        return kind_of(self.provenance)

    @classmethod
    def read(cls, path: Path) -> Self:
        """A .parquet or .h5ad file, also one of an earlier cellfeat.

        Raises: CellfeatError for another ending, an absent or damaged file, and one that cellfeat did not write.
        """
        form = form_of(path)
        if not Path(path).is_file():
            raise CellfeatError(f"{path}: no such file")
        return cls(*form.read(Path(path)))

    def write(self, path: Path) -> None:
        """A new .parquet or .h5ad file, which has its name when it is whole.

        Raises: CellfeatError for another ending, and where the file exists.
        """
        form = form_of(path)
        refuse_existing(path)
        taken = [name for name in self.rows if feature_parquet.FEATURE.fullmatch(name)]
        if taken:
            raise CellfeatError(f"{path}: a column about the cells is called {taken[0]}, as a feature is; rename it")
        with atomic_file(path) as partial:
            form.write(partial, self.rows, self.vectors, self.provenance)

    def chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(rows (n,) int64, their vectors (n, D) float32), in order, a few thousand at a time."""
        for start in range(0, len(self), ROWS_AT_ONCE):
            rows = np.arange(start, min(start + ROWS_AT_ONCE, len(self)))
            yield rows, self.vectors.read(rows)

    def sealed(self) -> Self:
        """With the digest of images, vectors and mask qualities in the provenance, so that a change can be seen."""
        return type(self)(self.rows, self.vectors, {**self.provenance, "content_sha256": self.content_sha256()})

    def content_sha256(self) -> str:
        """SHA-256 over the images' digests, the mask qualities where they are known, and the vectors (little-endian
        float32), in the order of the rows."""
        digest = hashlib.sha256(json.dumps([self.rows[DIGEST].tolist(), self.width]).encode())
        if "mask_quality" in self.rows:
            digest.update(self.rows["mask_quality"].astype("<f4").tobytes())
        for _, vectors in self.chunks():
            digest.update(vectors.astype("<f4").tobytes())
        return digest.hexdigest()


def form_of(path: Path) -> Any:
    """The module that reads and writes files of this ending. Raises: CellfeatError for another ending."""
    form = FORMS.get(Path(path).suffix.lower())
    if form is None:
        raise CellfeatError(f"{path}: a feature file ends in {' or '.join(FORMS)}")
    return form


def kind_of(provenance: Mapping[str, Any]) -> str:
    """ "pooled" or "aligned"; files of earlier versions tell it by what they were made with."""
    return provenance.get("features") or (ALIGNED if "pipeline" in provenance else POOLED)
