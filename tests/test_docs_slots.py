"""The worked example of every slot's page is a plugin that passes the kit, and its commands run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cellfeat.testing import examine

SLOTS = Path(__file__).resolve().parent.parent / "docs" / "plugins"


def block(slot: str, language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", (SLOTS / f"{slot}.md").read_text(), re.MULTILINE | re.DOTALL)
    return found


def commands(slot: str) -> list[list[str]]:
    return [shlex.split(line)[1:] for line in block(slot, "sh").splitlines()]


@pytest.fixture(params=["align", "backbone", "segmenter", "classifier"])
def example(request, tmp_path) -> tuple[str, Path]:
    """A slot, and its page's example as the file that the page's commands name."""
    check, run = commands(request.param)
    (file,) = {words[words.index("--plugins-dir") + 1] for words in (check, run)}
    path = tmp_path / file
    path.write_text(block(request.param, "python"))
    return request.param, path


def test_the_example_passes_every_check(example, monkeypatch, tmp_path):
    slot, path = example
    monkeypatch.syspath_prepend(str(path.parent))
    module = __import__(path.stem)
    ((name, factory),) = getattr(module, f"cellfeat_{slot}")().items()
    assert name == path.stem.replace("_", "-")
    report = examine(slot, factory, name=name)
    report.raise_failures()
    if slot == "segmenter":
        shown = {one.check for one in report.findings if one.passed}
        assert shown >= {"detect", "cell-diameter"}, "none of them is skipped"
    sys.modules.pop(path.stem)


def test_its_commands_run(example, laboratories, tmp_path):
    slot, path = example
    environment = {**os.environ, "CELLFEAT_CACHE": str(tmp_path / "cache")}
    check, run = commands(slot)
    only = ["--only", "shape" if slot in ("align", "segmenter") else "runs"]
    small = ["--data", str(laboratories), "--source", "lab-a", "--folds", "2", "--out", "run"]
    for words in ([*check, *only], [*run, *small]):
        command = [sys.executable, "-m", "cellfeat", *words]
        done = subprocess.run(command, cwd=path.parent, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    assert path.stem.replace("_", "-") in done.stdout
