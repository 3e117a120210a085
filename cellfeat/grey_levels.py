"""How bright the pixels of each laboratory's images are, of whole frames and of the cells in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cellfeat import image_files, images
from cellfeat.datasets import Dataset
from cellfeat.decode import ImageError

LEVELS = 256


def grey_levels(
    dataset: Dataset, rows: np.ndarray, masked: np.ndarray, mask_of: Callable[[int], np.ndarray]
) -> dict[str, Any]:
    """{"frame" and "cell": {domain: {"images": n, "millionths": 256 numbers}}}: of whole images, and of cells alone;
    "unreadable": {"images", "masks": n}.

    Grey is Rec. 601's luma of the files' RGB, before any resizing. millionths: share of the pixels at every level,
    each image weighing the same. rows: of whole images. masked: rows whose masks `mask_of` gives, (S, S) bool in any
    frame; an empty mask, and one of the whole image, do not count. What cannot be read any more is counted alone.
    """
    every, frames, cells = np.union1d(rows, masked).astype(int), set(rows.tolist()), set(masked.tolist())

    def counted(number: int, pixels: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None, bool]:
        grey, row = _luma(pixels), int(every[number])
        frame = _shares(grey) if row in frames else None
        if row not in cells:
            return frame, None, True
        try:
            mask = images.resize_mask(mask_of(row), (grey.shape[0], grey.shape[1]))
        except ImageError:
            return frame, None, False
        return frame, _shares(grey[mask]) if mask.any() and not mask.all() else None, True

    found = image_files.for_each([dataset.path[row] for row in every], counted)
    parts: dict[str, dict[str, list[np.ndarray]]] = {"frame": {}, "cell": {}}
    for row, one in zip(every, found, strict=True):
        for part, shares in zip(parts, one[:2] if one else (), strict=False):
            if shares is not None:
                parts[part].setdefault(str(dataset.domain[row]), []).append(shares)
    told: dict[str, Any] = {
        part: {name: _mean(each) for name, each in sorted(by.items())} for part, by in parts.items()
    }
    unreadable = {"images": sum(not one for one in found), "masks": sum(not one[2] for one in found if one)}
    return {**told, "unreadable": unreadable}


def _mean(each: list[np.ndarray]) -> dict[str, Any]:
    return {"images": len(each), "millionths": np.rint(1e6 * np.mean(each, axis=0)).astype(int).tolist()}


def _luma(pixels: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)


def _shares(values: np.ndarray) -> np.ndarray:
    return np.bincount(values.ravel(), minlength=LEVELS) / values.size
