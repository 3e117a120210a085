"""Arrays of saved files, in whatever container: which look like pictures, and the words that are in them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

NUMPY = b"\x93NUMPY"  # the first bytes of NumPy's own file
LEAST_SIDE = 16  # pixels: the filters of networks are smaller, but for those that cut an image into patches
COLOURS = (1, 3, 4)


class Described(NamedTuple):
    """An array in a file. kind: "byte", "whole" (other whole numbers, and yes or no) or "real"."""

    name: str
    kind: str
    shape: tuple[int, ...]

    @property
    def looks_like_pictures(self) -> bool:
        """Bytes of three dimensions and more; other whole numbers over areas of 16 x 16 and more, as masks are; reals
        of N x 1, 3 or 4 x H x W, or with the colours last, of such areas, but for a network's `….weight`."""
        if self.kind == "byte":
            return len(self.shape) >= 3
        if self.kind == "whole":
            return len(self.shape) >= 3 and any(min(area) >= LEAST_SIDE for area in self._areas())
        return (
            len(self.shape) == 4
            and not self.name.endswith("weight")
            and any(min(area) >= LEAST_SIDE for area in self._areas(colours=True))
        )

    def _areas(self, colours: bool = False) -> Iterator[tuple[int, ...]]:
        if not colours or self.shape[-3] in COLOURS:
            yield self.shape[-2:]
        if self.shape[-1] in COLOURS:
            yield self.shape[-3:-1]


def described(path: Path) -> Iterator[Described]:
    """Every array in a safetensors file, a file of NumPy's, or an archive of these, as skops' are."""
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                piece = file.get_slice(name)
                kind = piece.get_dtype()
                whole = "whole" if kind == "BOOL" or kind[0] in "IU" else "real"
                yield Described(name, "byte" if kind == "U8" else whole, tuple(piece.get_shape()))
        return
    for name, content in members(path):
        array = read_array(content)
        if array is not None and array.dtype.kind in "biufc":
            kind = "byte" if array.dtype == np.uint8 else "whole" if array.dtype.kind in "biu" else "real"
            yield Described(name.removesuffix(".npy"), kind, array.shape)


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of what is in an archive; of any other file itself."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield name, archive.read(name)
    else:
        yield path.name, path.read_bytes()


def read_array(content: bytes) -> np.ndarray | None:
    """The array of a file of NumPy's; None for other files, and for one that cannot be read without a pickle."""
    if not content.startswith(NUMPY):
        return None
    try:
        return np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError):
        return None


def words_of(array: np.ndarray) -> Sequence[str]:
    """The texts in an array, also in the columns of a table."""
    if array.dtype.names:
        return [word for name in array.dtype.names for word in (name, *words_of(array[name]))]
    if array.dtype.kind == "U":
        return array.ravel().tolist()
    if array.dtype.kind == "S":
        return [one.decode("utf-8", "replace") for one in array.ravel().tolist()]
    return []
