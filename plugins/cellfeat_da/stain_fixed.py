"""The fixed references of `reinhard` and `macenko`: what drawn cells have, so that no laboratory is the reference.

`measured` gives these numbers again; a test holds them against it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

LABORATORY, COUNT, SIZE, SEED = "lab-a", 200, 112, 0

REINHARD: dict[str, Any] = {"mean": [80.429, 9.436, 8.635], "std": [17.775, 7.764, 12.760]}
MACENKO: dict[str, Any] = {
    "stains": [[0.5405, 0.2388], [0.7845, 0.6209], [0.3040, 0.7466]],
    "amounts": [2.1861, 0.6216],
}


def drawn() -> np.ndarray:
    """(200, 3, 112, 112) uint8 RGB: forty cells of each of five classes as the laboratory `lab-a` would show them."""
    from cellfeat.synthetic import CLASSES, draw_cell

    rng = np.random.default_rng(SEED)
    cells = [draw_cell(CLASSES[number % len(CLASSES)], LABORATORY, rng, SIZE).image for number in range(COUNT)]
    return np.stack(cells).transpose(0, 3, 1, 2)


def measured(method: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """The reference that a method of `stain` makes of (N, 3, S, S) uint8 RGB images."""
    estimates = [method.estimate(np.ascontiguousarray(image.transpose(1, 2, 0))) for image in images]
    return method.combined([one for one in estimates if one is not None])
