"""Small pictures of cells, which a run keeps for its report."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cellfeat import images
from cellfeat.artifacts import atomic_file
from cellfeat.pictures import mask_outline

SIDE = 112  # px of the longer side, at most
QUALITY = 85
ORIGINAL, OUTLINE, CROP = "original", "outline", "crop"


class Thumbnail(NamedTuple):
    """A JPEG of one cell. kind: `original`, `outline` (the mask's edge on it), `crop`, or what a method made of it.

    source: the source that the method was fitted on, "" where none was.
    """

    id: str
    kind: str
    source: str
    width: int
    height: int
    jpeg: bytes


def of(name: str, kind: str, pixels: np.ndarray, source: str = "", mask: np.ndarray | None = None) -> Thumbnail:
    """(H, W, 3) uint8 RGB reduced; with a mask (h, w) bool of the same cell, in any frame, its outline on it."""
    small = reduced(pixels)
    if mask is not None:
        small = _outlined(small, images.resize_mask(mask, (small.shape[0], small.shape[1])))
    return Thumbnail(name, kind, source, small.shape[1], small.shape[0], jpeg(small, sharp=mask is not None))


def _outlined(small: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mask's edge two pixels wide: one is lost on a picture that is shown smaller."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask_outline(mask_outline(small, mask), inner)


def reduced(pixels: np.ndarray, side: int = SIDE) -> np.ndarray:
    """The image with its longer side `side` px, by the mean over areas; a smaller one as it is."""
    longest = max(pixels.shape[:2])
    if longest <= side:
        return np.ascontiguousarray(pixels)
    height, width = (max(1, round(length * side / longest)) for length in pixels.shape[:2])
    return images.resize(np.ascontiguousarray(pixels), (height, width), "area")


def jpeg(pixels: np.ndarray, sharp: bool) -> bytes:
    """(H, W, 3) uint8 RGB as a file; sharp: colours are kept as fine as lightness."""
    from PIL import Image

    file = io.BytesIO()
    # Halved colour would blur a thin coloured line.
    Image.fromarray(pixels).save(file, format="JPEG", quality=QUALITY, subsampling=0 if sharp else 2, optimize=True)
    return file.getvalue()


def write(path: Path, pictures: Iterable[Thumbnail]) -> None:
    """A Parquet table of them, sorted."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = (pa.string(), pa.string(), pa.string(), pa.int16(), pa.int16(), pa.binary())
    rows = sorted(set(pictures))
    columns = {
        name: pa.array([row[i] for row in rows], kind)
        for i, (name, kind) in enumerate(zip(Thumbnail._fields, kinds, strict=True))
    }
    with atomic_file(path) as partial:
        pq.write_table(pa.table(columns), partial, compression="none")  # JPEGs are packed already


def read(path: Path) -> list[Thumbnail]:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    return [Thumbnail(*row) for row in zip(*(table[name].to_pylist() for name in Thumbnail._fields), strict=True)]
