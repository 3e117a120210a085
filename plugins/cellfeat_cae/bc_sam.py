"""Align `bc-sam-ae`: the convolutional cross-domain autoencoder of BC-SAM."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from cellfeat_cae import inputs
from cellfeat_cae.autoencoder import AutoencoderAligner
from cellfeat_cae.published import import_bc_sam

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from cellfeat_cae.batches import Batch
    from cellfeat_cae.bc_sam_network import BcSamAutoencoder


@dataclass(eq=False)
class BcSamAe(AutoencoderAligner):
    """Fifty numbers per cell, from which its image can be drawn and whose means agree between laboratories.

    Li et al., ISBI 2024 (arXiv 2408.06716), "BC-SAM": loss = (1 - SSIM) + 5 * sum of mean distances to the anchor
    domain. The features are the code in evaluation mode. All defaults are the published numbers; with 33,000 cells a
    run has 2,570 steps.

    accumulate: parts that a batch is computed in, for little memory; batch norm and domains then see a part each.
    training_cells: train on at most so many cells of each domain, drawn by the seed; published: on all.
    anchor: the domain that the others are drawn to; None for the first source by name (published: Matek-19).
    weights: folder of a fitted autoencoder, imported or from a run, that is used as it is; nothing is trained.

    Departures: a batch without cells of a domain leaves its term out (published: NaN); cells with an empty mask train
    nothing; a grid other than 14 x 14 is resampled to it; the warm-up takes at most a fifth of the run.
    """

    epochs: int = 10
    batch_size: int = 128
    accumulate: int = 1
    training_cells: int | None = None
    learning_rate: float = 5e-4
    weight_decay: float = 0.05
    warmup_steps: int = 500
    latent: int = 50
    image_weight: float = 1.0
    domain_weight: float = 5.0
    anchor: str | None = None
    weights: str | None = None

    name: ClassVar[str] = "bc-sam-ae"
    paper: ClassVar[str] = "Li et al., ISBI 2024, arXiv 2408.06716"
    importers: ClassVar[Mapping[str, Callable[..., str]]] = {"bc-sam": import_bc_sam}

    def __post_init__(self) -> None:
        factors = ("weight_decay", "warmup_steps", "image_weight", "domain_weight")
        inputs.check_numbers(self, ("epochs", "batch_size", "accumulate", "training_cells", "latent"), factors)
        self.uses_target = self.weights is None

    @property
    def term_weights(self) -> dict[str, float]:
        return {"image": self.image_weight, "domain": self.domain_weight}

    def optimizer(self, parameters: Iterable[nn.Parameter], fused: bool) -> torch.optim.Optimizer:
        from torch.optim import AdamW

        return AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay, fused=fused)

    def losses(self, network: nn.Module, batch: Batch, gather: Callable[..., Any]) -> dict[str, Tensor]:
        """(1 - SSIM) and the distance of the domains' mean codes."""
        from cellfeat_cae.discrepancies import domain_mean_distance
        from cellfeat_cae.ssim import ssim

        output = network(batch.maps)
        z, domain = gather(output.z, batch.domain)
        return {
            "image": 1 - ssim(output.image.float(), batch.crop),
            "domain": domain_mean_distance(z.float(), domain, batch.domains, batch.anchor),
        }

    def encode(self, maps: Tensor) -> Tensor:
        return self.network_.encoder(maps).mean(dim=(2, 3))

    def drawn(self, batch: Batch) -> Tensor:
        return self.network_(batch.maps).image

    def _width(self) -> int:
        return self.latent

    def _build(self) -> BcSamAutoencoder:
        from cellfeat_cae.bc_sam_network import BcSamAutoencoder

        return BcSamAutoencoder(self.channels_, self.latent)
