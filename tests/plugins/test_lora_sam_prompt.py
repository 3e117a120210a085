"""The point that SAM's own decoder is asked with: inside a nucleus, wherever the cell lies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cellfeat_lora_sam.prompt import nucleus_points

from cellfeat import synthetic

NUCLEUS = 255


def drawn(count: int, size: int, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Images (N, 3, S, S) of cells in random laboratories, and masks of their nuclei (N, S, S)."""
    rng = np.random.default_rng(seed)
    cells = [
        synthetic.draw_cell(synthetic.CLASSES[i % 5], synthetic.random_laboratory(rng), rng, size=size)
        for i in range(count)
    ]
    images = torch.from_numpy(np.stack([cell.image for cell in cells])).permute(0, 3, 1, 2).contiguous()
    return images, np.stack([cell.mask == NUCLEUS for cell in cells])


def hits(points: torch.Tensor, masks: np.ndarray) -> int:
    return sum(bool(mask[int(y), int(x)]) for (x, y), mask in zip(points.tolist(), masks, strict=True))


def test_points_lie_in_nuclei_also_of_cells_that_are_not_in_the_middle():
    images, nuclei = drawn(20, 112)
    assert hits(nucleus_points(images), nuclei) >= 18
    ys, xs = (round(place.mean()) for place in np.nonzero(nuclei[0]))
    top, left = ys - 55, xs - 30  # the nucleus at (55, 30) of a frame that is continued as a mirror
    rows, columns = (np.pad(np.arange(112), 112, mode="symmetric")[start + 112 : start + 224] for start in (top, left))
    moved = images[:1][:, :, rows][..., columns]
    assert hits(nucleus_points(moved), nuclei[:1][:, rows][..., columns]) == 1


def test_a_red_cell_in_the_middle_is_left_alone():
    ys, xs = np.mgrid[:96, :96]
    image = np.full((96, 96, 3), (240, 232, 225), np.float32)
    image[np.hypot(ys - 48, xs - 48) < 18] = (225, 150, 150)  # lets red light through
    image[np.hypot(ys - 20, xs - 70) < 10] = (95, 60, 140)
    image[np.hypot(ys - 20, xs - 20) < 4] = (95, 60, 140)  # a platelet: as dark, but small
    x, y = nucleus_points(torch.from_numpy(image).permute(2, 0, 1)[None])[0].tolist()
    assert (x, y) == pytest.approx((70, 20), abs=1)


def test_the_point_is_the_deepest_not_the_mean_of_a_bent_nucleus():
    ys, xs = np.mgrid[:96, :96]
    distance = np.hypot(ys - 48, xs - 48)
    bent = (distance < 30) & (distance > 16) & (xs > 40)
    image = np.where(bent[..., None], np.float32((95, 60, 140)), np.float32((240, 232, 225)))
    x, y = nucleus_points(torch.from_numpy(image).permute(2, 0, 1)[None])[0].long().tolist()
    assert bent[y - 4 : y + 5, x - 4 : x + 5].all()


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (230, 225, 222)])
def test_blank_images_are_asked_in_the_middle(colour):
    image = torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, 64, 64)
    noise = torch.randint(0, 3, (3, 64, 64), generator=torch.Generator().manual_seed(0))
    noisy = (image.int() + noise - 1).clamp(0, 255).byte()
    for blank in (image, noisy if max(colour) else image):
        assert nucleus_points(blank[None]).tolist() == [[31.5, 31.5]]


def test_points_do_not_depend_on_the_batch():
    images, _ = drawn(4, 64, seed=1)
    together = nucleus_points(images)
    assert together.dtype == torch.float32
    for index in range(4):
        assert torch.equal(nucleus_points(images[index : index + 1])[0], together[index])
