"""What a record says of versions and hardware."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch

from cellfeat import provenance


def test_versions_are_those_installed():
    found = provenance.versions()
    assert found["python"] == platform.python_version()
    assert found["torch"] == version("torch")
    assert {"cellfeat", "numpy", "scikit-learn", "pillow", "opencv-python-headless"} <= set(found)


def test_a_package_that_is_not_installed_is_left_out(monkeypatch):
    def no_peft(name: str) -> str:
        if name == "peft":
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(provenance, "version", no_peft)
    assert "peft" not in provenance.versions()
    assert provenance.versions()["timm"] == "1"


def test_hardware_is_json_and_names_threads_and_device():
    found = provenance.hardware(torch.device("cpu"))
    assert json.loads(json.dumps(found)) == found
    assert found["threads"] == torch.get_num_threads()
    assert found["device"] == "cpu"
    assert found["cpu"]
    assert "gpu" not in found


def test_the_gpu_is_named_when_one_was_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU of {device}")
    assert provenance.hardware(torch.device("cuda:1"))["gpu"] == "GPU of cuda:1"


LINUX = sys.platform == "linux" and os.access("/proc/self/clear_refs", os.W_OK)


@pytest.mark.skipif(not LINUX, reason="the kernel's high-water mark can be set back on Linux alone")
def test_peak_memory_is_that_of_the_block():
    """In a process of its own, whose memory nothing else has filled."""
    program = (
        "import json, numpy as np, torch\n"
        "from cellfeat.provenance import peak_memory\n"
        "cpu, found = torch.device('cpu'), []\n"
        "np.ones(40_000_000)  # 320 MB, before any block\n"
        "for size in (0, 25_000_000, 0):\n"
        "    with peak_memory(cpu) as peak:\n"
        "        np.ones(size)\n"
        "    found.append(peak.memory)\n"
        "    assert peak.gpu is None\n"
        "print(json.dumps(found))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    before, large, after = json.loads(done.stdout)
    assert large - before == pytest.approx(200, abs=20)
    assert after - before == pytest.approx(0, abs=20)


def test_without_a_high_water_mark_that_can_be_set_back_the_processes_own_is_told(monkeypatch):
    def refuse(self, *_):
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr(Path, "read_text", refuse)
    with provenance.peak_memory(torch.device("cpu")) as peak:
        assert peak.memory is None
    assert 50 < peak.memory < 1_000_000


def test_the_gpus_peak_is_set_back_and_told_in_mb(monkeypatch):
    reset: list = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3_000_000 * len(reset))
    with provenance.peak_memory(torch.device("cuda:0")) as peak:
        pass
    assert peak.gpu == 3
    assert reset == [torch.device("cuda:0")]
