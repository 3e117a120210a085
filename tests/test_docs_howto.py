"""The modules of the page on training, weights and commands are what they say."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cellfeat.errors import CellfeatError
from cellfeat.testing import examine
from cellfeat.weights import weights_status

PAGE = Path(__file__).resolve().parent.parent / "docs" / "plugins" / "howto.md"
MODULES = {
    re.match(r"# (\w+)\.py\n", text)[1]: text
    for text in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
}

pytestmark = pytest.mark.usefixtures("warm")


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A function that imports a module of the page, which lies in `tmp_path`."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def imported(name: str):
        (tmp_path / f"{name}.py").write_text(MODULES[name])
        return importlib.import_module(name)

    yield imported
    for name in MODULES:
        sys.modules.pop(name, None)


def test_there_are_no_others():
    assert set(MODULES) == {"linear_probe", "stain_space", "commands"}


def test_the_training_passes_every_check(module):
    ((_, factory),) = module("linear_probe").cellfeat_align().items()
    report = examine("align", factory, {"epochs": 4})
    report.raise_failures()
    passed = {finding.check for finding in report.findings if finding.passed}
    assert {"resume", "progress", "head", "fresh-process"} <= passed


def test_the_backbone_finds_its_weights_and_says_so_before_it_is_built(module, tmp_path):
    CliRunner().invoke(module("commands").app, ["basis", str(tmp_path / "stain.safetensors")], catch_exceptions=False)
    space = module("stain_space")
    ((_, factory),) = space.cellfeat_backbone().items()
    report = examine("backbone", factory)
    report.raise_failures()
    assert "facts" in {finding.check for finding in report.findings if finding.passed}
    (row,) = weights_status(space.NAMED)
    assert (row.path, row.licence) == (tmp_path / "stain.safetensors", "CC0-1.0")


def test_the_command_overwrites_nothing(module, tmp_path):
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(CellfeatError, match="exists and is never overwritten"):
        CliRunner().invoke(module("commands").app, ["basis", str(tmp_path / "kept")], catch_exceptions=False)
    assert (tmp_path / "kept").read_text() == "mine"
