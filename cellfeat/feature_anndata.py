"""Feature files as AnnData (.h5ad), laid out as scanpy, and whoever reads AnnData, expects it.

obs                 columns about the cells, domain and label as categories; the ids are its index
X                   (N, D) float32 features, var names f0, f1, …
obsm["X_cellfeat"]  the same, for `use_rep`: in the file one block of bytes has both names, so nothing is there twice,
                    and what scanpy does to X leaves these as they were
uns["cellfeat"]     provenance to look into; in `json`, the whole of it, also what HDF5 has no type for
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellfeat.errors import CellfeatError
from cellfeat.extras import import_extra
from cellfeat.types import Column

KEY, REPRESENTATION, WHOLE = "cellfeat", "X_cellfeat", "json"
CATEGORIES = ("domain", "label")


def installed() -> Any:
    """The package anndata. Raises: CellfeatError where it is not installed."""
    return import_extra("anndata", ".h5ad", "a .parquet file needs nothing")


def write(path: Path, rows: Mapping[str, np.ndarray], vectors: Column, provenance: Mapping[str, Any]) -> None:
    """Raises: CellfeatError for texts that HDF5 cannot hold, and where anndata is not installed."""
    anndata = installed()
    import h5py
    import pandas as pd

    _check_rows(path, rows)
    obs = pd.DataFrame(
        {name: _series(name, values) for name, values in rows.items() if name != "id"},
        index=pd.Index(rows["id"].astype(object), name="id"),
    )
    names = pd.DataFrame(index=[f"f{i}" for i in range(vectors.shape[1])])
    about = {**looked_into(provenance), WHOLE: json.dumps(provenance)}
    matrix = vectors.read(np.arange(vectors.shape[0]))
    anndata.AnnData(X=matrix, obs=obs, var=names, uns={KEY: about}).write_h5ad(
        path, convert_strings_to_categoricals=False
    )
    with h5py.File(path, "r+") as file:
        file["obsm"][REPRESENTATION] = file["X"]  # a second name of the same bytes


def _check_rows(path: Path, rows: Mapping[str, np.ndarray]) -> None:
    for name, values in rows.items():
        if "/" in name or name == "_index":
            raise CellfeatError(f"{path}: .h5ad cannot hold a column called {name!r}; rename it, or use .parquet")
        bad = next((text for text in values.tolist() if isinstance(text, str) and "\0" in text), None)
        if bad is not None:
            raise CellfeatError(f"{path}: the {name} {bad!r} has a zero byte, which .h5ad cannot hold; use .parquet")


def _series(name: str, values: np.ndarray) -> Any:
    import pandas as pd

    if name in CATEGORIES:
        return pd.Categorical(values.astype(object))
    return values.astype(object) if values.dtype.kind == "U" else values


def looked_into(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What HDF5 has types for: nested mappings, numbers, texts, lists of one of these. None is left out, as are
    names with a slash; a list of anything else is its JSON."""
    kept: dict[str, Any] = {}
    for key, value in provenance.items():
        if value is None or "/" in key or key in ("", "."):
            continue
        if isinstance(value, Mapping):
            kept[key] = looked_into(value)
        elif isinstance(value, (list, tuple)):
            kept[key] = _list(list(value))
        else:
            kept[key] = value
    return kept


def _list(values: list[Any]) -> Any:
    kinds = {type(value) for value in values}
    if kinds == {str}:
        return np.array(values, dtype=object)
    return np.array(values) if kinds in ({int}, {float}, {bool}) else json.dumps(values)


def read(path: Path) -> tuple[dict[str, np.ndarray], Column, dict[str, Any]]:
    """(columns about the cells, (N, D) float32 features that are read when they are needed, provenance).

    The features are those of `obsm["X_cellfeat"]`, which scanpy leaves as they are; of X in files that have none.

    Raises: CellfeatError for a file that is no AnnData, and for one that cellfeat did not write.
    """
    anndata = installed()
    with opened(path) as file:
        provenance = provenance_of(path, file)
        obs = anndata.io.read_elem(file["obs"])
        name = f"obsm/{REPRESENTATION}" if REPRESENTATION in file.get("obsm", {}) else "X"
        vectors = _checked(path, file, name, len(obs))
    rows = {"id": np.array(obs.index.astype(str), dtype=str)}
    return rows | {str(key): _array(obs[key]) for key in obs.columns}, vectors, provenance


def opened(path: Path) -> Any:
    """The open HDF5 file. Raises: CellfeatError where it is none."""
    installed()
    import h5py

    try:
        return h5py.File(path, "r")
    except OSError as error:
        said = " ".join(str(error).split())[:200]
        raise CellfeatError(f"{path} cannot be read as .h5ad: it is no HDF5 file, or damaged ({said})") from None


def provenance_of(path: Path, file: Any) -> dict[str, Any]:
    """Raises: CellfeatError where cellfeat did not write the file."""
    import h5py

    about = file.get(f"uns/{KEY}")
    text = about.get(WHOLE) if isinstance(about, h5py.Group) else about  # once it was the text alone
    if not isinstance(text, h5py.Dataset) or "obs" not in file:
        raise CellfeatError(
            f'{path} is no feature file: it has no uns["{KEY}"]. `cellfeat extract` and `cellfeat transform` write '
            "such files"
        )
    return json.loads(text.asstr()[()])


def _checked(path: Path, file: Any, name: str, count: int) -> _Matrix:
    import h5py

    matrix = file.get(name)
    if not isinstance(matrix, h5py.Dataset) or matrix.ndim != 2 or matrix.dtype != np.float32 or len(matrix) != count:
        found = f"{matrix.dtype} {matrix.shape}" if isinstance(matrix, h5py.Dataset) else "a sparse matrix, or nothing"
        raise CellfeatError(f"{path}: {name} is {found}, not float32 features of {count} cells; extract them again")
    return _Matrix(path, name, matrix.shape)


def _array(values: Any) -> np.ndarray:
    """A column of obs; what is missing in a text is the empty text."""
    import pandas as pd

    if isinstance(values.dtype, pd.CategoricalDtype) or values.dtype.kind not in "biuf":
        return np.array(values.astype(object).where(values.notna(), "").astype(str), dtype=str)
    return values.to_numpy()


@dataclass(frozen=True, eq=False)
class _Matrix:
    """A matrix in an HDF5 file, which is open only while rows are read."""

    path: Path
    name: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    def read(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows)
        if not len(rows):
            return np.empty((0, *self.shape[1:]), np.float32)
        distinct, order = np.unique(rows, return_inverse=True)
        with opened(self.path) as file:
            whole = len(distinct) == distinct[-1] - distinct[0] + 1  # HDF5 reads a range much faster than a list
            wanted = slice(int(distinct[0]), int(distinct[-1]) + 1) if whole else distinct
            return file[self.name][wanted][order]
