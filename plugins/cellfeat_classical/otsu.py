"""The segmenter `otsu`: one threshold per image, and the dark body nearest the middle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

GREEN = 1
MIN_CONTRAST = 10  # grey levels between the means of the two sides; what differs less is noise on an empty field
BLUR = 1 / 112  # of the image's side: the deviation of the Gaussian that quietens granules and JPEG blocks
NECK = 1 / 11  # of the image's side: a bridge to a red cell that is narrower than this is cut


class Otsu:
    """Otsu's threshold on the green channel, where nucleus and cytoplasm both absorb; no training, no parameters.

    Holes are filled, narrow bridges to neighbours cut, and of what is left the component is taken that is large and
    near the middle. Red cells that touch the white cell broadly stay in the mask. Mean IoU with the whole cell on the
    300 masked images of Zheng et al. (2018) at 224 px: 0.83. Otsu (1979), IEEE Trans. SMC 9:62-66.
    """

    paper = "Otsu, IEEE Trans. SMC 9:62-66, 1979"

    def segment(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) uint8 RGB -> (B, S, S) bool, True on the cell; all False on a blank image."""
        import torch

        return torch.from_numpy(segment_cells(images.cpu().numpy())).to(images.device)


def segment_cells(images: np.ndarray) -> np.ndarray:
    """(B, 3, S, S) uint8 RGB -> (B, S, S) bool."""
    masks = np.zeros((len(images), *images.shape[2:]), dtype=bool)
    for index, image in enumerate(images):
        masks[index] = _cell(image[GREEN])
    return masks


def _cell(green: np.ndarray) -> np.ndarray:
    """(S, S) uint8 -> (S, S) bool."""
    import cv2

    side = min(green.shape)
    smooth = cv2.GaussianBlur(green, (0, 0), max(side * BLUR, 0.1))
    threshold, _ = cv2.threshold(smooth, 0, 255, cv2.THRESH_OTSU)
    dark = smooth <= threshold
    if dark.all() or not dark.any() or smooth[~dark].mean() - smooth[dark].mean() < MIN_CONTRAST:
        return np.zeros(green.shape, dtype=bool)
    outlines, _ = cv2.findContours(dark.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros(green.shape, np.uint8), outlines, -1, 1, cv2.FILLED)
    width = 2 * int(side * NECK / 2) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    return _central_component(cv2.morphologyEx(filled, cv2.MORPH_OPEN, disc))


def _central_component(mask: np.ndarray) -> np.ndarray:
    """The 4-connected component whose area, discounted by its centre's distance from the middle, is largest."""
    import cv2

    count, parts, stats, centres = cv2.connectedComponentsWithStats(mask, connectivity=4)
    if count == 1:
        return np.zeros(mask.shape, dtype=bool)
    middle = (np.array(mask.shape[::-1]) - 1) / 2
    squared = (((centres[1:] - middle) / middle) ** 2).sum(axis=1)  # 1 at the middle of an edge
    return parts == 1 + int((stats[1:, cv2.CC_STAT_AREA] * np.exp(-2 * squared)).argmax())
