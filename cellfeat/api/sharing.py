"""Sharing and other programs: the commands `hub push`, `hub pull` and `onnx`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cellfeat.api.working import Sets, assignments, workplace

if TYPE_CHECKING:
    from cellfeat.hub import Pulled, Pushed
    from cellfeat.onnx_export import Agreement


def hub_push(
    what: str | Path,
    repo: str,
    *,
    source: str | None = None,
    private: bool = False,
    revision: str | None = None,
    licence: str | None = None,
    dataset: Sequence[str] = (),
    base_model: str | None = None,
    with_weights: bool = False,
    dry_run: bool = False,
    out: str | Path | None = None,
) -> Pushed:
    """Send an adapter, a pipeline or a saved method with a model card to the hub; gives what was sent, and what not.

    what: its folder, or a run's with `source`. repo: OWNER/NAME. dry_run: send nothing. out: keep the prepared folder.
    The others as of `cellfeat hub push`.

    Raises: CellfeatError for what cannot be shared, and what the server refuses.
    """
    from cellfeat.hub import push
    from cellfeat.registry import installed
    from cellfeat.sharing import Wishes

    wishes = Wishes(source, licence, tuple(dataset), base_model, with_weights)
    place = None if out is None else Path(out)
    return push(Path(what), repo, wishes, installed(), private=private, revision=revision, dry_run=dry_run, out=place)


def hub_pull(repo: str, out: str | Path, *, revision: str | None = None) -> Pulled:
    """Fetch what `hub_push` sent into the new folder `out`, every file checked by its SHA-256.

    Raises: CellfeatError for a repository that is not there or not cellfeat's, damaged files, and where `out` exists.
    """
    from cellfeat.hub import pull

    return pull(repo, Path(out), revision)


def onnx(
    out: str | Path,
    *,
    backbone: str | None = None,
    sets: Sets = (),
    run: str | Path | None = None,
    verbose: bool = False,
) -> Agreement:
    """Write a backbone, or that of a run, as ONNX; gives how near onnxruntime comes to PyTorch on drawn cells.

    Raises: CellfeatError for a backbone that cannot be exported, for numbers that do not agree, and where `out` exists.
    """
    from cellfeat.onnx_export import chosen_part, export

    work = workplace(verbose, "cpu")
    part = chosen_part(None if run is None else Path(run), backbone, assignments(sets), work.registry)
    return export(
        work.registry.create("backbone", part.name, part.params, work.context(0, "onnx")), Path(out), part.name
    )
