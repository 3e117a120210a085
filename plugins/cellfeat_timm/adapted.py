"""What networks that adapt to a target share as align methods: on images end to end, or on cached features."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from cellfeat import Cells, Context
from cellfeat_timm.backbone import checked_size
from cellfeat_timm.known import published_config
from cellfeat_timm.parameters import NetworkParameters
from cellfeat_timm.selection import Judge, split
from cellfeat_timm.trained import TrainedNetwork, check_at_least, check_positive, softmax

if TYPE_CHECKING:
    import torch

    from cellfeat_timm.adapted_network import AdaptedNetwork
    from cellfeat_timm.inputs import Inputs


@dataclass(frozen=True)
class Material:
    """What a fit works with.

    rows: labelled ones that are trained on; targets: their classes 0..K-1; unlabelled: rows of the target without a
    label, none where there is nothing to adapt to.
    """

    cells: Cells
    rows: np.ndarray
    targets: np.ndarray
    unlabelled: np.ndarray
    judge: Judge


class NetworkAligner(NetworkParameters, TrainedNetwork):
    """Base of the align methods that train a bottleneck and a classifier, and on images the network below them.

    A subclass is a dataclass whose fields are its parameters. Every row whose label is shown is trained on as labelled,
    also one of the target; target rows without a label are adapted to. Without any the source's term alone is trained.
    """

    name: ClassVar[str]
    writes: ClassVar[str] = "pooled"
    uses_target: ClassVar[bool] = True
    uses_labels: ClassVar[bool] = True
    width_: int | None = None  # of a vector that the bottleneck is given

    def __post_init__(self) -> None:
        self.reads = ("image",) if self.inputs == "images" else ("pooled",)
        if self.inputs == "images":
            published_config(self.model)
        checked_size(self.image_size)
        check_at_least(1, epochs=self.epochs, bottleneck=self.bottleneck)
        check_at_least(2, batch_size=self.batch_size)  # batch normalisation needs two cells to learn from
        check_at_least(0, trunk_factor=self.trunk_factor, weight_decay=self.weight_decay)
        check_positive(learning_rate=self.learning_rate)

    @abstractmethod
    def _train(self, network: AdaptedNetwork, material: Material, context: Context) -> int:
        """Train the network in place; gives the number of epochs that it was trained for in the state that is kept."""

    def fit(self, cells: Cells, context: Context) -> Self:
        rows, targets = self._labelled(cells)
        unlabelled = np.flatnonzero(cells.is_target & (cells.label < 0))
        if len(unlabelled) < 2:  # of which batch normalisation could not learn
            context.note(
                f"{self.name}: no unlabelled target cells to adapt to; it learns from the labelled cells alone"
            )
            unlabelled = unlabelled[:0]
        self.weights_saw, self.weights_sha256, weights = (), None, None
        if self.inputs == "images":
            weights = self._find_weights(context)
            self.size_ = self.image_size or cells.column("image").shape[-1]
        else:
            cells = cells.with_column("pooled", cells.pooled)  # in memory: small batches are read very often
            self.width_ = cells.column("pooled").shape[1]
        taught, judge = split(self.select, cells, rows, targets, unlabelled, context.seed)
        material = Material(cells, rows[taught], targets[taught], unlabelled, judge)
        network = self._build(weights, context.seed)
        if self.inputs == "features":
            source = material.rows[~cells.is_target[material.rows]]
            network.trunk.learn(cells.pooled[source if len(source) else material.rows])
        self.selected_epoch_ = self._train(network, material, context)
        self.network = network
        return self

    def _score(self, judge: Judge, network: AdaptedNetwork, context: Context) -> float | None:
        if judge.cells is None:
            return None
        return judge(softmax(self._asked(network, judge.cells, context, head=True)))

    def _build(self, weights: Path | None, seed: int) -> AdaptedNetwork:
        from cellfeat.training import seeded
        from cellfeat_timm.adapted_network import AdaptedNetwork, Standardise, timm_trunk

        if self.width_ is None:
            trunk, width = timm_trunk(self.model, weights, self.size_ or 0, self.norm, seed)
        else:
            trunk, width = Standardise(self.width_), self.width_
        with seeded(seed):
            return AdaptedNetwork(trunk, width, self.bottleneck, len(self.classes_), **self._form())

    def _form(self) -> dict[str, bool]:
        """Where bottleneck and classifier differ from TLLib's: keyword arguments of AdaptedNetwork."""
        return {}

    def _inputs(self) -> Inputs:
        from cellfeat_timm.inputs import Images, Vectors

        return Vectors() if self.inputs == "features" else Images(self.model, self.size_ or 0, self.augment)

    def _sizes(self) -> dict[str, Any]:
        return {"width_": self.width_}

    def _answer(self, network: Any, batch: torch.Tensor, head: bool) -> torch.Tensor:
        features, logits = network(batch)
        return logits if head else features
