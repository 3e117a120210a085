"""The shapes of cell and nucleus as numbers: what tells a band from a segmented nucleus, in any stain."""

from __future__ import annotations

import cv2
import numpy as np

SIDE = 112  # px of the masks that are measured: all that masks of a quarter of the frame's side can tell
THICKNESS = (0.05, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25)  # of the root of the area: at which a nucleus falls apart
FEW = 20  # pixels: a part that is smaller counts as missing
PART = 30 + len(THICKNESS)
SHAPES = 2 * PART + 1


def shapes(cells: np.ndarray, nuclei: np.ndarray) -> np.ndarray:
    """Masks (B, S, S) bool -> (B, 75) float32: of the cell, of its nucleus, and the nucleus's share of the cell."""
    side = min(SIDE, cells.shape[-1])
    small = [[_reduced(mask, side) for mask in masks] for masks in (cells, nuclei)]
    measured = [shape_of_cell(cell, nucleus) for cell, nucleus in zip(*small, strict=True)]
    return np.stack(measured).astype(np.float32)


def _reduced(mask: np.ndarray, side: int) -> np.ndarray:
    return cv2.resize(mask.astype(np.uint8) * 255, (side, side), interpolation=cv2.INTER_AREA) > 127


def shape_of_cell(cell: np.ndarray, nucleus: np.ndarray) -> np.ndarray:
    """Masks (s, s) bool -> (75,) float64."""
    share = nucleus.sum() / max(cell.sum(), 1)
    return np.concatenate([shape_of_part(cell), shape_of_part(nucleus), [share]])


def shape_of_part(part: np.ndarray) -> np.ndarray:
    """(s, s) bool -> (37,) float64: moments, solidity, roughness, lobes, thickness, spread; 0 for `FEW` pixels."""
    area = int(part.sum())
    if area <= FEW:
        return np.zeros(PART)
    plane = part.astype(np.uint8)
    curves, _ = cv2.findContours(plane, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hull = cv2.contourArea(cv2.convexHull(np.concatenate(curves)))
    around = sum(cv2.arcLength(curve, True) for curve in curves)
    moments = cv2.HuMoments(cv2.moments(plane, True)).ravel()
    moments[6] = abs(moments[6])  # the sign of the last tells a shape from its mirror image, and views are mirrored
    depth = cv2.distanceTransform(plane, cv2.DIST_L2, 5) / np.sqrt(area)
    lobes = [cv2.connectedComponents((depth > least).astype(np.uint8))[0] - 1 for least in THICKNESS]
    rows, columns = np.nonzero(part)
    away = np.hypot(rows - rows.mean(), columns - columns.mean()) / np.sqrt(area)
    figures = [area / max(hull, 1.0), around**2 / area, len(curves), depth.max()]
    figures += list(np.sign(moments) * np.log10(np.abs(moments) + 1e-12))
    figures += list(np.quantile(depth[part], (0.25, 0.5, 0.75, 0.9))) + lobes
    figures += list(np.quantile(away, (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)))
    figures += list(np.histogram(away, 9, (0.0, 1.2))[0] / area)
    return np.array(figures, dtype=np.float64)
