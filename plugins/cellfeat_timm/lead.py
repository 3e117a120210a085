"""Align `lead`: a source model taught by the target's own pseudo-labels, after Qu et al."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cellfeat import CellfeatError, Context
from cellfeat_timm.adapted import Material, NetworkAligner
from cellfeat_timm.trained import check_at_least

if TYPE_CHECKING:
    from cellfeat_timm.adapted_network import AdaptedNetwork


@dataclass(eq=False)
class Lead(NetworkAligner):
    """LEAD: source-free adaptation by decomposing features into source-known and unknown parts.

    Qu et al., "LEAD: Learning Decomposition for Source-free Universal Domain Adaptation", CVPR 2024; defaults are those
    of the authors' program. First a source model: cross-entropy with labels smoothed by 0.1 on all labelled cells,
    `source_epochs` long. Then, without any source cell, `epochs` of its trunk and bottleneck on unlabelled target
    cells, its classifier fixed: pseudo_weight * cross-entropy to pseudo-labels + cross-entropy of the known and unknown
    lengths + cross-entropy to the mean prediction of the nearest `neighbours`. Both by SGD with Nesterov's momentum
    0.9, rate learning_rate * (1 + 10 step / steps)^-0.75, times trunk_factor below the bottleneck.

    inputs: "features" reads the backbone's cached vectors, standardised by the labelled source rows, instead of a
    trunk's; "images" trains the timm network `model` end to end, weights, image_size, augment and norm as in
    `source-only`.
    The features are the bottleneck's output (N, bottleneck), linear and batch-normalised, without a ReLU; it has its
    own head, weight-normalised. source_steps: of the source model, in whole epochs and at least so many, in place of
    `source_epochs`.
    select: the epoch of the target's training that is kept (without target cells, of the source's). "last";
    "source-val", by balanced accuracy on a tenth of the labelled source cells, which are then not trained on;
    "information-maximization", by the mutual information of target cell and predicted class. Of equals the later one.

    Departures: closed set, cells beyond the boundary are taken for unknown in training, but every cell is given a known
    class in the end. The number of target clusters is sought in 10 principal components, not by t-SNE, with silhouettes
    of at most 5000 cells, and is at least 2. The program keeps the epoch that is best on the target's own labels; here
    none sees them. Logarithms are of softmax outputs, nothing added. Layers start as torch starts them. Revealed
    target cells teach the source model.
    """

    epochs: int = 50
    source_epochs: int = 50
    source_steps: int | None = None
    batch_size: int = 64
    learning_rate: float = 1e-3
    pseudo_weight: float = 0.3
    neighbours: int = 4

    name: ClassVar[str] = "lead"
    paper: ClassVar[str] = (
        'Qu et al., "LEAD: Learning Decomposition for Source-free Universal Domain Adaptation", CVPR 2024'
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, source_epochs=self.source_epochs, source_steps=self.source_steps, neighbours=self.neighbours)
        check_at_least(0, pseudo_weight=self.pseudo_weight)

    def _source_epochs(self, cells: int) -> int:
        if self.source_steps is None:
            return self.source_epochs
        return math.ceil(
            self.source_steps / max(1, cells // self.batch_size)
        )  # an epoch leaves out what fills no batch

    def _form(self) -> dict[str, bool]:
        return {"relu": False, "weight_normed": True}

    def _train(self, network: AdaptedNetwork, material: Material, context: Context) -> int:
        from cellfeat_timm.lead_training import SourceModel, TargetModel
        from cellfeat_timm.loop import train

        if self.bottleneck <= len(self.classes_):
            raise CellfeatError(
                f"bottleneck={self.bottleneck} leaves lead no room for the unknown beside {len(self.classes_)} "
                f"classes: give at least {len(self.classes_) + 1}"
            )
        adapts = len(material.unlabelled) > 0
        common = (self._inputs(), self._params(), context)

        def score() -> float | None:
            return self._score(material.judge, network, context)

        judged = (lambda: None) if adapts else score
        first = SourceModel(
            "lead-source", network, material, material.rows, self._source_epochs(len(material.rows)), *common, judged
        )
        kept = train(first, context)
        if not adapts:
            return kept
        second = TargetModel("lead-target", network, material, material.unlabelled, self.epochs, *common, score)
        return train(second, context)
