"""Training on several processes: `accelerate launch -m cellfeat run …` starts the same command once per GPU.

Every process goes through the whole command, and they meet in the training steps. The first one, `is_main()`, talks,
encodes and writes; alone, a process is the main one and everything here costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from cellfeat.errors import CellfeatError
from cellfeat.slots import Context

if TYPE_CHECKING:
    import numpy as np
    import torch
    from accelerate import Accelerator

PATIENCE = timedelta(days=7)  # others wait while the main process encodes; the libraries' 10 to 30 minutes are too few
PLAIN = ("NO", "MULTI_CPU", "MULTI_GPU")  # kinds of work in which every process has the whole network
MIXED_PRECISION = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


def process_count() -> int:
    """How many processes work on this command; 1 without a launcher.

    Schedulers set WORLD_SIZE for purposes of their own; a launcher says which process this is, too.
    """
    count = os.environ.get("WORLD_SIZE", "1")
    return int(count) if count.isdecimal() and "RANK" in os.environ else 1


def process_index() -> int:
    """Which of them this is, from 0."""
    return int(os.environ.get("RANK", "0")) if process_count() > 1 else 0


def local_index() -> int:
    """Which process on this machine this is, from 0: the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0")) if process_count() > 1 else 0


def is_main() -> bool:
    """Whether this process is the one that talks and writes."""
    return process_index() == 0


@contextmanager
def main_first(device: torch.device) -> Iterator[None]:
    """Run a block in the main process, then in all others: what the first puts into a cache, the others find there."""
    if process_count() == 1:
        yield
        return
    state = _joined(device)
    if not state.is_main_process:
        state.wait_for_everyone()
    try:
        yield
    finally:
        if state.is_main_process:
            state.wait_for_everyone()


def meet(device: torch.device) -> None:
    """Wait until every process is here."""
    if process_count() > 1:
        _joined(device).wait_for_everyone()


@contextmanager
def accelerated(context: Context, accumulate: int = 1, all_used: bool = True) -> Iterator[Accelerator]:
    """An `accelerate.Accelerator` for one training, in the context's precision; device placement stays the caller's.

    accumulate: backward passes per optimiser step. all_used: whether every trained parameter takes part in each step.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState, GradientState, PartialState
    from accelerate.utils import GradientAccumulationPlugin

    states = (AcceleratorState, GradientState, *(() if process_count() > 1 else (PartialState,)))
    with _kept(states):  # accelerate has one of each per process; another training may want another precision
        _joined(context.device)
        accelerator = Accelerator(
            device_placement=False,
            mixed_precision=MIXED_PRECISION[str(context.dtype).removeprefix("torch.")],
            # As a plugin, because an environment variable would win over the plain number.
            gradient_accumulation_plugin=GradientAccumulationPlugin(accumulate, sync_with_dataloader=False),
            cpu=context.device.type == "cpu",
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=not all_used)],
        )
        if accelerator.distributed_type.value not in PLAIN:
            raise CellfeatError(
                f"training under accelerate's {accelerator.distributed_type.value} is not possible here; launch with "
                "--multi_gpu, or alone"
            )
        yield accelerator
        accelerator.free_memory()


@contextmanager
def _kept(states: tuple[Any, ...]) -> Iterator[None]:
    """Empty these shared states of accelerate for a block, then put back what was in them."""
    before = [dict(state._shared_state) for state in states]
    for state in states:
        state._shared_state.clear()
    try:
        yield
    finally:
        for state, content in zip(states, before, strict=True):
            state._shared_state.clear()
            state._shared_state.update(content)


def _joined(device: torch.device) -> Any:
    """accelerate's state of this process, connected with the others where there are any."""
    from accelerate import PartialState

    patience = {"timeout": PATIENCE} if process_count() > 1 else {}
    return PartialState(cpu=device.type == "cpu", **patience)


class Part(NamedTuple):
    """The rows of one backward pass of this process, and the factors that make all passes add up to the batch's mean.

    rows: (b,) positions in the batch. cells: factor of means over these rows; 0 for a stand-in, where there are fewer
    rows than processes. whole: factor of what is computed alike in all processes. most: rows of the largest share.
    """

    rows: np.ndarray
    cells: float
    whole: float
    most: int


def divided(count: int, accumulate: int = 1) -> list[Part]:
    """The passes of this process over a batch of `count` rows: `accumulate` parts, each shared by all processes.

    The factors are relative to the means over parts and processes that gradient accumulation and
    DistributedDataParallel take.
    """
    import numpy as np

    processes, parts = process_count(), []
    for piece in np.array_split(np.arange(count), accumulate):
        own = np.array_split(piece, processes)[process_index()]
        rows = own if len(own) else np.zeros(1, int)
        cells, whole = len(own) * processes * accumulate / count, len(piece) * accumulate / count
        parts.append(Part(rows, cells, whole, max(1, -(-len(piece) // processes))))
    return parts


def gather_rows(values: torch.Tensor) -> torch.Tensor:
    """(B, …) of every process, equally many rows each, as (P * B, …); gradients flow back to where rows came from.

    With a loss that every process computes alike from the gathered rows, and gradients averaged over the processes
    as DistributedDataParallel does, the result is the gradient of one process that had all rows.
    """
    if process_count() == 1:
        return values
    return _gather_function().apply(values)


def _gather_function() -> Any:
    import torch
    from torch import distributed

    class Gather(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
            parts = [torch.empty_like(values) for _ in range(process_count())]
            distributed.all_gather(parts, values.contiguous())
            return torch.cat(parts)

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            gradient = gradient.contiguous()
            distributed.all_reduce(gradient)
            return gradient.chunk(process_count())[process_index()]

    return Gather
