"""Align `dann`: features from which no discriminator can tell source and target, after Ganin et al."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cellfeat import Context
from cellfeat_timm.adapted import Material, NetworkAligner
from cellfeat_timm.trained import check_at_least, check_positive

if TYPE_CHECKING:
    import torch

    from cellfeat_timm.adapted_network import AdaptedNetwork
    from cellfeat_timm.adapted_training import Both


@dataclass(eq=False)
class Dann(NetworkAligner):
    """Domain-adversarial network: cross-entropy + trade_off * loss of a discriminator behind a gradient reversal.

    Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016; architecture, optimiser, schedule and all
    defaults are those of the program of TLLib: SGD with Nesterov's momentum 0.9, batches of as many labelled as
    unlabelled cells, rate learning_rate * (1 + 0.001 step)^-0.75, times trunk_factor below the bottleneck.

    inputs: "features" reads the backbone's cached vectors, standardised by the labelled source rows, instead of a
    trunk's; "images" trains the timm network `model` end to end, weights, image_size, augment and norm as in
    `source-only`.
    The features are the bottleneck's output (N, bottleneck); it has its own head.
    hidden: width of the discriminator. reversal_alpha, reversal_low, reversal_high, reversal_steps: the reversal's
    coefficient, 2 (high - low) / (1 + exp(-alpha step / steps)) - (high - low) + low.
    select: the epoch that is kept. "last"; "source-val", by balanced accuracy on a tenth of the labelled source cells,
    which are then not trained on; "information-maximization", by the mutual information of target cell and predicted
    class, without labels. Of equals the later one.

    Departures: TLLib keeps the epoch that is best on the target's own labels; here none sees them. Cells come in random
    orders one after another, no rest is dropped. Revealed target cells count as target in the discriminator's loss.
    """

    iterations_per_epoch: int = 1000
    trade_off: float = 1.0
    hidden: int = 1024
    reversal_alpha: float = 1.0
    reversal_low: float = 0.0
    reversal_high: float = 1.0
    reversal_steps: int = 1000

    name: ClassVar[str] = "dann"
    paper: ClassVar[str] = 'Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016'

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, iterations_per_epoch=self.iterations_per_epoch, hidden=self.hidden)
        check_at_least(0, trade_off=self.trade_off)
        check_positive(reversal_steps=self.reversal_steps)

    def _train(self, network: AdaptedNetwork, material: Material, context: Context) -> int:
        from cellfeat.training import seeded
        from cellfeat_timm.adapted_training import Adaptation
        from cellfeat_timm.loop import train
        from cellfeat_timm.objectives import Discriminator

        with seeded(context.seed + 1):
            discriminator = Discriminator(self.bottleneck, self.hidden)
        work = Adaptation(
            self.name,
            network,
            discriminator,
            lambda both: self._adversarial(discriminator, both),
            material,
            self._inputs(),
            self._params(),
            context,
            lambda: self._score(material.judge, network, context),
        )
        return train(work, context)

    def _adversarial(self, discriminator: torch.nn.Module, both: Both) -> torch.Tensor:
        from cellfeat_timm.objectives import domain_loss, reversal_coefficient, reverse_gradient

        coefficient = reversal_coefficient(
            both.step, self.reversal_alpha, self.reversal_low, self.reversal_high, self.reversal_steps
        )
        logits = discriminator(reverse_gradient(both.features, coefficient))
        return domain_loss(logits.float(), both.is_target)
