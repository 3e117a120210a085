"""Align `mcc`: target predictions that confuse no two classes, after Jin et al."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cellfeat import Context
from cellfeat_timm.adapted import Material, NetworkAligner
from cellfeat_timm.trained import check_at_least, check_positive

if TYPE_CHECKING:
    from cellfeat_timm.adapted_network import AdaptedNetwork


@dataclass(eq=False)
class Mcc(NetworkAligner):
    """Minimum class confusion: cross-entropy + trade_off * confusion of the classes predicted on the target.

    Jin et al., "Minimum Class Confusion for Versatile Domain Adaptation", ECCV 2020; architecture, optimiser, schedule
    and all defaults are those of the program of TLLib for Office-31 but for the bottleneck, 256 wide instead of 1024:
    SGD with Nesterov's momentum 0.9, batches of as many labelled as unlabelled cells, rate
    learning_rate * (1 + 0.001 step)^-0.75, times trunk_factor below the bottleneck.

    inputs: "features" reads the backbone's cached vectors, standardised by the labelled source rows, instead of a
    trunk's; "images" trains the timm network `model` end to end, weights, image_size, augment and norm as in
    `source-only`.
    The features are the bottleneck's output (N, bottleneck); it has its own head.
    temperature: logits of the target are divided by it before the softmax.
    select: the epoch that is kept. "last"; "source-val", by balanced accuracy on a tenth of the labelled source cells,
    which are then not trained on; "information-maximization", by the mutual information of target cell and predicted
    class, without labels. Of equals the later one.

    Departures: TLLib keeps the epoch that is best on the target's own labels; here none sees them. Cells come in random
    orders one after another, no rest is dropped.
    """

    batch_size: int = 36
    learning_rate: float = 0.005
    iterations_per_epoch: int = 1000
    trade_off: float = 1.0
    temperature: float = 2.5

    name: ClassVar[str] = "mcc"
    paper: ClassVar[str] = 'Jin et al., "Minimum Class Confusion for Versatile Domain Adaptation", ECCV 2020'

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, iterations_per_epoch=self.iterations_per_epoch)
        check_at_least(0, trade_off=self.trade_off)
        check_positive(temperature=self.temperature)

    def _train(self, network: AdaptedNetwork, material: Material, context: Context) -> int:
        from torch.nn import Identity

        from cellfeat_timm.adapted_training import Adaptation
        from cellfeat_timm.loop import train
        from cellfeat_timm.objectives import class_confusion

        work = Adaptation(
            self.name,
            network,
            Identity(),
            lambda both: class_confusion(both.logits[both.labelled :].float(), self.temperature),
            material,
            self._inputs(),
            self._params(),
            context,
            lambda: self._score(material.judge, network, context),
        )
        return train(work, context)
