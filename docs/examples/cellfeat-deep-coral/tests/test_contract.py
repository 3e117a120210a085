"""The contract of an alignment method, check by check: `pytest -k row-order` makes one of them."""

from __future__ import annotations

import pytest
from cellfeat_deep_coral.deep_coral import DeepCoral


@pytest.mark.cellfeat("align", DeepCoral, model="test_resnet", image_size=32, epochs=2, batch_size=4)
def test_contract(conformance):
    conformance()
