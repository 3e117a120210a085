"""Labels and names as Python hands them over: which of them are there, and the classes behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cellfeat.errors import CellfeatError
from cellfeat.types import UNLABELED

# What Python, NumPy and pandas write for a hidden label where texts and others stand in one array or column.
HIDDEN_TEXTS = ("", "-1", "-1.0", "nan", "None", "<NA>")


class BadLabels(CellfeatError, ValueError):
    """Labels that nothing can be learned from; scikit-learn's own estimators raise a ValueError for them."""


def encoded_labels(y: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """((K,) sorted classes, (N,) int64 labels 0..K-1, -1 where `hidden`)."""
    known = np.array([not hidden(label) for label in y], dtype=bool)
    values = [label for label, there in zip(y, known, strict=True) if there]
    numbers = np.full(len(known), UNLABELED)
    if len({isinstance(value, str) for value in values}) > 1:
        kinds = sorted({type(value).__name__ for value in values})
        raise BadLabels(f"the classes in y are of several kinds ({', '.join(kinds)}); give names, or numbers")
    classes, numbers[known] = np.unique(np.array(values), return_inverse=True)
    return classes, numbers


def judged(y: Any) -> np.ndarray:
    """(N,) object, the labels as they came, once those that are not hidden were found to be classes.

    Raises: ValueError, as scikit-learn's classifiers, for a table of several columns and for measured values.
    """
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import column_or_1d

    values = column_or_1d(np.asarray(y, dtype=object), warn=True)  # as objects: NumPy would make ["a", -1] two texts
    known = [label for label in values if not hidden(label)]
    if known:
        check_classification_targets(np.array(known))
    return values


def hidden(label: Any) -> bool:
    """Whether a label says that there is none: None, NaN, pandas' NA, the number -1, or one of `HIDDEN_TEXTS`."""
    if isinstance(label, str):
        return label.strip() in HIDDEN_TEXTS
    is_number = isinstance(label, (int, float, np.integer, np.floating)) and not isinstance(label, bool)
    return absent(label) or (is_number and bool(label == UNLABELED))


def text_of(value: Any) -> str:
    """The value as a text, none for what a table leaves empty."""
    return "" if absent(value) else str(value).strip()


def absent(value: Any) -> bool:
    """None, NaN, or pandas' NA, which cannot be compared."""
    return value is None or type(value).__name__ == "NAType" or (np.isscalar(value) and bool(value != value))
