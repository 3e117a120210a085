"""From settings and a manifest to pre-trained weights: what `cellfeat lora-sam pretrain` does."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cellfeat import CellfeatError, Workplace, file_sha256, load_photographs
from cellfeat_lora_sam.pretrain import pretrain
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
    if output.is_dir() or output.suffix != ".safetensors":
        raise CellfeatError(f"{output}: the weights become a file; name one that ends in .safetensors")
    if output.exists():
        raise CellfeatError(f"{output} exists already; name another file, or remove this one")
    if config.start_from is not None:
        _existing("start_from", config.start_from)  # not found out after hours of segmenting
    left_out = _ids(leave_out)
    files = {
        name: file_sha256(Path(name)) for name in (config.start_from, config.masks) if name and Path(name).is_file()
    }
    dataset = None if manifest is None else load_photographs(manifest, domains, left_out, work)
    key = [config.as_dict(), files, None if dataset is None else dataset.digest]
    context = work.context(config.seed, "pretrain", key)
    photographs, saw = None, [DRAWN_SAW]
    if dataset is not None:
        saw += [f"{name} (images without labels{_but(left_out)})" for name in dataset.domains]
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
    found = pretrain(config, drawn, photographs, saw, output, context)
    shutil.rmtree(context.scratch, ignore_errors=True)  # the pools are gigabytes
    return found


def _ids(leave_out: Path | None) -> list[str]:
    if leave_out is None:
        return []
    try:
        lines = leave_out.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CellfeatError(f"{leave_out} cannot be read as a list of ids: {error}") from error
    return sorted({line.strip() for line in lines} - {""})


def _but(left_out: Sequence[str]) -> str:
    return f", {len(left_out)} left out" if left_out else ""


def _descriptors(photographs: Pool | None) -> int:
    return 1 if photographs is None else photographs.descriptors.shape[1]


def _segment(config: PretrainConfig, work: Workplace, context: Context) -> Segment:
    if Path(config.masks).suffix:
        return segment_with(_existing("masks", config.masks), config, context)
    return segment_by(work.registry.create("segmenter", config.masks, {}, context), config.masks)


def _existing(setting: str, name: str) -> Path:
    if not Path(name).is_file():
        raise CellfeatError(f"{setting}: {name}: no such file of weights; run the earlier stage first")
    return Path(name)
