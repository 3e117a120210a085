"""Labels and names as Python hands them over: which of them are there, and the classes behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cellfeat.errors import CellfeatError
from cellfeat.types import UNLABELED


class BadLabels(CellfeatError, ValueError):
    """Labels that nothing can be learned from; scikit-learn's own estimators raise a ValueError for them."""


def encoded_labels(y: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """((K,) sorted classes, (N,) int64 labels 0..K-1, -1 for a hidden one: None, NaN, '' or -1)."""
    known = np.array([not hidden(label) for label in y], dtype=bool)
    values = [label for label, there in zip(y, known, strict=True) if there]
    numbers = np.full(len(known), UNLABELED)
    if len({isinstance(value, str) for value in values}) > 1:
        kinds = sorted({type(value).__name__ for value in values})
        raise BadLabels(f"the classes in y are of several kinds ({', '.join(kinds)}); give names, or numbers")
    classes, numbers[known] = np.unique(np.array(values), return_inverse=True)
    return classes, numbers


def hidden(label: Any) -> bool:
    """Whether a label says that there is none: None, NaN, an empty text, or the number -1."""
    if isinstance(label, str):
        return not label.strip()
    is_number = isinstance(label, (int, float, np.integer, np.floating)) and not isinstance(label, bool)
    return absent(label) or (is_number and bool(label == UNLABELED))


def text_of(value: Any) -> str:
    """The value as a text, none for what a table leaves empty."""
    return "" if absent(value) else str(value).strip()


def absent(value: Any) -> bool:
    """None, NaN, or pandas' NA, which cannot be compared."""
    return value is None or type(value).__name__ == "NAType" or (np.isscalar(value) and bool(value != value))
