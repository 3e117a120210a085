"""How many images go through a backbone at once: chosen once per way of encoding, halved where memory runs out.

The size decides by which kernels a network is computed, and so the last digits of its features: it is part of a
store's identity, and what was chosen is remembered beside the stores.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellfeat.artifacts import atomic_file
from cellfeat.errors import CellfeatError
from cellfeat.store import fingerprint

if TYPE_CHECKING:
    import torch

ON_CPU, ON_GPU = 16, 128  # of images of USUAL_SIDE px; larger batches win nothing on a CPU
USUAL_SIDE = 224
OUT_OF_MEMORY = (
    "out of memory",
    "cublas_status_alloc_failed",
    "can't allocate memory",
    "not enough memory",
    "cannot allocate memory",
)


def usual_batch(device: torch.device, side: int) -> int:
    """Images of `side` px at once: a power of two, fewer where they are larger."""
    most = ON_CPU if device.type == "cpu" else ON_GPU
    while most > 1 and most * side**2 > (ON_CPU if device.type == "cpu" else ON_GPU) * (1.5 * USUAL_SIDE) ** 2:
        most //= 2
    return most


def device_name(device: torch.device) -> str:
    """What tells devices of different memory apart."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


class BatchSize:
    """The size that encoding in a way begins with, or was brought to by an earlier lack of memory."""

    def __init__(self, root: Path, way: Mapping[str, Any], wanted: int) -> None:
        self._path = Path(root) / f"{fingerprint({**way, 'wanted': wanted})[:20]}.batch"
        self._wanted = wanted

    @property
    def value(self) -> int:
        try:
            return int(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return self._wanted

    def halve(self, tried: int, reason: BaseException) -> str:
        """Half of what was tried from now on; gives what the user should know.

        Raises: CellfeatError where one image at a time is too much already.
        """
        if tried == 1:
            raise CellfeatError(
                f"memory is too small to encode one image at a time ({_first_line(reason)}); choose a smaller backbone "
                "or image_size, or close other programs"
            ) from None
        with atomic_file(self._path) as partial:
            partial.write_text(str(tried // 2))
        return (
            f"memory ran out encoding {tried} images at once; from now on {tried // 2} at once, also in later runs "
            f"(until {self._path} is deleted). What this run had encoded is encoded again"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, of torch on any device or of NumPy, says that memory is too small."""
    return isinstance(error, MemoryError) or any(text in str(error).lower() for text in OUT_OF_MEMORY)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
