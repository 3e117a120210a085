"""The masked crop against crops made by the authors' own program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cellfeat.images import largest_component, masked_crop, masked_crops

REFERENCE = Path(__file__).parent / "data" / "crops.npz"


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    """images (8, 224, 224, 3) uint8, masks and largest (8, 224, 224) bool, crops (8, 3, 128, 128) uint8."""
    with np.load(REFERENCE) as stored:
        return dict(stored)


def test_largest_component(reference):
    for mask, largest in zip(reference["masks"], reference["largest"], strict=True):
        assert np.array_equal(largest_component(mask), largest)


def test_crops(reference):
    crops = masked_crops(reference["images"].transpose(0, 3, 1, 2), reference["masks"])
    difference = np.abs(crops.astype(int) - reference["crops"])
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-4


def test_one_crop_has_channels_last(reference):
    crop = masked_crop(reference["images"][1], reference["masks"][1])
    assert np.abs(crop.astype(int) - reference["crops"][1].transpose(1, 2, 0)).max() <= 1
