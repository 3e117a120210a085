"""Align `cae`: DoRL's masked cross-domain autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from cellfeat import CellfeatError
from cellfeat_cae import inputs
from cellfeat_cae.autoencoder import AutoencoderAligner
from cellfeat_cae.published import import_dorl_cae

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from cellfeat_cae.batches import Batch
    from cellfeat_cae.network import CrossDomainAutoencoder

VIEWS_SEED = 0  # of the fixed division of the tokens into views


@dataclass(eq=False)
class Cae(AutoencoderAligner):
    """Features that several laboratories share: the cls token of a masked autoencoder trained on all of them.

    Li et al., arXiv 2408.07467 (Pattern Recognition 170:112000, 2025), "DoRL". From a quarter of the token map the
    network restores all tokens and the image of the cell, while the mean code of every domain is drawn to that of an
    anchor domain: loss = (1 - SSIM) + 2 * sum of mean distances + MSE of the tokens. Labels are not used. With a
    backbone of 768 channels all defaults are the published numbers.

    heads: None gives heads 64 channels wide where that divides the channels, else the nearest width that does.
    head_width: channels after the image head's first layer; None gives 512 * C / 768, rounded to a multiple of 8.
    accumulate: parts that a batch is computed in, for little memory; domains are then compared within each part.
    training_cells: train on at most so many cells of each domain, drawn by the seed; published: on all.
    anchor: the domain that the others are drawn to; None for the first source by name (published: Matek-19).
    weights: folder of a fitted autoencoder, imported or from a run, that is used as it is; nothing is trained, and all
        parameters but `views` are those that it was fitted with.

    Beyond the published method (the recipe `dorl-fixed` sets all four):
    batches: "balanced" gives every batch the same share of every domain; published: "shuffled".
    discrepancy: how two domains are compared: "means" (published), "mmd" (five Gaussian kernels) or "coral".
    discrepancy_on: "projector", the code of the decoder's output (published), or "cls", the features themselves.
    views: encode a cell as the mean over views of as many tokens as training kept, instead of all tokens at once.

    Departures: a batch without anchor cells leaves the domain term out (published: NaN); cells with an empty mask train
    nothing (published: an error); a grid other than 14 x 14 is resampled to it; the warm-up takes at most a fifth of
    the run, so that short runs train at all.
    """

    epochs: int = 300
    batch_size: int = 64
    accumulate: int = 1
    training_cells: int | None = None
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
    batches: Literal["shuffled", "balanced"] = "shuffled"
    discrepancy: Literal["means", "mmd", "coral"] = "means"
    discrepancy_on: Literal["projector", "cls"] = "projector"
    views: bool = False
    anchor: str | None = None
    weights: str | None = None

    name: ClassVar[str] = "cae"
    paper: ClassVar[str] = "Li et al., Pattern Recognition 170:112000, 2025, arXiv 2408.07467"
    importers: ClassVar[Mapping[str, Callable[..., str]]] = {"dorl-cae": import_dorl_cae}

    def __post_init__(self) -> None:
        counts = (
            "epochs",
            "batch_size",
            "accumulate",
            "training_cells",
            "encoder_depth",
            "decoder_depth",
            "heads",
            "latent",
        )
        factors = ("weight_decay", "warmup_steps", "image_weight", "domain_weight", "feature_weight")
        inputs.check_numbers(self, counts, factors)
        if not 0 <= self.mask_ratio < 1:
            raise CellfeatError(f"align 'cae': mask_ratio must be at least 0 and below 1, got {self.mask_ratio:g}")
        if self.head_width is not None and (self.head_width < 8 or self.head_width % 8):
            raise CellfeatError(f"align 'cae': head_width must be a multiple of 8, got {self.head_width}")
        self.uses_target = self.weights is None

    @property
    def balanced(self) -> bool:
        return self.batches == "balanced"

    @property
    def compared_from(self) -> int:
        return 2 if self.discrepancy == "coral" else 1

    @property
    def term_weights(self) -> dict[str, float]:
        return {"image": self.image_weight, "domain": self.domain_weight, "feature": self.feature_weight}

    @property
    def kept(self) -> int:
        """Tokens of a cell that the encoder sees in training."""
        from cellfeat_cae.network import TOKENS

        return max(1, int(TOKENS * (1 - self.mask_ratio)))

    def optimizer(self, parameters: Iterable[nn.Parameter], fused: bool) -> torch.optim.Optimizer:
        from torch.optim import AdamW

        return AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay, fused=fused)

    def losses(self, network: nn.Module, batch: Batch, gather: Callable[..., Any]) -> dict[str, Tensor]:
        """(1 - SSIM), the distance of the domains, the tokens' mean squared error."""
        from torch.nn.functional import mse_loss

        from cellfeat_cae import discrepancies
        from cellfeat_cae.network import as_tokens
        from cellfeat_cae.ssim import ssim

        distance = {
            "means": discrepancies.domain_mean_distance,
            "mmd": discrepancies.rbf_mmd,
            "coral": discrepancies.coral_distance,
        }[self.discrepancy]
        tokens = as_tokens(batch.maps)
        output = network(tokens, batch.noise.argsort(dim=1), self.kept)
        code, domain = gather(output.z if self.discrepancy_on == "projector" else output.cls, batch.domain)
        return {
            "image": 1 - ssim(output.image.float(), batch.crop),
            "domain": distance(code.float(), domain, batch.domains, batch.anchor),
            "feature": mse_loss(output.tokens.float(), tokens),
        }

    def encode(self, maps: Tensor) -> Tensor:
        """The encoder's class token: of all tokens, as published, or the mean over views of them."""
        import torch

        from cellfeat_cae.network import TOKENS, as_tokens

        tokens, encoder = as_tokens(maps), self.network_.encoder
        if not self.views:
            return encoder(tokens)[:, 0]
        order = np.random.default_rng(VIEWS_SEED).permutation(TOKENS)
        starts = range(0, TOKENS - self.kept + 1, self.kept)
        views = [torch.from_numpy(np.roll(order, -start)).to(maps.device) for start in starts]
        return torch.stack([encoder(tokens, view.expand(len(maps), -1), self.kept)[:, 0] for view in views]).mean(dim=0)

    def drawn(self, batch: Batch) -> Tensor:
        from cellfeat_cae.network import as_tokens

        return self.network_(as_tokens(batch.maps), batch.noise.argsort(dim=1), self.kept).image

    def _become(self, fitted: Self) -> None:
        views = self.views or fitted.views  # a way to use the network, not to train it
        super()._become(fitted)
        self.views = views

    def _width(self) -> int:
        return self.channels_

    def _build(self) -> CrossDomainAutoencoder:
        from cellfeat_cae.network import CrossDomainAutoencoder

        channels = self.channels_
        network = CrossDomainAutoencoder(
            channels,
            heads=_heads(channels, self.heads),
            encoder_depth=self.encoder_depth,
            decoder_depth=self.decoder_depth,
            head_width=self.head_width or max(8, round(512 * channels / 768 / 8) * 8),
            latent=self.latent,
        )
        # Without a part in the loss it gets no gradient, and several processes would wait for one.
        network.projector.requires_grad_(self.discrepancy_on == "projector")
        return network


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
