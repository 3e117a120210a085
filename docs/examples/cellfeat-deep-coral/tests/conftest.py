"""Cells to train on that take no time: 32-pixel images of three domains and three classes."""

from __future__ import annotations

from typing import Any

import pytest
from cellfeat_deep_coral.deep_coral import DeepCoral

from cellfeat import Cells
from cellfeat.testing import cpu_context, toy_cells

TINY: dict[str, Any] = {"model": "test_resnet", "image_size": 32, "epochs": 2, "batch_size": 4}


@pytest.fixture
def tiny():
    """Deep CORAL on a network of a few hundred kilobytes; keyword arguments replace parameters."""
    return lambda **params: DeepCoral(**{**TINY, **params})


@pytest.fixture
def cells() -> Cells:
    """36 cells: the first domain is the source; labels of the others are hidden."""
    return toy_cells()


@pytest.fixture
def context(tmp_path):
    return cpu_context(tmp_path / "scratch")
