"""Digests of files: what a file must be before it is used."""

from __future__ import annotations

from pathlib import Path

from cellfeat.errors import CellfeatError


class WrongDigestError(CellfeatError):
    """A file is not the one that was meant."""


def check_digest(path: Path, digest: str, remedy: str = "") -> None:
    """Raise `WrongDigestError`, with both values, unless the file has this digest ("algorithm:hexadecimal")."""
    import pooch

    algorithm, _, wanted = digest.rpartition(":")
    algorithm = algorithm or "sha256"
    got = pooch.file_hash(str(path), alg=algorithm)
    if got != wanted.lower():
        raise WrongDigestError(
            f"{path} has the {algorithm} {got}, not {wanted.lower()}: it is damaged, or another file{remedy}"
        )


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    import hashlib

    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
