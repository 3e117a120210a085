"""What a method says of itself beside what its slot asks for: optional, but of the right form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cellfeat.testing.checks import Failed


def check_facts(says: Callable[[str], Any]) -> None:
    """Look at the optional facts; `says(name)` gives one, None where it is left out. Raises: Failed."""
    sha256, saw = says("weights_sha256"), says("weights_saw")
    if sha256 is not None and not (isinstance(sha256, str) and sha256):
        raise Failed(f"weights_sha256 is {sha256!r}, must be the digest as text, or None")
    if saw is not None and not (isinstance(saw, tuple) and all(isinstance(name, str) for name in saw)):
        raise Failed(f"weights_saw is {saw!r}, must be a tuple of names, or None where it is not known")
    deterministic = says("deterministic")
    if deterministic is not None and not isinstance(deterministic, bool):
        raise Failed(f"deterministic is {deterministic!r}, must be True or False")
    for name in ("paper", "licence"):
        value = says(name)
        if value is not None and not (isinstance(value, str) and value.strip()):
            raise Failed(f"{name} is {value!r}, must be a text")
