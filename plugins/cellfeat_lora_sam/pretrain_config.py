"""The settings of one pre-training run, as a YAML file gives them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cellfeat import CellfeatError
from cellfeat_lora_sam.pretrain_views import Ranges
from cellfeat_lora_sam.sizes import BUILDS

LEAST = {
    **dict.fromkeys(("steps", "batch_size", "frame_batch", "frames_every", "drawn", "export_every", "held_out"), 1),
    **dict.fromkeys(("drawn_size", "pool_size"), 32),  # less has no room for a cell
}
LIMITS = {
    **dict.fromkeys(("drawn_share", "average", "trusted"), (0, 1)),
    **dict.fromkeys(("weight_decay", "warmup", "cooldown", "recover_at", "seed"), (0, math.inf)),
    **dict.fromkeys(("lr", "clip"), (1e-12, math.inf)),
}
RANGE_LIMITS = {"shares": (0.02, 2), "resolution": (0.02, 1), "gain": (-5, 5)}
TRAINABLE = ("fp32", "bf16")  # gradients of fp16 would have to be scaled


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses beside the cell's 1; 0 leaves one out."""

    nucleus: float = 0.6
    quality: float = 0.5
    types: float = 0.1
    stain: float = 1.0
    descriptors: float = 1.0
    compare: float = 0.2
    agree: float = 1.0
    words: float = 0.3
    bags: float = 2.0


@dataclass(frozen=True)
class PretrainConfig:
    """The numbers of one pre-training run.

    Attributes:
        build: name of the network's sizes. image_size: side of its frame, px. view_size: side of the near views.
        pool_size: side of the frames that views are cut from; near views show more than image_size would keep.
        start_from: weights to go on from, instead of chance.
        masks: what segments the photographs: a segmenter with `cells_and_nuclei` and `plausible`, or a weights file.
        trusted: least predicted quality of a network's mask that is believed.
        recover_at: step at which the network segments the photographs whose mask could not be trusted; null: never.
        steps, lr, weight_decay, clip: of AdamW; the rate rises over `warmup` steps, stays, and falls to 0 over the last
            `cooldown` steps.
        batch_size: cells of a step with near views, each seen twice. frame_batch: cells of a step with whole frames,
            which is every `frames_every`-th.
        drawn, drawn_size: number and side of the drawn cells, px. drawn_share: their share of each batch.
        near, frames: ranges of the two kinds of views.
        weights: of the losses.
        average: decay of the running mean of the weights, which is the teacher and what is saved.
        precision: fp32 or bf16, of the forward pass. seed: of weights, cells and views.
        export_every: steps between checkpoints and interim files. held_out: drawn cells for the final measurement.
    """

    build: str = "tiny"
    image_size: int = 224
    view_size: int = 144
    pool_size: int = 336
    start_from: str | None = None
    masks: str = "classical"
    trusted: float = 0.8
    recover_at: int | None = None
    steps: int = 2000
    batch_size: int = 16
    frame_batch: int = 12
    frames_every: int = 4
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 200
    cooldown: int = 600
    clip: float = 1.0
    average: float = 0.998
    drawn: int = 6000
    drawn_size: int = 192
    drawn_share: float = 0.25
    near: Ranges = field(default_factory=Ranges)
    frames: Ranges = field(default_factory=lambda: Ranges(shares=(0.3, 0.92)))
    weights: LossWeights = field(default_factory=LossWeights)
    precision: str = "fp32"
    seed: int = 1234
    export_every: int = 200
    held_out: int = 200

    def rate(self, step: int) -> float:
        """Factor on the learning rate at 0-based `step`: it can be left flat and taken up again by a later run."""
        return min((step + 1) / max(self.warmup, 1), 1.0, (self.steps - step) / max(self.cooldown, 1))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_config(path: Path) -> PretrainConfig:
    """A YAML file of `PretrainConfig`'s fields; what is not given keeps its default.

    Raises:
        CellfeatError: for a file that is no mapping, an unknown field or a value that cannot be.
    """
    import yaml
    from pydantic import TypeAdapter, ValidationError

    try:
        values = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CellfeatError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    _check_fields(path, values, PretrainConfig)
    for name, kind in (("near", Ranges), ("frames", Ranges), ("weights", LossWeights)):
        _check_fields(path, values.get(name, {}), kind)
    try:
        config = TypeAdapter(PretrainConfig).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise CellfeatError(f"{path}: {place} = {first['input']!r}: {first['msg']}") from error
    _check_values(path, config)
    return config


def _check_values(path: Path, config: PretrainConfig) -> None:
    if config.build not in BUILDS:
        raise CellfeatError(f"{path}: build = {config.build!r}. Possible: {', '.join(BUILDS)}")
    for name in ("image_size", "view_size"):
        if getattr(config, name) % 16 or not 32 <= getattr(config, name) <= config.image_size:
            raise CellfeatError(
                f"{path}: {name} = {getattr(config, name)}; possible are multiples of 16 from 32 to image_size"
            )
    for name, least in LEAST.items():
        if getattr(config, name) < least:
            raise CellfeatError(f"{path}: {name} = {getattr(config, name)}; at least {least} is needed")
    for name, (low, high) in LIMITS.items():
        _check_number(path, name, getattr(config, name), low, high)
    for kind, ranges in (("near", config.near), ("frames", config.frames)):
        for name, (low, high) in RANGE_LIMITS.items():
            for number in getattr(ranges, name):
                _check_number(path, f"{kind}.{name}", number, low, high)
    for name, number in asdict(config.weights).items():
        _check_number(path, f"weights.{name}", number, 0, math.inf)
    if config.precision not in TRAINABLE:
        raise CellfeatError(f"{path}: precision = {config.precision!r}. Possible: {', '.join(TRAINABLE)}")


def _check_number(path: Path, name: str, number: float | None, low: float, high: float) -> None:
    if number is not None and not (low <= number <= high and math.isfinite(number)):
        raise CellfeatError(f"{path}: {name} = {number}; possible are numbers from {low:g} to {high:g}")


def _check_fields(path: Path, values: Any, kind: type) -> None:
    fields = kind.__dataclass_fields__  # type: ignore[attr-defined]
    if not isinstance(values, dict) or set(values) - set(fields):
        got = sorted(set(values) - set(fields)) if isinstance(values, dict) else type(values).__name__
        raise CellfeatError(f"{path} holds {got}, which is no pre-training setting. Possible: {', '.join(fields)}")
