"""What a record says of versions and hardware."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version

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
