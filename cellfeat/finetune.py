"""A recipe's `finetune:` section: fine-tune the backbone on masks first, once, and keep the adapter in the cache.

A backbone that can be fine-tuned has on its factory a function
`finetune(pairs, folder, *, context, saw, weights=..., **params)`: `pairs` is a sequence of (image (H, W, 3) uint8 RGB,
mask (H, W) bool); it fills `folder`, which its factory then takes as `adapter`. `saw` names the data, for
`weights_saw`.
"""

from __future__ import annotations

import functools
import inspect
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cellfeat import distributed, images
from cellfeat.artifacts import atomic_folder
from cellfeat.datasets import Dataset
from cellfeat.digests import file_sha256
from cellfeat.errors import CellfeatError, unknown
from cellfeat.recipe import FinetuneSection, Recipe, parse
from cellfeat.registry import Registry
from cellfeat.slots import Context
from cellfeat.store import cache_folder, fingerprint
from cellfeat.training import choose_device
from cellfeat.workplace import Workplace, load_dataset

TRUTH = "truth"


def adapter_for(recipe: Recipe, dataset: Dataset, work: Workplace) -> Path:
    """The adapter's folder, made now or found in the cache."""
    section = recipe.finetune or FinetuneSection()
    params = checked_params(recipe, work.registry)
    offer = work.registry.find("backbone", recipe.backbone.name)
    trainer = offer.factory.finetune  # type: ignore[attr-defined]
    chosen = _with_masks(dataset, section)
    seed = params.pop("seed", recipe.protocol.seeds[0])
    key = {
        "backbone": {"name": recipe.backbone.name, **_shared(recipe, trainer)},  # not how it pools, for example
        "plugin": [offer.distribution, offer.version],
        "finetune": section.model_dump(),
        "seed": seed,
        "precision": work.precision,
        "weights": _file_digest(recipe.backbone.params.get("weights")),
        "data": chosen.digest,
    }
    folder = cache_folder() / "adapters" / fingerprint(key)[:20]
    if folder.is_dir():
        work.reporter.note(f"fine-tuned before with the same data and parameters: {folder}")
        return folder
    context = work.context(seed, f"finetune-{folder.name}")
    saw = tuple(f"{domain} (masks: {section.masks})" for domain in chosen.domains)
    pairs = _pairs(chosen, section.masks, work.registry, context)
    with atomic_folder(folder, keep=distributed.is_main()) as partial:
        trainer(pairs, partial, context=context, saw=saw, **{**_shared(recipe, trainer), **params})
    distributed.meet(context.device)  # from here on every process finds it
    shutil.rmtree(context.scratch, ignore_errors=True)
    return folder


def make_adapter(
    output: Path, data: str, backbone: Mapping[str, Any], section: Mapping[str, Any], seed: int, work: Workplace
) -> None:
    """What a recipe's `finetune:` section does for a manifest, as a new folder: for a plugin's own command.

    backbone: name and parameters; section: `masks`, `domains` and the trainer's parameters.
    """
    content = {"dataset": {"manifest": data}, "backbone": backbone, "finetune": section, "protocol": {"seeds": [seed]}}
    recipe = parse(content, "the fine-tuning")
    with atomic_folder(output, keep=distributed.is_main()) as partial:
        made = adapter_for(recipe, load_dataset(recipe.dataset, work), work)
        shutil.copytree(made, partial, dirs_exist_ok=True)
        distributed.meet(choose_device(work.device))  # none may still have to look whether the name is free


def _file_digest(weights: Any) -> str | None:
    """Of weights that are a file: another content under the same name is another start."""
    return file_sha256(Path(weights)) if isinstance(weights, str) and Path(weights).is_file() else None


def checked_params(recipe: Recipe, registry: Registry) -> dict[str, Any]:
    """The section's parameters, which are the trainer's keyword arguments, of the types that it wants.

    Raises: CellfeatError for a backbone that cannot be fine-tuned, and for parameters that it does not take.
    """
    offer = registry.find("backbone", recipe.backbone.name)
    trainer = getattr(offer.factory, "finetune", None)
    if trainer is None:
        raise CellfeatError(f"backbone {recipe.backbone.name!r} cannot be fine-tuned on masks; remove `finetune:`")
    params = (recipe.finetune or FinetuneSection()).params
    possible = set(inspect.signature(trainer).parameters) - {"pairs", "folder", "context", "saw", "weights"} | {"seed"}
    for key in params:
        if key not in possible:
            raise CellfeatError(unknown("parameter of finetune", key, {*possible, "masks", "domains"}))
    known = {key: value for key, value in params.items() if key != "seed"}
    tuner = replace(offer, slot="finetune", factory=functools.partial(trainer, None, None, saw=()))
    values = tuner.arguments(known)
    return {key: values.get(key, value) for key, value in params.items()}


def _shared(recipe: Recipe, trainer: Callable[..., Any]) -> dict[str, Any]:
    """The backbone's parameters that its trainer takes too (the weights to start from, the image size)."""
    names = inspect.signature(trainer).parameters
    return {key: value for key, value in recipe.backbone.params.items() if key in names}


def _with_masks(dataset: Dataset, section: FinetuneSection) -> Dataset:
    """The images to train on: those of the section's domains, and with a mask where true masks are wanted."""
    for name in section.domains:
        if name not in dataset.domains:
            raise CellfeatError(unknown("domain", name, dataset.domains))
    rows = np.isin(dataset.domain, section.domains or dataset.domains)
    if section.masks == TRUTH:
        paths = dataset.mask_path or (None,) * len(dataset)
        rows &= np.array([path is not None for path in paths])
        if not rows.any():
            raise CellfeatError(
                "finetune: masks: truth, but no image of these domains has a mask_path in the manifest; "
                "name a segmenter that makes masks (masks: classical or cell-tiny)"
            )
    return dataset.select(rows)


@dataclass(frozen=True)
class _Pairs(Sequence):
    """(image, mask) read when asked for."""

    dataset: Dataset
    segment: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: Any) -> Any:
        if not 0 <= row < len(self):
            raise IndexError(row)
        image = images.read_rgb(self.dataset.path[row])
        if self.segment is not None:
            return self.segment(image)
        return image, images.read_mask(self.dataset.mask_path[row])  # type: ignore[index,arg-type]


def _pairs(dataset: Dataset, masks: str, registry: Registry, context: Context) -> _Pairs:
    if masks == TRUTH:
        return _Pairs(dataset, None)
    import torch

    segmenter = _segmenter(masks, registry, context)
    size = getattr(segmenter, "image_size", 224)

    def segment(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        frame = images.resize(image, size, "bilinear")
        mask = segmenter.segment(torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1)))[None])
        return frame, mask[0].cpu().numpy()

    return _Pairs(dataset, segment)


def _segmenter(name: str, registry: Registry, context: Context) -> Any:
    """The segmenter of that name, or the one that knows weights of that name."""
    if name not in registry.names("segmenter"):
        for offer in registry.offers:
            if offer.slot == "segmenter" and name in getattr(offer.factory, "named_weights", {}):
                return offer.create({"weights": name}, context)
    return registry.create("segmenter", name, {}, context)
