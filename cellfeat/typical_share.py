"""How large a typical white cell, a neutrophil, is in the images of a data set: as a share of their side."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cellfeat.datasets import Dataset
from cellfeat.decode import read_mask
from cellfeat.image_statistics import diameter_share
from cellfeat.sampling import balanced
from cellfeat.synonyms import meaning

MASKS = 48  # per laboratory, that are read or encoded for the size alone
ENOUGH = 5  # neutrophils whose median is worth more than that of every class


def typical_share(dataset: Dataset, seed: int, found: Callable[[np.ndarray], np.ndarray]) -> float | None:
    """Median diameter of a cell as a share of its image's side; None where no mask tells it.

    Of the neutrophils, by whatever name the classes have them, as the scale of a photograph is that of a neutrophil
    too; where there are fewer than five, of cells of every class, which are on average about as large where no class
    is much more frequent than the others. By the data set's own masks, else by those that `found` gives: (n,) shares
    of the (n,) rows it is handed, NaN where it knows none.

    Args:
        dataset: cells that a pipeline was fitted on; their labels are looked at.
    """
    neutrophils = np.flatnonzero(np.isin(dataset.label, _neutrophils(dataset.classes)))
    for rows in (neutrophils, np.arange(len(dataset))) if len(neutrophils) >= ENOUGH else (np.arange(len(dataset)),):
        few = rows[balanced(dataset.domain[rows], len(rows), seed, MASKS)]
        for shares in (lambda chosen: _own(dataset, chosen), found):
            known = shares(few)
            known = known[np.isfinite(known)]
            if len(known) >= min(ENOUGH, len(few)):
                return float(np.median(known))
    return None


def _neutrophils(classes: tuple[str, ...]) -> list[int]:
    """Numbers of the classes that are neutrophils; bands count, as they are as large."""
    return [number for number, name in enumerate(classes) if (meaning(name) or "").startswith("neutrophil")]


def _own(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    paths = [None if dataset.mask_path is None else dataset.mask_path[row] for row in rows]
    return np.array([diameter_share(None if path is None else read_mask(path)) for path in paths], float)
