"""Which boxes are which cells, and how a detector does on drawn smears that it never saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from cellfeat.detection import overlaps
from cellfeat_lora_sam.detector_head import CELL_DIAMETER

SIZE = (640, 480)  # px of a drawn photograph
CELLS = (0, 15), (15, 43)  # white cells in it; in every other one that is crowded
TOUCHING = (0.0, 0.9)  # chance that a cell lies against another one: from none to crowds
SCALES = (-0.26, 0.26)  # logarithms of the scale error: 30 % either way
SAME_CELL = 0.5  # intersection over union from which on a box is a cell's
THRESHOLDS = np.arange(0.1, 0.81, 0.02)
CHECK_SEED = 2_000_003  # added to the seed for photographs that are never trained on


class Counted(NamedTuple):
    """cells: how many there were. found: of these. wrong: boxes that are none of them."""

    cells: int
    found: int
    wrong: int

    @property
    def recall(self) -> float:
        return self.found / max(self.cells, 1)

    @property
    def precision(self) -> float:
        return self.found / max(self.found + self.wrong, 1)

    @property
    def f2(self) -> float:
        """Of recall and precision, recall weighs twice (F-measure): a wrong box can be seen and dropped, a missed cell
        cannot."""
        return 5 * self.found / max(4 * self.cells + self.found + self.wrong, 1)


class Scored(NamedTuple):
    """One photograph: found boxes (K, 4) with scores (K,), and the true ones (M, 4), px."""

    boxes: np.ndarray
    scores: np.ndarray
    truth: np.ndarray


Find = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # (3, H, W) uint8 -> boxes and scores


def photographs(seed: int, count: int, part: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Drawn photographs (3, H, W) uint8 and the boxes of their cells, every third of a named laboratory."""
    from cellfeat import synthetic
    from cellfeat.synthetic_smears import draw_smear

    named = list(synthetic.LABORATORIES)
    for number in range(count):
        rng = np.random.default_rng((seed + CHECK_SEED, part, number))
        laboratory = named[number // 3 % len(named)] if number % 3 == 0 else synthetic.random_laboratory(rng)
        diameter = CELL_DIAMETER * float(np.exp(rng.uniform(*SCALES)))
        touching = float(rng.uniform(*TOUCHING))
        cells = int(rng.integers(*CELLS[number % 2]))
        smear = draw_smear(laboratory, rng, SIZE, cells, diameter, touching, synthetic.ALL_TYPES)
        yield smear.image.transpose(2, 0, 1), smear.boxes


def scored(find: Find, seed: int, count: int, part: int) -> list[Scored]:
    """What `find` finds in such photographs, at any score."""
    return [Scored(*find(image), boxes) for image, boxes in photographs(seed, count, part)]


def counted(found: list[Scored], threshold: float) -> Counted:
    """Cells found and boxes that are wrong at a threshold, over all photographs."""
    cells = hits = boxes = 0
    for one in found:
        kept = one.boxes[one.scores >= threshold]
        hits += matched(kept, one.truth)
        cells, boxes = cells + len(one.truth), boxes + len(kept)
    return Counted(cells, hits, boxes - hits)


def matched(boxes: np.ndarray, truth: np.ndarray) -> int:
    """How many of the cells (M, 4) have a box (K, 4) of their own: as many as can be, by intersection over union.

    Stricter than `cellfeat.detection.compare`, which counts: here the boxes must be right, too.
    """
    from scipy.optimize import linear_sum_assignment

    same = overlaps(boxes, truth) >= SAME_CELL
    rows, columns = linear_sum_assignment(same, maximize=True)
    return int(same[rows, columns].sum())


def best_threshold(found: list[Scored]) -> float:
    """The threshold with the best F2; of equal ones the one in the middle."""
    values = np.array([counted(found, threshold).f2 for threshold in THRESHOLDS])
    best = np.flatnonzero(values >= values.max() - 1e-9)
    return round(float(THRESHOLDS[best[len(best) // 2]]), 2)
