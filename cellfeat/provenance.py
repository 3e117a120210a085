"""What a record says about where it was made: versions and hardware."""

from __future__ import annotations

import os
import platform
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


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
