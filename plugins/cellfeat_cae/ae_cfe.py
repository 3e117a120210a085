"""Align `ae-cfe`: the autoencoder for cell feature extraction of Salehi et al."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from cellfeat_cae import inputs
from cellfeat_cae.autoencoder import AutoencoderAligner

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from cellfeat_cae.ae_cfe_network import AeCfeAutoencoder
    from cellfeat_cae.batches import Batch

SSIM_WINDOW = 10


@dataclass(eq=False)
class AeCfe(AutoencoderAligner):
    """Fifty numbers per cell that restore its feature map and its image, means and covariances drawn together.

    Salehi et al., MICCAI 2022, "AE-CFE": loss = (1 - SSIM, window 10) + MSE of the map + 5 * sum over the other domains
    of AE-CFE's distance to the anchor. Adam at a constant rate. All defaults are the published numbers (batches: 500
    cells for each GPU).

    accumulate: parts that a batch is computed in, for little memory; domains are then compared within each part.
    training_cells: train on at most so many cells of each domain, drawn by the seed; published: on all.
    anchor: the domain that the others are drawn to; None for the first source by name (published: Matek-19).
    weights: folder of a fitted autoencoder, from a run, that is used as it is; nothing is trained.

    Departures: the published program reads Mask R-CNN features of 256 channels, which are not public; here the map of
    any backbone is taken, scaled to [-1, 1] cell by cell as there. The crop is DoRL's (published: the detector's box
    with 10 and 20 pixels around it); the seed is fixed; a domain with fewer than two cells in a batch leaves its term
    out; cells with an empty mask train nothing.
    """

    epochs: int = 150
    batch_size: int = 500
    accumulate: int = 1
    training_cells: int | None = None
    learning_rate: float = 1e-3
    latent: int = 50
    image_weight: float = 1.0
    domain_weight: float = 5.0
    feature_weight: float = 1.0
    anchor: str | None = None
    weights: str | None = None

    name: ClassVar[str] = "ae-cfe"
    paper: ClassVar[str] = "Salehi et al., MICCAI 2022, doi 10.1007/978-3-031-16437-8_71"
    warmup_steps: ClassVar[int] = 0  # type: ignore[misc]

    def __post_init__(self) -> None:
        factors = ("image_weight", "domain_weight", "feature_weight")
        inputs.check_numbers(self, ("epochs", "batch_size", "accumulate", "training_cells", "latent"), factors)
        self.uses_target = self.weights is None

    @property
    def compared_from(self) -> int:
        return 2

    @property
    def term_weights(self) -> dict[str, float]:
        return {"image": self.image_weight, "domain": self.domain_weight, "feature": self.feature_weight}

    def optimizer(self, parameters: Iterable[nn.Parameter], fused: bool) -> torch.optim.Optimizer:
        from torch.optim import Adam

        return Adam(parameters, lr=self.learning_rate, fused=fused)

    def losses(self, network: nn.Module, batch: Batch, gather: Callable[..., Any]) -> dict[str, Tensor]:
        """(1 - SSIM), the distance of the domains' means and covariances, the map's mean squared error."""
        from torch.nn.functional import mse_loss

        from cellfeat_cae.ae_cfe_network import scale_maps
        from cellfeat_cae.discrepancies import mean_covariance_distance
        from cellfeat_cae.ssim import ssim

        maps = scale_maps(batch.maps)
        output = network(maps)
        z, domain = gather(output.z, batch.domain)
        return {
            "image": 1 - ssim(output.image.float(), batch.crop, SSIM_WINDOW),
            "domain": mean_covariance_distance(z.float(), domain, batch.domains, batch.anchor),
            "feature": mse_loss(output.maps.float(), maps),
        }

    def encode(self, maps: Tensor) -> Tensor:
        from cellfeat_cae.ae_cfe_network import scale_maps

        return self.network_.encoder(scale_maps(maps)).flatten(1)

    def drawn(self, batch: Batch) -> Tensor:
        from cellfeat_cae.ae_cfe_network import scale_maps

        return self.network_(scale_maps(batch.maps)).image

    def _width(self) -> int:
        return self.latent

    def _build(self) -> AeCfeAutoencoder:
        from cellfeat_cae.ae_cfe_network import AeCfeAutoencoder

        return AeCfeAutoencoder(self.channels_, self.latent)
