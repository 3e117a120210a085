"""How well a detector finds white cells where they are known: boxes matched to cells, recall, precision, counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cellfeat.slots import DetectorRecord

SAME = 0.3  # intersection over union from which a box is of a cell
CENTRED = 0.15  # the same, where the box's centre lies in the cell's box
SMALL, LARGE = 0.8, 1.25  # times the median size of the whole cells


class Known(NamedTuple):
    """The white cells of one photograph; `synthetic_smears.SyntheticSmear` has the same fields.

    boxes: (K, 4) px. touching: (K,) bool, whether another white cell touches it. cut: (K,) bool, by the border.
    """

    boxes: np.ndarray
    touching: np.ndarray
    cut: np.ndarray


class Compared(NamedTuple):
    """One photograph. found: (K,) int, the box of each cell, -1 for none. doubled: (M,) bool, boxes that are left over
    though of some cell. wrong: (M,) bool, all boxes that are left over. overlap: (K,) IoU with its box, 0 for none."""

    found: np.ndarray
    doubled: np.ndarray
    wrong: np.ndarray
    overlap: np.ndarray


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (M, 4) and (K, 4), x1, y1, x2, y2 px: (M, K) float in 0..1."""
    boxes, others = (np.asarray(some, float).reshape(-1, 4) for some in (boxes, others))
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = (high - low).clip(0).prod(axis=2)
    one, other = ((some[:, 2:] - some[:, :2]).clip(0).prod(axis=1) for some in (boxes, others))
    union = one[:, None] + other[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def compare(boxes: np.ndarray, known: np.ndarray) -> Compared:
    """Match detected boxes (M, 4) to the cells (K, 4) of a photograph one to one.

    A box may be a cell's from an IoU of 0.3: what is cut out around it then holds the cell. From 0.15 where its centre
    lies in the cell's box: detectors that go by nuclei box little of a cell whose cytoplasm is pale, and yet count it
    and show where it is. As many pairs are made as can be, and of these the ones of the largest sum of IoU (Kuhn 1955,
    Nav. Res. Logist. Q. 2:83-97, by SciPy). One box around two cells is thus one cell found and one missed.
    """
    from scipy.optimize import linear_sum_assignment

    boxes, known = (np.asarray(some, float).reshape(-1, 4) for some in (boxes, known))
    iou = overlaps(boxes, known)
    centres = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    inside = ((centres >= known[None, :, :2]) & (centres <= known[None, :, 2:])).all(axis=2)
    allowed = (iou >= SAME) | (inside & (iou >= CENTRED))
    # one more pair always outweighs all that overlap can add
    rows, columns = linear_sum_assignment(np.where(allowed, 1 + min(iou.shape) + iou, 0), maximize=True)
    made = allowed[rows, columns]
    found = np.full(len(known), -1)
    found[columns[made]] = rows[made]
    wrong = np.ones(len(boxes), bool)
    wrong[rows[made]] = False
    overlap = np.zeros(len(known))
    overlap[columns[made]] = iou[rows[made], columns[made]]
    return Compared(found, wrong & allowed.any(axis=1), wrong, overlap)


def summary(found: Sequence[np.ndarray], known: Sequence[Known]) -> dict[str, Any]:
    """Figures of a detector over photographs, as JSON values.

    found: detected boxes (M, 4) of each. known: their cells. `recall` and `precision` have 95 % Wilson intervals, which
    take cells as independent; shares of nothing are None. `doubled`: wrong boxes on a cell that another box has.
    `count_error`: boxes less cells, over cells, per photograph that has any; its mean with and without sign. `by_size`:
    recall of the cells that are not cut, by the side of their boxes against the median; `by_crowding`: of cells that
    are cut by the border, else touch another, else are alone.
    """
    compared = [compare(boxes, one.boxes) for boxes, one in zip(found, known, strict=True)]
    hits = _joined([one.found >= 0 for one in compared])
    wrong, doubled = (sum(int(getattr(one, name).sum()) for one in compared) for name in ("wrong", "doubled"))
    touching, cut = (_joined([getattr(one, name) for one in known]) for name in ("touching", "cut"))
    sides = np.concatenate([np.sqrt((one.boxes[:, 2:] - one.boxes[:, :2]).prod(axis=1)) for one in known])
    typical = float(np.median(sides[~cut])) if (~cut).any() else None
    relative = sides[~cut] / typical if typical else sides[~cut]
    sizes = {"small": relative < SMALL, "usual": (relative >= SMALL) & (relative <= LARGE), "large": relative > LARGE}
    crowds = {"alone": ~touching & ~cut, "touching": touching & ~cut, "cut": cut}
    overlap = np.concatenate([one.overlap[one.found >= 0] for one in compared])
    return {
        "photographs": len(known),
        "cells": len(hits),
        "found": int(hits.sum()),
        "wrong": wrong,
        "doubled": doubled,
        "recall": share(int(hits.sum()), len(hits)),
        "precision": share(int(hits.sum()), int(hits.sum()) + wrong),
        "median_iou": float(np.median(overlap)) if len(overlap) else None,
        "count_error": _count_error([len(boxes) for boxes in found], [len(one.boxes) for one in known]),
        "typical_side": typical,
        "by_size": {name: share(int(hits[~cut][rows].sum()), int(rows.sum())) for name, rows in sizes.items()},
        "by_crowding": {name: share(int(hits[rows].sum()), int(rows.sum())) for name, rows in crowds.items()},
    }


def record(figures: dict[str, Any], on: str) -> DetectorRecord:
    """What a segmenter tells as its `detections`, from `summary`. on: the photographs, and the command."""
    return DetectorRecord(figures["cells"], figures["found"], figures["wrong"], on)


def share(count: int, of: int) -> dict[str, Any]:
    """A share with its 95 % Wilson interval; None where it is one of nothing."""
    from cellfeat.predicted import wilson

    if not of:
        return {"count": count, "of": of, "share": None, "low": None, "high": None}
    low, high = wilson(count, of)
    return {"count": count, "of": of, "share": count / of, "low": low, "high": high}


def _joined(flags: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.asarray(one, bool) for one in flags])


def _count_error(counts: Sequence[int], cells: Sequence[int]) -> dict[str, float | None]:
    errors = [(count - true) / true for count, true in zip(counts, cells, strict=True) if true]
    if not errors:
        return {"mean": None, "mean_absolute": None, "worst": None}
    return {
        "mean": float(np.mean(errors)),
        "mean_absolute": float(np.mean(np.abs(errors))),
        "worst": float(max(errors, key=abs)),
    }
