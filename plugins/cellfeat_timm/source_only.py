"""The aligner `source-only`: a network trained end to end on the labelled source cells, with its own head."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from cellfeat import CellfeatError, Cells, Context
from cellfeat_timm.backbone import checked_size
from cellfeat_timm.known import published_config
from cellfeat_timm.selection import INFORMATION, LAST, Judge, split
from cellfeat_timm.trained import TrainedNetwork, check_at_least, check_positive, softmax

if TYPE_CHECKING:
    import torch

    from cellfeat_timm.inputs import Images


class SourceOnly(TrainedNetwork):
    """Cross-entropy fine-tuning of a timm network on the source alone: what adaptation has to beat.

    The "ResNext" row of BC-SAM and DoRL, for which neither gives a program; optimiser and schedule are those of
    wbc-benchmark: AdamW, a linear warm-up over a tenth of the epochs, then a cosine to zero. It reads the cell's image
    in the frame of the run's backbone; whatever that backbone computes plays no part.

    model, weights: as for the backbone `timm`. image_size: size to which the frame is resized; its own unless given.
    steps: of the optimiser, in whole epochs and at least so many, in place of `epochs`: then a small laboratory trains
    as long as a large one.
    augment: "none"; "flip", the eight orientations; or "stain", which adds stain, scale and blur. norm: "group" turns
    batch into group normalisation, which does not depend on a laboratory's statistics. mixstyle: probability with which
    a training batch mixes the styles of its images behind the first two stages of a ResNet (Zhou et al., ICLR 2021).
    select: the epoch that is kept, the "last", or by "source-val" the one with the best balanced accuracy on a tenth of
    the labelled cells, which are then not trained on; of equals the later one.

    The features are the network's pooled vector before its classifier; `predict_proba` has a column per entry of
    `classes_`.
    """

    name = "source-only"
    reads = ("image",)
    writes = "pooled"
    uses_target = False
    uses_labels = True

    def __init__(
        self,
        model: str = "resnext50_32x4d.tv_in1k",
        weights: str = "imagenet",
        image_size: int | None = None,
        epochs: int = 100,
        steps: int | None = None,
        batch_size: int = 128,
        learning_rate: float = 1e-4,
        warmup_epochs: int | None = None,
        augment: Literal["none", "flip", "stain"] = "flip",
        norm: Literal["batch", "group"] = "batch",
        mixstyle: float = 0.0,
        select: Literal["last", "source-val", "information-maximization"] = "last",
    ) -> None:
        published_config(model)
        checked_size(image_size)
        check_at_least(1, epochs=epochs, steps=steps)
        check_at_least(2, batch_size=batch_size)  # batch normalisation needs two cells to learn from
        check_at_least(0, warmup_epochs=warmup_epochs)
        check_positive(learning_rate=learning_rate)
        if select == INFORMATION:
            raise CellfeatError(
                f"select={select} scores the epochs on unlabelled target cells, which source-only is never shown. Take "
                "select=last or select=source-val, or a method that adapts: dann, mcc or lead"
            )
        if mixstyle:
            from cellfeat_timm.mixstyle import check_mixstyle

            check_mixstyle(mixstyle, model)
        self.model, self.weights, self.image_size = model, weights, image_size
        self.epochs, self.steps = epochs, steps
        self.batch_size, self.learning_rate = batch_size, learning_rate
        self.warmup_epochs, self.augment, self.norm = warmup_epochs, augment, norm
        self.mixstyle, self.select = mixstyle, select

    def fit(self, cells: Cells, context: Context) -> Self:
        """Train on every row whose label is shown; rows with label -1 are not looked at."""
        from cellfeat_timm.finetune import Finetuning, Task
        from cellfeat_timm.loop import train

        rows, targets = self._labelled(cells)
        weights = self._find_weights(context)
        self.size_ = self.image_size or cells.column("image").shape[-1]
        taught, judge = split(self.select, cells, rows, targets, np.empty(0, np.int64), context.seed)
        network = self._build(weights, context.seed)
        task = Task(cells, rows[taught], targets[taught], self._inputs(), self._params())
        if self.steps is not None:
            task = replace(task, params={**task.params, "epochs": math.ceil(self.steps / task.steps_per_epoch())})
        work = Finetuning(network, task, context, lambda: self._score(judge, network, context))
        self.selected_epoch_ = train(work, context)
        self.network = network
        return self

    def _score(self, judge: Judge, network: torch.nn.Module, context: Context) -> float | None:
        if judge.select == LAST or judge.cells is None:
            return None
        return judge(softmax(self._asked(network, judge.cells, context, head=True)))

    def _build(self, weights: Path | None, seed: int) -> torch.nn.Module:
        from cellfeat_timm.network import build, to_group_norm

        network = build(self.model, weights, size=self._size(), num_classes=len(self.classes_), seed=seed)
        network = to_group_norm(network) if self.norm == "group" else network
        if self.mixstyle:
            from cellfeat_timm.mixstyle import insert_mixstyle

            insert_mixstyle(network, self.mixstyle)
        return network

    def _size(self) -> int:
        if self.size_ is None:
            raise CellfeatError(f"{self.name} has not been fitted yet: call fit, or load a saved one")
        return self.size_

    def _inputs(self) -> Images:
        from cellfeat_timm.inputs import Images

        return Images(self.model, self._size(), self.augment)

    def _answer(self, network: Any, batch: torch.Tensor, head: bool) -> torch.Tensor:
        return network.forward_head(network.forward_features(batch), pre_logits=not head).flatten(1)
