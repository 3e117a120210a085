"""What a fit of an autoencoder looks at before it begins: maps, crops, masks, domains; each fault in one line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from cellfeat import CellfeatError, Cells, Context

CROP = (3, 128, 128)
GRID = 14  # tokens on a side of the maps, as published
ROWS_AT_ONCE = 256


def map_channels(name: str, cells: Cells, context: Context) -> int:
    """How many channels the token maps have."""
    shape = cells.column("map").shape[1:]
    if len(shape) != 3:
        raise CellfeatError(
            f"align {name!r} needs a token map (channels, height, width) per cell and got shape {shape}; "
            "choose a backbone that gives maps, such as lora-sam"
        )
    if shape[1:] != (GRID, GRID):
        context.note(f"{name}: token maps of {shape[1]} x {shape[2]} are resampled to 14 x 14")
    return shape[0]


def same_channels(name: str, fitted: int, got: int) -> None:
    if got != fitted:
        raise CellfeatError(
            f"align {name!r} was fitted on maps of {fitted} channels and got {got}; "
            "use the backbone that it was fitted with"
        )


def check_crops(name: str, cells: Cells) -> None:
    crop = cells.column("crop")
    if crop.shape[1:] != CROP or crop.dtype != np.uint8:
        raise CellfeatError(
            f"align {name!r} needs crops of shape {CROP}, uint8, and got {crop.shape[1:]}, {crop.dtype}; "
            "extract the crops again"
        )


def with_a_mask(name: str, cells: Cells, context: Context) -> Cells:
    """The cells in whose mask there is a pixel; the others have no crop to restore and are left out of the training.

    The published programs stop at an empty mask.
    """
    found = np.zeros(len(cells), dtype=bool)
    for rows, batch in cells.batches(("mask",), ROWS_AT_ONCE):
        found[rows] = batch["mask"].flatten(1).any(1).numpy()
    if found.all():
        return cells
    lost = [domain for domain in np.unique(cells.domain) if not found[cells.domain == domain].any()]
    if lost:
        raise CellfeatError(
            f"align {name!r}: no cell was found in any image of {', '.join(lost)}: all masks are empty. Look at the "
            "images, fine-tune the backbone on masks (`finetune:`), or name another --segmenter"
        )
    counts = _counted(cells.domain[~found])
    context.note(f"{name}: {(~found).sum()} of {len(cells)} cells have an empty mask and train nothing ({counts})")
    return cells[found]


def limited(cells: Cells, most: int | None, seed: int) -> Cells:
    """At most so many cells of each domain, drawn by the seed; all where `most` is None."""
    if most is None:
        return cells
    order = np.random.default_rng(seed).permutation(len(cells))
    kept = [order[cells.domain[order] == name][:most] for name in np.unique(cells.domain)]
    return cells[np.sort(np.concatenate(kept))]


def _counted(names: Iterable[Any]) -> str:
    values, counts = np.unique(list(names), return_counts=True)
    return ", ".join(f"{value} {count}" for value, count in zip(values, counts, strict=True))


def anchor_domain(name: str, cells: Cells, wanted: str | None, context: Context) -> str:
    """The domain that the others are drawn to: the one that is wanted, or the first one by name that is no target."""
    if not len(cells):
        raise CellfeatError(f"align {name!r} got no cells to fit on; check the data set and the protocol's selection")
    domains = sorted(set(cells.domain.tolist()))
    sources = sorted(set(cells.domain[~cells.is_target].tolist())) or domains
    if wanted is not None and wanted not in domains and len(domains) > 1:
        raise CellfeatError(
            f"align {name!r}: anchor is {wanted!r}, but the cells are of {', '.join(domains)}; name one of these, or "
            "leave anchor out for the first source"
        )
    if len(domains) == 1:
        context.note(f"{name}: only domain {domains[0]!r} is seen, so nothing draws domains together")
    elif wanted is None and len(sources) != 1:
        context.note(f"{name}: of the domains {', '.join(sources)} the first, {sources[0]!r}, is the one drawn to")
    return wanted if wanted in domains else sources[0]


def check_numbers(method: Any, at_least_one: Iterable[str], not_negative: Iterable[str]) -> None:
    """Refuse parameters that cannot be; written so that nan is refused too."""
    for key in at_least_one:
        value = getattr(method, key)
        if value is not None and value < 1:
            raise CellfeatError(f"align {method.name!r}: {key} must be at least 1, got {value}")
    if method.accumulate > method.batch_size:
        raise CellfeatError(
            f"align {method.name!r}: accumulate is {method.accumulate}, but a batch of {method.batch_size} has no more "
            f"than {method.batch_size} parts"
        )
    if not method.learning_rate > 0:
        raise CellfeatError(f"align {method.name!r}: learning_rate must be above 0, got {method.learning_rate:g}")
    for key in not_negative:
        if not getattr(method, key) >= 0:
            raise CellfeatError(f"align {method.name!r}: {key} must be at least 0, got {getattr(method, key):g}")
