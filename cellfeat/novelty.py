"""Whether new cells look like those that a pipeline learnt from: features, stain, sharpness and size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellfeat.datasets import Dataset
from cellfeat.extract import Encoder
from cellfeat.types import Cells


@dataclass(frozen=True)
class Novelty:
    """score: (N,) float, larger is stranger. novel: (N,) bool, stranger than all but a few training cells. remarks:
    plain sentences about the whole batch: what differs, and what may help; none where nothing does."""

    score: np.ndarray
    novel: np.ndarray
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reference:
    """What the cells of a pipeline's training laboratories look like.

    cell_share: typical diameter of a cell as a share of its image's side; None where no masks told it.
    """

    cell_share: float | None = None

    @classmethod
    def learn(cls, dataset: Dataset, cells: Cells, encoder: Encoder, seed: int) -> Reference:
        """From cells that the pipeline was fitted on, with their labels or without."""
        return cls()

    def save(self, folder: Path) -> None:
        """Write what `read` needs into a pipeline's folder."""

    @classmethod
    def read(cls, folder: Path) -> Reference | None:
        """None for a pipeline that was saved without. Raises: CellfeatError for damaged files."""
        return None

    def judge(self, dataset: Dataset, cells: Cells, encoder: Encoder) -> Novelty:
        """How far these cells are from the training laboratories'."""
        return Novelty(np.zeros(len(cells)), np.zeros(len(cells), bool))
