"""How far a pipeline's probabilities can be trusted, learnt on the held-out folds of its source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellfeat.results import Result
from cellfeat.types import Cells

CONFIDENCE = "confidence.json"  # beside a saved pipeline


@dataclass(frozen=True)
class Confidence:
    """What was learnt on held-out cells of the source."""

    @classmethod
    def learn(cls, result: Result, cells: Cells) -> Confidence:
        """From the answers of every fold's model on its held-out fold."""
        return cls()

    def save(self, folder: Path) -> None:
        """Write `confidence.json` into a pipeline's folder."""

    @classmethod
    def read(cls, folder: Path) -> Confidence | None:
        """None for a pipeline that was saved without. Raises: CellfeatError for a damaged file."""
        return None

    def calibrated(self, proba: np.ndarray) -> np.ndarray:
        """(N, K) -> (N, K); the largest of a row stays the largest."""
        return proba

    def sets(self, proba: np.ndarray, coverage: float) -> np.ndarray:
        """(N, K) calibrated probabilities -> (N, K) bool prediction sets of a stated coverage."""
        return proba > 0
