"""Files and the machine: the commands `convert`, `review`, `info` and `doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cellfeat.artifact_texts import Artifact
    from cellfeat.conversion import Converted
    from cellfeat.findings import Finding
    from cellfeat.review_server import ReviewServer


def convert(source: str | Path, out: str | Path, *, data: str | None = None, labels: str | None = None) -> Converted:
    """Write features in another form, without a loss: .parquet, .h5ad, the folder of a store, or "cache".

    data: a manifest that names the images of a store. labels: its vocabulary.

    Raises: CellfeatError for a file that holds no features, or none that may enter a store, and where `out` exists.
    """
    from cellfeat.conversion import convert as write

    return write(Path(source), str(out), data, labels)


def review(out: str | Path, *, port: int = 0, browser: bool = False) -> ReviewServer:
    """Serve the page on which the cells of a smear's folder, or of a CSV of `predict`, are accepted or corrected.

    Gives the server, which runs in a thread: `new_address()` is an address that opens the page once, `finished` an
    event that is set when the reviewer has finished, `close()` ends it and gives the reviewed table; it is a context
    manager as well. port: 0 is any free one. browser: open the page in one.

    Raises: CellfeatError for what is no such table, one that is under review elsewhere or has another review's
    journal, a folder that cannot be written to, and a port that is not free.
    """
    from cellfeat.review_server import start

    return start(Path(out), port, browser)


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
