"""torch and the device it would use, looked at in a process of its own: an installation may crash its process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from cellfeat import machine
from cellfeat.findings import NOTE, OK, PROBLEM, Finding

SECONDS = 180.0  # to import torch from a slow network drive
HOW_TO_INSTALL = "https://pytorch.org/get-started/locally"
PROBE = """
import json, sys
found = {}
try:
    import torch
    found["torch"] = torch.__version__
    found["build"] = torch.version.cuda
    found["hip"] = getattr(torch.version, "hip", None)
    found["threads"] = torch.get_num_threads()
    found["mps"] = torch.backends.mps.is_available()
    import warnings
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found["available"] = torch.cuda.is_available()
    found["said"] = [str(one.message).splitlines()[0] for one in said]
    found["gpus"] = []
    for number in range(torch.cuda.device_count() if found["available"] else 0):
        free, total = torch.cuda.mem_get_info(number)
        found["gpus"].append([torch.cuda.get_device_name(number), free, total])
except BaseException as error:
    found["torch_error"] = " ".join(f"{type(error).__name__}: {error}".split())
else:
    try:
        import torchvision
        found["torchvision"] = torchvision.__version__
        boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1]])
        assert len(torchvision.ops.nms(boxes, torch.tensor([1.0, 0.5]), 0.5)) == 1
    except BaseException as error:
        found["torchvision_error"] = " ".join(f"{type(error).__name__}: {error}".split())
print("\\n" + json.dumps(found))
"""


def torch_and_device() -> Iterator[Finding]:
    """torch and device."""
    found = probed()
    if "torch_error" in found:
        remedy = "pip install --force-reinstall torch torchvision"
        yield Finding("torch", PROBLEM, f"cannot be imported: {found['torch_error']}", remedy)
        return
    if "torchvision_error" in found:
        text = f"does not go with torch {found['torch']}: {found['torchvision_error']}"
        remedy = "pip install --upgrade torch torchvision (both at once, so that they fit)"
        yield Finding("torchvision", PROBLEM, text, remedy)
    else:
        yield Finding("torch", OK, f"{found['torch']}, with torchvision {found['torchvision']}")
    yield device(found)
    set_by = " (set by OMP_NUM_THREADS)" if os.environ.get("OMP_NUM_THREADS") else ""
    yield Finding("cores", OK, f"{machine.cores()} for this process, {found['threads']} threads of torch{set_by}")


def probed() -> dict[str, Any]:
    """What a fresh process says of torch; `torch_error` where it cannot."""
    try:
        command = [sys.executable, "-P", "-c", PROBE]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS)
        return json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"torch_error": f"no answer within {SECONDS:g} s"}
    except (IndexError, ValueError):  # it died before its last line
        pass
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return {"torch_error": f"its process ended with status {done.returncode} {last}".strip()}


def device(found: dict[str, Any]) -> Finding:
    """Which device `--device auto` takes, and why no better one."""
    if found["gpus"]:
        each = (f"{name}, {machine.told(free)} of {machine.told(total)} free" for name, free, total in found["gpus"])
        with_ = f"driver {nvidia_driver() or 'unknown'}, torch built for {_built_for(found)}"
        return Finding("device", OK, f"{'; '.join(each)}; {with_}")
    if found["mps"]:
        return Finding("device", OK, "Apple GPU (MPS)")
    driver, build = nvidia_driver(), _built_for(found)
    if driver and os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return Finding("device", NOTE, "the CPU: CUDA_VISIBLE_DEVICES hides the GPU", "unset CUDA_VISIBLE_DEVICES")
    if driver and not build:
        text = f"the CPU: there is an NVIDIA driver ({driver}), but this torch is built for CPUs"
        return Finding("device", NOTE, text, f"install torch for CUDA: {HOW_TO_INSTALL}")
    if driver:
        said = f" ({'; '.join(found['said'])})" if found["said"] else ""
        text = f"the CPU: torch is built for {build}, the driver is {driver}, and they do not work together{said}"
        return Finding(
            "device", PROBLEM, text, f"update the driver, or install a torch for an older CUDA: {HOW_TO_INSTALL}"
        )
    if build:
        text = f"the CPU: torch is built for {build}, but no driver of a GPU was found"
        return Finding("device", NOTE, text, "where there is a GPU, install its driver; else nothing")
    return Finding("device", OK, "the CPU: torch is built for CPUs, and no GPU was found")


def _built_for(found: dict[str, Any]) -> str:
    return f"CUDA {found['build']}" if found["build"] else f"ROCm {found['hip']}" if found["hip"] else ""


def nvidia_driver() -> str:
    """The version of NVIDIA's driver, "" where there is none."""
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=30)
        return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else ""
    except (OSError, subprocess.TimeoutExpired):
        return ""
