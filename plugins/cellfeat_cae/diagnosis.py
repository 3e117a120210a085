"""What a user is told of a training: before hours are spent, when a loss is no number, and by which examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from cellfeat import CellfeatError, Cells
from cellfeat_cae.order import missing_from, parts_of

if TYPE_CHECKING:
    from cellfeat_cae.train import Trainer

EXAMPLES = 8


def tell(trainer: Trainer, first_epoch: list[np.ndarray]) -> None:
    """A shortened warm-up, a precision that cannot be, domains that are missing from batches."""
    note, method = trainer.context.note, trainer.method
    if trainer.warmup < method.warmup_steps:
        note(
            f"{method.name}: warm-up of {trainer.warmup} steps instead of {method.warmup_steps}, "
            f"a fifth of this run's {trainer.total}"
        )
    if trainer.context.dtype == torch.float16 and trainer.context.device.type == "cpu":
        note(f"{method.name}: fp16 trains on a GPU alone; here it trains in fp32 (bf16 works on the CPU)")
    remedy = "; --set align.batches=balanced gives every batch some of each" if hasattr(method, "batches") else ""
    parts, what = parts_of(first_epoch, method.accumulate), "batches" if method.accumulate == 1 else "batches' parts"
    few = "no cell" if method.compared_from == 1 else f"fewer than {method.compared_from} cells"
    for number, share in enumerate(missing_from(parts, trainer.domain, len(trainer.names), method.compared_from)):
        if share:
            percent = f"{share:.0%}" if share >= 0.01 else "less than 1%"
            note(
                f"{method.name}: {percent} of the {what} have {few} of domain {str(trainer.names[number])!r} "
                f"({np.sum(trainer.domain == number)} of {len(trainer.domain)} cells), which is not compared there"
                + remedy
            )


def check_finite(trainer: Trainer, losses: torch.Tensor, first_step: int, batches: dict[int, np.ndarray]) -> None:
    """Stop at the first step whose loss is no number, and say where it came from.

    losses: (n, 1 + terms) of the steps from `first_step`, counted from 0; batches: the rows of each of those steps.
    """
    losses = losses.cpu()
    if bool(losses[:, 0].isfinite().all()):
        return
    index = int((~losses[:, 0].isfinite()).nonzero()[0, 0])
    number, method = first_step + index, trainer.method
    terms = [name for name, value in zip(trainer.columns[1:], losses[index, 1:], strict=True) if not value.isfinite()]
    epoch = number // trainer.steps_per_epoch + 1
    raise CellfeatError(
        f"align {method.name!r}: the loss became {losses[index, 0].item()} at step {number + 1} of {trainer.total} "
        f"(epoch {epoch} of {method.epochs}), by the term {', '.join(terms) or 'total'}; "
        + _cause(trainer.cells, batches[number], method.learning_rate)
    )


def _cause(cells: Cells, rows: np.ndarray, rate: float) -> str:
    broken = int((~np.isfinite(cells.read("map", rows)).reshape(len(rows), -1).all(axis=1)).sum())
    if broken:
        return (
            f"the feature maps of {broken} of the batch's {len(rows)} cells hold NaN or infinity: look at what the "
            "backbone gives, in fp32"
        )
    return f"try a lower learning rate (--set align.learning_rate={rate / 10:g}, now {rate:g}) or --precision fp32"


def example_rows(domain: np.ndarray) -> np.ndarray:
    """Rows of at most `EXAMPLES` cells, the domains in turn; domain: (N,) int."""
    number = np.empty(len(domain), int)  # of each cell within its domain
    for one in np.unique(domain):
        number[domain == one] = np.arange(np.sum(domain == one))
    return np.sort(np.lexsort((domain, number))[:EXAMPLES])
