"""The contract of an alignment method, check by check: `pytest -k row-order` makes one of them."""

from __future__ import annotations

import pytest
from cellfeat_combat.combat import Combat


@pytest.mark.cellfeat("align", Combat)
def test_contract(conformance):
    conformance()
