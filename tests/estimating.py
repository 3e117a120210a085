"""What the tests of the estimators share."""

from __future__ import annotations

import numpy as np

from cellfeat.console import SilentReporter
from cellfeat.registry import installed
from cellfeat.workplace import Workplace

COLOUR = {"backbone": "colour", "backbone_params": {"bins": 2}, "device": "cpu"}


def work() -> Workplace:
    return Workplace(installed(), SilentReporter(), "cpu")


def drawn_vectors(count: int = 45) -> tuple[np.ndarray, np.ndarray]:
    """(N, 5) float features of three classes that lie apart, and (N,) their names."""
    rng = np.random.default_rng(0)
    label = np.arange(count) % 3
    centre = 4 * rng.normal(size=(3, 5))[label]
    return centre + rng.normal(size=centre.shape), np.array(["basophil", "monocyte", "blast"])[label]
