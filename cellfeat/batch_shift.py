"""By how much the medians of a batch of cells lie outside of what the training laboratories span."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cellfeat.image_statistics import STATISTICS

FEATURES = "features"
COMPARED = (*STATISTICS, FEATURES)  # the last is the distance of the features
# Deviations that a person looking at two photographs would hardly see; no spread is taken for less.
LEAST_SCALE = np.array([1.5, 1.0, 1.5, 0.05, 0.04, 0.015, 2.0, 0.1, 0.3, 0.1, 0.15, 0.02])
MARGIN = 1.0  # cell-to-cell deviations that the median of very many cells may lie outside
CERTAINTY = 3.0  # standard errors beside that
MEDIAN_ERROR = 1.2533  # of the median of normal values, to that of their mean: sqrt(pi / 2)
INNER = (0.1, 0.9)
_INNER_DEVIATIONS = 2.563  # between these quantiles of a normal distribution


class Shift(NamedTuple):
    """value: the batch's median. low, high: between which the inner 80 % of the training cells are. beyond: deviations
    from cell to cell that it is outside of the laboratories' medians, positive above, negative below."""

    value: float
    low: float
    high: float
    beyond: float


@dataclass(frozen=True)
class Batch:
    """statistics: (n, 12). features: (n,) distances, 0 where none are compared. novel: how many images are; of images
    like the training ones the share `false_alarm` is. fields: photographs that they were cut out of; None for images
    that were taken one by one."""

    statistics: np.ndarray
    features: np.ndarray
    novel: int
    false_alarm: float
    fields: int | None = None

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class Learnt:
    """Medians of each training laboratory (L, 13) in the order of `COMPARED`, its cells (L,), their deviation from cell
    to cell (13,), and the quantiles between which the inner 80 % of all cells are, (2, 13); NaN where none is known."""

    domains: tuple[str, ...]
    medians: np.ndarray
    cells: np.ndarray
    scale: np.ndarray
    inner: np.ndarray

    @classmethod
    def of(cls, statistics: np.ndarray, features: np.ndarray, domain: np.ndarray) -> Learnt:
        """From (n, 12) statistics, (n,) distances of cells that were held out, and the (n,) laboratories."""
        values = np.column_stack([statistics, features])
        names = np.unique(domain)
        each = [values[domain == name] for name in names]
        least = np.append(LEAST_SCALE, 1e-6)
        scale = np.maximum(middle(np.stack([spread(one) for one in each])), least)
        medians, cells = np.stack([middle(one) for one in each]), np.array([len(one) for one in each])
        return cls(tuple(names.tolist()), medians, cells, scale, quantiles(values))

    def arrays(self) -> dict[str, np.ndarray]:
        """To be saved."""
        return {
            "laboratory_medians": self.medians,
            "laboratory_cells": self.cells,
            "cell_scale": self.scale,
            "cell_inner": self.inner,
        }

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray], domains: Sequence[str]) -> Learnt:
        """What `arrays` gave. Raises: KeyError where one is missing, ValueError where they do not fit together."""
        medians, cells = arrays["laboratory_medians"], arrays["laboratory_cells"]
        scale, inner = arrays["cell_scale"], arrays["cell_inner"]
        wide = len(COMPARED)
        if (medians.shape, cells.shape, scale.shape, inner.shape) != (
            (len(domains), wide),
            (len(domains),),
            (wide,),
            (2, wide),
        ):
            raise ValueError("arrays of the laboratories do not fit together")
        return cls(tuple(map(str, domains)), medians, cells, scale, inner)

    def shifts(self, batch: Batch, by_fields: bool = False) -> dict[str, Shift]:
        """What lies outside, by the names of `COMPARED`. Few cells must lie farther outside: five prove little.

        by_fields: count photographs instead of cells, as those of one share its light and stain.
        """
        values = np.column_stack([batch.statistics, batch.features])
        centre, counts = middle(values), np.isfinite(values).sum(axis=0)
        found = {}
        for column, name in enumerate(COMPARED):
            medians = self.medians[:, column][np.isfinite(self.medians[:, column])]
            if not counts[column] or not len(medians):
                continue
            value, unit = float(centre[column]), float(self.scale[column])
            beyond = (max(value - medians.max(), 0) - max(medians.min() - value, 0)) / unit
            count = min(counts[column], batch.fields) if by_fields and batch.fields else counts[column]
            error = MEDIAN_ERROR * np.sqrt(1 / count + 1 / self.cells.min())
            if abs(beyond) > MARGIN + CERTAINTY * error:
                found[name] = Shift(value, float(self.inner[0, column]), float(self.inner[1, column]), float(beyond))
        return found


def middle(values: np.ndarray) -> np.ndarray:
    """(n, k) to the (k,) medians of the columns, NaN where nothing is known."""
    return np.array([np.median(one[np.isfinite(one)]) if np.isfinite(one).any() else np.nan for one in values.T])


def quantiles(values: np.ndarray) -> np.ndarray:
    """(n, k) to (2, k): between which the inner 80 % of each column are."""
    known = [one[np.isfinite(one)] for one in values.T]
    return np.array([np.quantile(one, INNER) if len(one) else (np.nan, np.nan) for one in known]).T


def spread(values: np.ndarray) -> np.ndarray:
    """(n, k) to (k,): deviations of the columns, by the inner 80 %, which a few strange cells do not widen."""
    low, high = quantiles(values)
    return (high - low) / _INNER_DEVIATIONS
