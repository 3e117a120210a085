"""What the tests of the shipped plugins share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def quick_checks(warm):
    """Most modules ask the conformance kit, whose fresh processes take seconds each."""
