"""Named weights and files of other programs: the commands `weights list`, `fetch`, `verify`, `import`, `export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cellfeat.api.working import Sets, assignments, bar

if TYPE_CHECKING:
    from cellfeat.weights import WeightsRow


def weights_list() -> list[WeightsRow]:
    """Names, sizes, licences, digests of the weights that backbones know, and where those are that are here."""
    from cellfeat.registry import installed
    from cellfeat.weights import weights_status

    return weights_status(installed().named_weights())


def weights_fetch(name: str, *, verbose: bool = False) -> Path:
    """The file of named weights, downloaded into the cache where it is not here, its digest checked.

    Raises: CellfeatError for an unknown name, and for a download that is refused or fails.
    """
    from cellfeat.registry import installed
    from cellfeat.weights import find_weights

    return find_weights(name, installed().named_weights(), progress=bar(verbose))


def weights_verify(name: str) -> Path:
    """The file of named weights that are here, its digest checked; nothing is downloaded.

    Raises: CellfeatError for an unknown name, absent weights, and another digest.
    """
    from cellfeat.registry import installed
    from cellfeat.weights import verify_weights

    return verify_weights(name, installed().named_weights())


def weights_import(format: str, file: str | Path, out: str | Path, *, sets: Sets = ()) -> str:
    """Make the new folder `out`, which a method reads, from another program's file; gives what the importer says.

    sets: the format's options, {"key": value}.

    Raises: CellfeatError for an unknown format, an absent file, and where `out` exists.
    """
    from cellfeat.exchange import import_file
    from cellfeat.registry import installed

    return import_file(installed(), format, Path(file), Path(out), assignments(sets))


def weights_export(format: str, source: str | Path, out: str | Path, *, sets: Sets = ()) -> str:
    """Write another program's file `out`, from an adapter's folder, say; gives what the exporter says.

    sets: the format's options, {"key": value}.

    Raises: CellfeatError for an unknown format, an absent source, and where `out` exists.
    """
    from cellfeat.exchange import export_file
    from cellfeat.registry import installed

    return export_file(installed(), format, Path(source), Path(out), assignments(sets))
