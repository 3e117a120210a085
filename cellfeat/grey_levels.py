"""How bright the pixels of each laboratory's images are, of whole frames and of the cells in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cellfeat import images, thumbnails
from cellfeat.datasets import Dataset

LEVELS = 256


def grey_levels(
    dataset: Dataset, rows: np.ndarray, masked: np.ndarray, mask_of: Callable[[int], np.ndarray]
) -> dict[str, Any]:
    """{"frame" and "cell": {domain: {"images": n, "millionths": 256 numbers}}}: of whole images, and of cells alone.

    Grey is Rec. 601's luma of the files' RGB, before any resizing. millionths: share of the pixels at every level,
    each image weighing the same. rows: of whole images. masked: rows whose masks `mask_of` gives, (S, S) bool in any
    frame; an empty mask, and one of the whole image, do not count.
    """
    every = np.union1d(rows, masked).astype(int)

    def counted(number: int, pixels: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
        grey, row = _luma(pixels), int(every[number])
        inside = None
        if row in cells:
            mask = images.resize_mask(mask_of(row), (grey.shape[0], grey.shape[1]))
            inside = _shares(grey[mask]) if mask.any() and not mask.all() else None
        return (_shares(grey) if row in frames else None), inside

    frames, cells = set(rows.tolist()), set(masked.tolist())
    found = thumbnails.from_files([dataset.path[row] for row in every], counted)
    parts: dict[str, dict[str, list[np.ndarray]]] = {"frame": {}, "cell": {}}
    for row, both in zip(every, found, strict=True):
        for part, shares in zip(parts, both or (None, None), strict=True):
            if shares is not None:
                parts[part].setdefault(str(dataset.domain[row]), []).append(shares)
    return {part: {name: _mean(each) for name, each in sorted(by.items())} for part, by in parts.items()}


def _mean(each: list[np.ndarray]) -> dict[str, Any]:
    return {"images": len(each), "millionths": np.rint(1e6 * np.mean(each, axis=0)).astype(int).tolist()}


def _luma(pixels: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)


def _shares(values: np.ndarray) -> np.ndarray:
    return np.bincount(values.ravel(), minlength=LEVELS) / values.size
