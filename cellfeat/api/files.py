"""Files and the machine: the commands `convert`, `info` and `doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cellfeat.artifact_texts import Artifact
    from cellfeat.conversion import Converted
    from cellfeat.findings import Finding


def convert(source: str | Path, out: str | Path, *, data: str | None = None, labels: str | None = None) -> Converted:
    """Write features in another form, without a loss: .parquet, .h5ad, the folder of a store, or "cache".

    data: a manifest that names the images of a store. labels: its vocabulary.

    Raises: CellfeatError for a file that holds no features, or none that may enter a store, and where `out` exists.
    """
    from cellfeat.conversion import convert as write

    return write(Path(source), str(out), data, labels)


def info(path: str | Path) -> Artifact:
    """What a file or folder is that cellfeat reads or writes, and what to do with it; no code in it is run.

    Raises: CellfeatError for what is absent, damaged or not known.
    """
    from cellfeat.artifact_info import describe

    return describe(Path(path))


def doctor() -> list[Finding]:
    """Versions, GPU, memory, disk, weights, plugins and settings, each ok, a note or a problem with what to do."""
    from cellfeat.doctor import examine

    return examine()
