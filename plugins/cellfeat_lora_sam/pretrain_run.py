"""From settings and a manifest to pre-trained weights: what `cellfeat lora-sam pretrain` does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from cellfeat import CellfeatError, Workplace, file_sha256, load_photographs
from cellfeat_lora_sam.checkpoints import read_weights
from cellfeat_lora_sam.pretrain import interim, pretrain
from cellfeat_lora_sam.pretrain_config import PretrainConfig
from cellfeat_lora_sam.pretrain_masks import segment_by, segment_with
from cellfeat_lora_sam.pretrain_pool import Pool, Segment, drawn_pool, photographed_pool, saved_or_made

if TYPE_CHECKING:
    from cellfeat import Context

DRAWN_SAW = "drawn cells"


def pretrain_from(
    config: PretrainConfig,
    output: Path,
    manifest: str | None,
    domains: Sequence[str],
    leave_out: Path | None,
    work: Workplace,
) -> dict[str, float]:
    """Pre-train on drawn cells and, given a manifest, on its photographs; a second start goes on.

    Returns:
        mean intersection over union on held-out drawn cells, see `pretrain`.

    Raises:
        CellfeatError: for an output that cannot be a file of weights, and for what is wrong with data or settings.
    """
    check_output(output)
    if manifest is None and (domains or leave_out is not None):
        raise CellfeatError("--domain and --leave-out name photographs; name their manifest too (--data)")
    for setting in ("start_from", "masks"):
        _existing(setting, getattr(config, setting))  # not found out after hours of segmenting
    left_out = read_ids(leave_out)
    files = [Path(name) for name in (config.start_from, config.masks) if name and Path(name).suffix]
    dataset = None if manifest is None else load_photographs(manifest, domains, left_out, work)
    key = [config.as_dict(), _makers(config, files, work), None if dataset is None else dataset.digest]
    context = work.context(config.seed, "pretrain", key)
    if interim(output).exists() and not any(context.scratch.iterdir()):
        raise CellfeatError(f"{interim(output)} exists already and belongs to another run; name another file")
    photographs, saw = None, [*_seen_before(files), DRAWN_SAW]
    if dataset is not None:
        saw += [f"{name} (images without labels{but(left_out)})" for name in dataset.domains]
        photographs = saved_or_made(
            context.scratch / "photographs.safetensors",
            lambda: photographed_pool(dataset.path, config.pool_size, _segment(config, work, context), context),
        )
    drawn = saved_or_made(
        context.scratch / "drawn.safetensors",
        lambda: drawn_pool(
            config.seed, config.drawn, config.drawn_size, config.pool_size, _descriptors(photographs), context
        ),
    )
    found = pretrain(config, drawn, photographs, list(dict.fromkeys(saw)), output, context)
    shutil.rmtree(context.scratch, ignore_errors=True)  # the pools are gigabytes
    return found


def check_output(output: Path) -> None:
    """Raise unless a new file of weights can be written there."""
    if output.is_dir() or output.suffix != ".safetensors":
        raise CellfeatError(f"{output}: the weights become a file; name one that ends in .safetensors")
    if output.exists():
        raise CellfeatError(f"{output} exists already; name another file, or remove this one")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CellfeatError(f"{output}: its folder cannot be made: {error}") from error
    if not os.access(output.parent, os.W_OK):
        raise CellfeatError(f"{output.parent} cannot be written to; name a file in another folder")


def _makers(config: PretrainConfig, files: Iterable[Path], work: Workplace) -> list[str]:
    """What pools and checkpoints depend on beside settings and images: files of weights, versions of the code."""
    made = [version("cellfeat"), *(file_sha256(path) for path in files)]
    if not Path(config.masks).suffix:
        offer = work.registry.find("segmenter", config.masks)
        made += [offer.distribution, offer.version]
    return made


def _seen_before(files: Iterable[Path]) -> list[str]:
    """What the weights have seen that a run starts from, or that its masks come from."""
    return [name for path in files for name in read_weights(path).meta.get("saw", [f"{path.name} (what is not known)"])]


def read_ids(leave_out: Path | None) -> list[str]:
    if leave_out is None:
        return []
    try:
        lines = leave_out.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CellfeatError(f"{leave_out} cannot be read as a list of ids: {error}") from error
    ids = sorted({line.strip() for line in lines} - {""})
    if not ids:
        raise CellfeatError(f"{leave_out} names no id; leave --leave-out away to use every image")
    return ids


def but(left_out: Sequence[str]) -> str:
    return f", {len(left_out)} left out" if left_out else ""


def _descriptors(photographs: Pool | None) -> int:
    return 1 if photographs is None else photographs.descriptors.shape[1]


def _segment(config: PretrainConfig, work: Workplace, context: Context) -> Segment:
    if Path(config.masks).suffix:
        return segment_with(Path(config.masks), config, context)
    return segment_by(work.registry.create("segmenter", config.masks, {}, context), config.masks)


def _existing(setting: str, name: str | None) -> None:
    """Raise for a file of weights that is not there; a segmenter's name is no file."""
    if name is not None and Path(name).suffix and not Path(name).is_file():
        raise CellfeatError(f"{setting}: {name}: no such file of weights; run the earlier stage first")
