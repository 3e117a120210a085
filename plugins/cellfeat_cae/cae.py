"""Align `cae`: DoRL's masked cross-domain autoencoder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from cellfeat import CellfeatError, Cells, Context, load_state, save_state, training

if TYPE_CHECKING:
    from cellfeat_cae.network import CrossDomainAutoencoder

CROP = (3, 128, 128)
TRANSFORM_BATCH = 32
HISTORY = ("total", "image", "domain", "feature")


@dataclass(eq=False)
class Cae:
    """Features that several laboratories share: the cls token of a masked autoencoder trained on all of them.

    Li et al., arXiv 2408.07467 (Pattern Recognition 170:112000, 2025), "DoRL". From a quarter of the token map the
    network restores all tokens and the image of the cell, while the mean code of every domain is drawn to that of an
    anchor domain: loss = (1 - SSIM) + 2 * sum of mean distances + MSE of the tokens. Labels are not used. With a
    backbone of 768 channels all defaults are the published numbers.

    heads: None gives heads 64 channels wide where that divides the channels, else the nearest width that does.
    head_width: channels after the image head's first layer; None gives 512 * C / 768, rounded to a multiple of 8.

    Departures: the anchor is the first source domain by name (published: always Matek-19); a batch without anchor
    cells leaves the domain term out (published: NaN); a grid other than 14 x 14 is resampled to it; the warm-up takes
    at most a tenth of the run, so that short runs train at all.
    """

    epochs: int = 300
    batch_size: int = 64
    learning_rate: float = 1e-4
    weight_decay: float = 0.05
    warmup_steps: int = 500
    mask_ratio: float = 0.75
    encoder_depth: int = 12
    decoder_depth: int = 4
    heads: int | None = None
    head_width: int | None = None
    latent: int = 50
    image_weight: float = 1.0
    domain_weight: float = 2.0
    feature_weight: float = 1.0

    reads: ClassVar[tuple[str, ...]] = ("map", "crop")
    writes: ClassVar[str] = "pooled"
    uses_target: ClassVar[bool] = True
    uses_labels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "encoder_depth", "decoder_depth", "heads", "latent"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise CellfeatError(f"align 'cae': {name} must be at least 1, got {value}")
        # Written so that nan is refused too.
        if not self.learning_rate > 0:
            raise CellfeatError(f"align 'cae': learning_rate must be above 0, got {self.learning_rate:g}")
        for name in ("weight_decay", "warmup_steps", "image_weight", "domain_weight", "feature_weight"):
            if not getattr(self, name) >= 0:
                raise CellfeatError(f"align 'cae': {name} must be at least 0, got {getattr(self, name):g}")
        if not 0 <= self.mask_ratio < 1:
            raise CellfeatError(f"align 'cae': mask_ratio must be at least 0 and below 1, got {self.mask_ratio:g}")
        if self.head_width is not None and (self.head_width < 8 or self.head_width % 8):
            raise CellfeatError(f"align 'cae': head_width must be a multiple of 8, got {self.head_width}")

    def fit(self, cells: Cells, context: Context) -> Self:
        """Train on the `map` and `crop` of all cells given; afterwards `history_` holds the mean losses per epoch."""
        from cellfeat_cae.train import Trainer

        self.channels_ = _channels(cells, context)
        _check_crops(cells)
        anchor = _anchor(cells, context)
        with training.seeded(context.seed):
            self.network_ = self._build()
        history = Trainer(self.network_, cells, self, anchor, context).run()
        self.history_ = {name: [epoch[i] for epoch in history] for i, name in enumerate(HISTORY)}
        return self

    def transform(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, C) float32: the encoder's cls token, no token masked. Also places domains that fit was not shown."""
        import torch
        from torch.nn.functional import pad

        from cellfeat_cae.network import as_tokens

        channels = _channels(cells, context)
        if channels != self.channels_:
            raise CellfeatError(
                f"align 'cae' was fitted on maps of {self.channels_} channels and got {channels}; "
                "use the backbone that it was fitted with"
            )
        encoder = self.network_.encoder.to(context.device)
        features = np.empty((len(cells), channels), dtype=np.float32)
        with torch.no_grad(), context.progress(len(cells), "cae · features") as bar:
            for rows, batch in cells.batches(("map",), TRANSFORM_BATCH):
                tokens = as_tokens(batch["map"].to(context.device, torch.float32))
                # One batch shape throughout: a cell's features do not depend on how many came with it.
                tokens = pad(tokens, (0, 0, 0, 0, 0, TRANSFORM_BATCH - len(rows)))
                with training.autocast(context.device, context.dtype):
                    encoded = encoder(tokens)
                features[rows] = encoded[: len(rows), 0].float().cpu().numpy()
                bar.advance(len(rows))
        return features

    def save(self, folder: Path) -> None:
        meta = {"params": asdict(self), "channels": self.channels_, "history": self.history_}
        save_state(folder, self.network_.state_dict(), meta)

    @classmethod
    def load(cls, folder: Path) -> Self:
        import torch

        arrays, meta = load_state(folder)
        method = cls(**meta["params"])
        method.channels_, method.history_ = meta["channels"], meta["history"]
        with training.seeded(0):  # building draws numbers, which nobody else should miss
            method.network_ = method._build()
        method.network_.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
        return method

    def _build(self) -> CrossDomainAutoencoder:
        from cellfeat_cae.network import CrossDomainAutoencoder

        channels = self.channels_
        return CrossDomainAutoencoder(
            channels,
            heads=_heads(channels, self.heads),
            encoder_depth=self.encoder_depth,
            decoder_depth=self.decoder_depth,
            head_width=self.head_width or max(8, round(512 * channels / 768 / 8) * 8),
            latent=self.latent,
        )


def _channels(cells: Cells, context: Context) -> int:
    """How many channels the token maps have."""
    shape = cells.column("map").shape[1:]
    if len(shape) != 3:
        raise CellfeatError(
            f"align 'cae' needs a token map (channels, height, width) per cell and got shape {shape}; "
            "choose a backbone that gives maps, such as lora-sam"
        )
    if shape[1:] != (14, 14):
        context.note(f"cae: token maps of {shape[1]} x {shape[2]} are resampled to 14 x 14")
    return shape[0]


def _check_crops(cells: Cells) -> None:
    crop = cells.column("crop")
    if crop.shape[1:] != CROP or crop.dtype != np.uint8:
        raise CellfeatError(
            f"align 'cae' needs crops of shape {CROP}, uint8, and got {crop.shape[1:]}, {crop.dtype}; "
            "extract the crops again"
        )


def _anchor(cells: Cells, context: Context) -> str:
    """The domain that the others are drawn to: the first one by name that is no target."""
    if not len(cells):
        raise CellfeatError("align 'cae' got no cells to fit on; check the data set and the protocol's selection")
    domains = sorted(set(cells.domain.tolist()))
    sources = sorted(set(cells.domain[~cells.is_target].tolist())) or domains
    if len(domains) == 1:
        context.note(f"cae: only domain {domains[0]!r} is seen, so nothing draws domains together")
    elif len(sources) != 1:
        context.note(f"cae: of the domains {', '.join(sources)} the first, {sources[0]!r}, is the one drawn to")
    return sources[0]


def _heads(channels: int, heads: int | None) -> int:
    """`heads` if it divides the channels; by default that which makes a head as near to 64 channels wide as can be."""
    widths = [width for width in range(1, channels + 1) if channels % width == 0]
    if heads is None:
        return channels // min(widths, key=lambda width: (abs(width - 64), -width))
    if channels % heads:
        raise CellfeatError(
            f"align 'cae': {heads} heads do not divide the map's {channels} channels. "
            f"Possible: {', '.join(map(str, widths))}"
        )
    return heads
