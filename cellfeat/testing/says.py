"""What a method says of itself beside what its slot asks for: optional, but of the right form."""

from __future__ import annotations

from typing import Any

from cellfeat.declared import faults
from cellfeat.testing.checks import Failed


def check_facts(slot: str, factory: Any, product: Any) -> None:
    """Look at the optional facts of an object and its factory. Raises: Failed."""
    for declaring in (product, factory):
        if wrong := faults(slot, declaring):
            raise Failed("; ".join(wrong))
    sha256, saw = (getattr(product, name, None) for name in ("weights_sha256", "weights_saw"))
    if sha256 is not None and not (isinstance(sha256, str) and sha256):
        raise Failed(f"weights_sha256 is {sha256!r}, but must be the digest as text, or None")
    if saw is not None and not (isinstance(saw, tuple) and all(isinstance(name, str) for name in saw)):
        raise Failed(f"weights_saw is {saw!r}, but must be a tuple of names, or None where it is not known")
