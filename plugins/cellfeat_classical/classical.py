"""The segmenter `classical`: the nucleus by optical density, the cell by flooding the foreground from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from cellfeat import DetectorRecord
from cellfeat_classical.nucleus import (
    central_group,
    empty_field,
    multi_otsu,
    nuclear_pixels,
    nucleus_within,
    optical_density,
)
from cellfeat_classical.regions import convex_hull, depth, filled, grown, opened, shrunk, touching
from cellfeat_classical.rivals import find_rivals, red_evidence

if TYPE_CHECKING:
    import torch

Parting = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

WORKING_SIDE = 112  # a nucleus is still 20 px wide, and the work a quarter of that at 224
CELL, RIVAL = 1, 2
LEVELS = 24


class Classical:
    """A careful segmenter of the white cell near the middle, without training and without parameters.

    Nucleus: darkest of three classes in red optical density (Otsu 1979, IEEE Trans. SMC 9:62-66; three classes after
    Liao, Chen & Chung 2001, J. Inf. Sci. Eng. 17:713-727), the lobes near the middle. Foreground: Lab distance from an
    empty field that is fitted to the picture. Cell: watershed by immersion (Vincent & Soille 1991, IEEE Trans. PAMI
    13:583-598) in the foreground alone, from the nucleus' convex hull against the cores of red cells, as Meyer &
    Beucher (1990, J. Vis. Commun. Image R. 1:21-46) do with markers; a second one sets the outline on the steepest
    slope. Neither adds lines between basins. All of it at 112 px or the image's own side where that is less.
    Mean IoU on the 300 masked images of Zheng et al. (2018) at 224 px: 0.90 for the cell, 0.86 for the nucleus.

    `detect` finds the white cells of a whole photograph: what is denser in red light than red cells can be, lobes put
    together and nuclei that touch parted, specks and platelets left out by their size, and each nucleus outlined as
    above in a window of its own, with its neighbours' nuclei as rivals. It answers at the scale at which a typical
    white cell is 56 px wide; cells without a nucleus in the photograph are not found.
    """

    cell_diameter = float(WORKING_SIDE / 2)
    detections = DetectorRecord(
        cells=1584,
        found=1506,
        wrong=113,
        on="smears assembled from single cells of three laboratories (docs/detection.md), which real fields are not",
    )

    def segment(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) uint8 RGB -> (B, S, S) bool, True on the cell; all False on a blank image."""
        return self.cells_and_nuclei(images)[0]

    def detect(self, image: torch.Tensor) -> torch.Tensor:
        """(3, H, W) uint8 RGB, a typical white cell `cell_diameter` px wide -> (K, 4) float32 x1, y1, x2, y2 px."""
        import torch

        from cellfeat_classical.detect import detect_cells  # which stands on this module

        boxes = detect_cells(np.ascontiguousarray(image.cpu().numpy().transpose(1, 2, 0)))
        return torch.from_numpy(boxes).to(image.device)

    def nuclei(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) uint8 RGB -> (B, S, S) bool, True on the nucleus, which lies inside the cell's mask."""
        return self.cells_and_nuclei(images)[1]

    def cells_and_nuclei(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 3, S, S) uint8 RGB -> the masks of `segment` and of `nuclei` for the price of one."""
        import torch

        pixels = images.cpu().numpy()
        masks = np.zeros((2, len(pixels), *pixels.shape[2:]), dtype=bool)
        for index, image in enumerate(pixels):
            masks[:, index] = segment_cell(image.transpose(1, 2, 0))
        cells, nuclei = torch.from_numpy(masks).to(images.device)
        return cells, nuclei

    def plausible(self, images: torch.Tensor, cells: torch.Tensor, nuclei: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) uint8 RGB, two (B, S, S) bool -> (B,) bool: which masks may be taken for true."""
        import torch

        rows = zip(images.cpu().numpy(), cells.cpu().numpy(), nuclei.cpu().numpy(), strict=True)
        kept = [plausible(cell, nucleus, image.transpose(1, 2, 0)) for image, cell, nucleus in rows]
        return torch.tensor(kept, dtype=torch.bool, device=images.device)


def segment_cell(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(S, S, 3) uint8 RGB -> the whole cell and its nucleus, each (S, S) bool; both empty on a blank image."""
    import cv2

    shape = image.shape[:2]
    side = min(WORKING_SIDE, *shape)
    small = cv2.resize(np.ascontiguousarray(image), (side, side), interpolation=cv2.INTER_AREA)
    field = empty_field(small)
    density = optical_density(small, field)
    nuclei = nuclear_pixels(density, field)
    if not nuclei.any():
        return np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    masks = cell_and_nucleus(small, field, density, nuclei, central_group)
    rounded = (_smooth(mask.astype(np.float32), max(side / 112, 0.3)) for mask in masks)  # no stairs when enlarged
    cell, nucleus = (cv2.resize(mask, shape[::-1]) > 0.5 for mask in rounded)
    return cell, nucleus & cell


def cell_and_nucleus(
    image: np.ndarray, field: np.ndarray, density: np.ndarray, nuclei: np.ndarray, part: Parting
) -> tuple[np.ndarray, np.ndarray]:
    """Picture, empty field, optical density, (S, S, 3), and pixels of nuclei -> cell and nucleus, each (S, S) bool.

    `part` says, from the pixels of nuclei and the foreground, which of them are the cell's and which are others'.
    """
    side = len(image)
    colour = _smooth(_lab(image) - _lab(field), max(side / 112, 0.3))
    distance = np.linalg.norm(colour, axis=2)
    stained = _stained(np.linalg.norm(_smooth(colour, side / 100), axis=2), nuclei)
    foreground = filled(stained)  # red cells are pale in their middle
    nucleus, others = part(nuclei, foreground)
    core = convex_hull(nucleus)  # white cells bulge outwards, so a bay of the nucleus is theirs
    foreground |= core
    red = density[..., 0]
    evidence = red_evidence(colour, foreground, nucleus, red > 0.6 * np.median(red[nucleus]))
    marker = core | (grown(nucleus, side / 22) & foreground)  # beyond the nucleus' edge, the steepest of all
    rivals = find_rivals(foreground, marker, evidence) | (others & ~marker)
    cell = _flood(_relief(colour, foreground, marker, evidence), marker, rivals, foreground)
    cell = _on_steepest_slope(cell & (stained | core), distance, core)
    cell = touching(filled(opened(cell, side / 12) | core), core)
    return cell, nucleus_within(cell, nucleus, density)


def _lab(image: np.ndarray) -> np.ndarray:
    """(S, S, 3) RGB in 0..255 -> (S, S, 3) float32 Lab, L in 0..100."""
    import cv2

    return cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def _smooth(values: np.ndarray, deviation: float) -> np.ndarray:
    import cv2

    return cv2.GaussianBlur(values, (0, 0), deviation)


def _stained(distance: np.ndarray, nuclei: np.ndarray) -> np.ndarray:
    """(S, S) Lab distance from the empty field -> (S, S) bool.

    The lower threshold of the logarithm, in which a pale cytoplasm counts as much as the step to the nucleus; not
    within the noise, nor within the halo that blurring lays around a dark cell.
    """
    side = len(distance)
    faint = distance <= max(np.expm1(multi_otsu(np.log1p(distance))[0]), np.quantile(distance, 0.1))
    noise = max(float(np.median(distance[faint])), 0.3)
    low = np.exp(multi_otsu(np.log(distance + 3 * noise))[0]) - 3 * noise
    away = depth(~nuclei)
    near = distance[(away > side / 56) & (away < side / 28)]
    halo = 0.3 * float(np.median(near)) if near.size else 0.0
    return (distance > max(low, 2.5 * noise, halo)) | nuclei


def _slope(values: np.ndarray) -> np.ndarray:
    """(S, S) or (S, S, C) -> (S, S) float32, length of the gradient."""
    import cv2

    slopes = np.dstack([cv2.Sobel(values, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1))])
    return np.linalg.norm(slopes, axis=2)


def _relief(colour: np.ndarray, foreground: np.ndarray, marker: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """What the flood climbs, (S, S) float32: high on edges, at necks, and where the colour decides nothing."""
    steep = np.where(marker, 0, _slope(colour))
    steep = np.minimum(steep / (np.percentile(steep, 98) + 1e-6), 1)
    inner = depth(foreground)
    return steep - 0.5 * inner / inner[marker].max() - 0.25 * np.abs(evidence)


def _flood(relief: np.ndarray, marker: np.ndarray, rivals: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Watershed by immersion: level by level both basins grow into what lies below; (S, S) bool of the marker's."""
    import cv2

    basins = np.where(marker, CELL, np.where(rivals, RIVAL, 0)).astype(np.uint8)
    if not rivals.any():
        return touching(within, marker)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    free = within & (basins == 0)
    for level in np.quantile(relief[within], np.linspace(1 / LEVELS, 1, LEVELS)):
        low = free & (relief <= level)
        while True:
            reached = cv2.dilate(basins, cross)
            new = low & (reached > 0)
            if not new.any():
                break
            basins[new] = reached[new]
            low &= ~new
        free &= basins == 0
    return basins == CELL


def _on_steepest_slope(cell: np.ndarray, distance: np.ndarray, core: np.ndarray) -> np.ndarray:
    """Move the outline inwards by up to 1/56 of the side, or outwards by half of it, to where the distance falls.

    The power below 1 lets a pale cytoplasm's edge win over the nucleus' edge behind it.
    """
    side = len(cell)
    wide = grown(cell, side / 37)
    return _flood(_slope((distance + 1) ** 0.7), shrunk(cell, side / 22) | grown(core, side / 37), ~wide, wide)


def plausible(cell: np.ndarray, nucleus: np.ndarray, image: np.ndarray) -> bool:
    """Whether masks look like those of one whole white cell, so that a network may learn from them.

    The cell takes 2.5 to 75 % of the frame and hardly touches its border; the nucleus takes 12 to 97 % of the cell; the
    outline is one, with 92 % of its convex hull filled; and in 85 % of the directions from the cell's middle the
    colours on its two sides differ clearly. (S, S) bool, (S, S) bool and (S, S, 3) uint8 RGB.
    """
    import cv2

    if not 0.025 <= cell.mean() <= 0.75 or not 0.12 <= nucleus.sum() / cell.sum() <= 0.97:
        return False
    if np.concatenate([cell[0], cell[-1], cell[:, 0], cell[:, -1]]).mean() > 0.03:
        return False
    outlines, _ = cv2.findContours(cell.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if len(outlines) != 1 or cv2.contourArea(outlines[0]) < 0.92 * cv2.contourArea(cv2.convexHull(outlines[0])):
        return False
    return clear_share(cell, image) >= 0.85


def clear_share(cell: np.ndarray, image: np.ndarray, sectors: int = 24) -> float:
    """Share of the directions from the cell's middle in which Lab differs across its outline, 0..1.

    Clear is a difference above 4, and above 35 % of the median direction's. (S, S) bool and (S, S, 3) uint8 RGB.
    """
    lab, step = _lab(np.ascontiguousarray(image)), max(len(image) / 40, 1)
    ys, xs = np.nonzero(cell)
    grid_y, grid_x = np.mgrid[: len(cell), : len(cell)]
    turn = np.arctan2(grid_y - ys.mean(), grid_x - xs.mean()) / (2 * np.pi) + 0.5
    sector = (turn * sectors).astype(int) % sectors
    means = []
    for side in (cell, ~cell):
        away = depth(side)
        band = (away > 0.3 * step) & (away <= 1.3 * step)
        sums = [np.bincount(sector[band], lab[band][:, axis], sectors) for axis in range(3)]
        means.append(np.array(sums) / np.maximum(np.bincount(sector[band], minlength=sectors), 1))
    difference = np.linalg.norm(means[0] - means[1], axis=0)
    return float((difference > max(4.0, 0.35 * np.median(difference))).mean())
