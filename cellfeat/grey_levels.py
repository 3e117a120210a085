"""How bright the pixels of each laboratory's images are, of whole frames and of the cells in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cellfeat import images, thumbnails
from cellfeat.datasets import Dataset

LEVELS = 256


def grey_levels(dataset: Dataset, rows: np.ndarray, mask_of: Callable[[int], np.ndarray] | None) -> dict[str, Any]:
    """{"frame" and "cell": {domain: {"images": n, "millionths": 256 numbers}}, "masks": whose}.

    Grey is Rec. 601's luma of the files' RGB, before any resizing. millionths: share of the pixels at every level,
    each image weighing the same. mask_of: (S, S) bool of a row; None: the data set's own masks, where it has any.
    """

    def counted(number: int, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        grey, row = _luma(pixels), int(rows[number])
        mask = _mask(dataset, row, mask_of, grey.shape)
        inside = None if mask is None or not mask.any() or mask.all() else _shares(grey[mask])
        return _shares(grey), inside

    found = thumbnails.from_files([dataset.path[row] for row in rows], counted)
    whose = "method" if mask_of is not None else "data set"
    parts: dict[str, dict[str, list[np.ndarray]]] = {"frame": {}, "cell": {}}
    for row, both in zip(rows, found, strict=True):
        for part, shares in zip(parts, both or (None, None), strict=True):
            if shares is not None:
                parts[part].setdefault(str(dataset.domain[row]), []).append(shares)
    return {
        part: {
            name: {"images": len(each), "millionths": np.rint(1e6 * np.mean(each, axis=0)).astype(int).tolist()}
            for name, each in by_domain.items()
        }
        for part, by_domain in parts.items()
    } | {"masks": whose}


def _luma(pixels: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)


def _shares(values: np.ndarray) -> np.ndarray:
    return np.bincount(values.ravel(), minlength=LEVELS) / values.size


def _mask(
    dataset: Dataset, row: int, mask_of: Callable[[int], np.ndarray] | None, shape: tuple[int, ...]
) -> np.ndarray | None:
    if mask_of is not None:
        return images.resize_mask(mask_of(row), (shape[0], shape[1]))
    path = None if dataset.mask_path is None else dataset.mask_path[row]
    return None if path is None else thumbnails.mask_of(path)
