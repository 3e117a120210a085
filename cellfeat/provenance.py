"""What a record says about where it was made: versions and hardware."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PACKAGES = (
    "cellfeat",
    "torch",
    "torchvision",
    "timm",
    "peft",
    "segment-anything",
    "scikit-learn",
    "xgboost",
    "numpy",
    "scipy",
    "pillow",
    "opencv-python-headless",
    "POT",
    "torchstain",
)


def versions() -> dict[str, str]:
    """Of Python and of every package that can change a number."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a plugin's library that this installation does without
            continue
    return found


def hardware(device: torch.device) -> dict[str, Any]:
    """CPU model, cores and threads; the GPU's name when one was used."""
    import torch

    found: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": str(device),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


@dataclass
class Peak:
    """Most memory that this process held, and a GPU had given out, in MB; None where the system does not tell."""

    memory: float | None = None
    gpu: float | None = None

    def or_more(self, other: Peak) -> Peak:
        """The larger of both."""
        memory = [one for one in (self.memory, other.memory) if one is not None]
        gpu = [one for one in (self.gpu, other.gpu) if one is not None]
        return Peak(max(memory, default=None), max(gpu, default=None))


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure a block. On Linux the kernel's high-water mark is set back first, so that it is the block's own."""
    import torch

    peak, reset = Peak(), Path("/proc/self/clear_refs")
    with suppress(OSError):  # elsewhere than on Linux, or not permitted: then the mark is the process's so far
        reset.write_text("5")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    yield peak
    peak.memory = _high_water()
    if device.type == "cuda":
        peak.gpu = torch.cuda.max_memory_allocated(device) / 1e6


def _high_water() -> float | None:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if platform.system() == "Darwin" else most * 1024 / 1e6


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
