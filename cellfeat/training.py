"""What every fit shares: device and precision, seeded randomness, learning-rate schedules, checkpoints."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellfeat.artifacts import atomic_file
from cellfeat.distributed import is_main, local_index, process_count
from cellfeat.errors import CellfeatError

if TYPE_CHECKING:
    import torch

KEPT_DIGITS = 1e-5  # of the largest number: sums of thousands of float32 products err by 1e-6, of bfloat16 by 1e-3
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def choose_device(name: str = "auto") -> torch.device:
    """`auto` (CUDA, then Apple's MPS, then CPU), `cpu`, `cuda`, `cuda:N` or `mps`, refused when it is not there."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and process_count() > 1:
        name = f"cuda:{local_index()}"  # one GPU for each of the processes that `accelerate launch` started
    kind, colon, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (colon and not (kind == "cuda" and index.isdecimal())):
        raise CellfeatError(f"no device named {name!r}. Possible: auto, cpu, cuda, cuda:N, mps")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise CellfeatError(
            f"device {name!r} was asked for, but torch sees {torch.cuda.device_count()} CUDA devices; "
            "auto takes the best that there is"
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise CellfeatError(
            "device 'mps' was asked for, but this machine has no Apple GPU that torch can use; "
            "auto takes the best that there is"
        )
    return torch.device(name)


def choose_dtype(precision: str = "fp32") -> torch.dtype:
    """`fp32`, `bf16` or `fp16`."""
    import torch

    if precision not in PRECISIONS:
        raise CellfeatError(f"no precision named {precision!r}. Possible: {', '.join(PRECISIONS)}")
    return getattr(torch, PRECISIONS[precision])


@contextmanager
def autocast(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Mixed precision in `dtype` on `device`; float32 stays float32, see `fast_float32`."""
    import torch

    if dtype == torch.float32:
        with fast_float32(device):
            yield
    else:
        with torch.autocast(device.type, dtype=dtype):
            yield


@contextmanager
def fast_float32(device: torch.device) -> Iterator[None]:
    """Matrix products of float32 by the faster of a CPU's libraries; on another device nothing changes.

    oneDNN needs about half the time of torch's default library on AMD's processors. It is used where its results were
    seen to have float32's digits. What was set before is set again afterwards.
    """
    if device.type == "cpu" and _onednn_keeps_digits():
        with _by_onednn():
            yield
    else:
        yield


@contextmanager
def _by_onednn() -> Iterator[None]:
    """torch hands float32 products to oneDNN only where it may round, whether oneDNN then does or not."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@functools.cache
def _onednn_keeps_digits() -> bool:
    """Whether oneDNN's errors are float32's on this processor; those with units for bfloat16 round to three digits."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for shape in ((3136, 192, 768), (196, 768, 3072), (7, 33, 5)):  # of small and large networks, and an odd one
        left, right = torch.randn(shape[:2], generator=generator), torch.randn(shape[1:], generator=generator)
        exact = left.double() @ right.double()
        with _by_onednn():
            found = left @ right
        if (found - exact).abs().max() > KEPT_DIGITS * exact.abs().max():
            return False
    return True


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block (building a network, dropout) with torch's global generators seeded, then put them back."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """Factor on the base learning rate at 0-based `step`: linear over `warmup`, then half a cosine to 0 at `total`."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


class Checkpoint:
    """The newest state of one training run in `Context.scratch`, replaced atomically; several processes keep one.

    The state is a dictionary of tensors, numbers, strings and state dictionaries; it is read back `weights_only`.
    """

    seconds = 30.0  # between two checkpoints, at least

    def __init__(self, scratch: Path, name: str = "checkpoint") -> None:
        self.path = Path(scratch) / f"{name}.pt"
        self._saved, self._cost = time.monotonic(), 0.0

    def save(self, **state: Any) -> None:
        import torch

        if is_main():
            with atomic_file(self.path) as partial:
                torch.save(state, partial)

    def save_when_due(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Save what `state()` gives if the last time is long enough ago; to be called after every step."""
        if self.due():
            started = time.monotonic()
            self.save(**state())
            self._saved = time.monotonic()
            self._cost = self._saved - started

    def due(self) -> bool:
        """Whether it is time; the more a checkpoint costs the rarer it is: 1.5 GB on a slow disk must not eat a run."""
        return time.monotonic() - self._saved >= max(self.seconds, 20 * self._cost)

    def load(self) -> dict[str, Any] | None:
        """The last saved state, or None on a first start; what a killed run had half written goes."""
        import torch

        if is_main():
            for partial in self.path.parent.glob(f".{self.path.name}.*.partial{self.path.suffix}"):
                partial.unlink(missing_ok=True)
        return torch.load(self.path, weights_only=True, map_location="cpu") if self.path.is_file() else None
