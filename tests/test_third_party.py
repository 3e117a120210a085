"""A stranger's ten-line plugin, built as a wheel and installed beside cellfeat, works by being there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cellfeat.demo import write_demo

MODULE = """\
from cellfeat import SavesState, hookimpl
class UnitLength(SavesState):
    reads, writes, uses_target, uses_labels = ("pooled",), "pooled", False, False
    def fit(self, cells, context):
        return self
    def transform(self, cells, context):
        return cells.pooled / (1e-9 + (cells.pooled**2).sum(1, keepdims=True) ** 0.5)
@hookimpl
def cellfeat_align():
    return {"unit-length": UnitLength}
"""

PROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "cellfeat-unit-length"
version = "0.1"
[tool.setuptools]
py-modules = ["unit_length"]
[project.entry-points.cellfeat]
unit-length = "unit_length"
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """A fresh virtual environment that sees the packages of this one, with the plugin's wheel installed."""
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "unit_length.py").write_text(MODULE)
    (folder / "pyproject.toml").write_text(PROJECT)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder / "wheels", folder], check=True)
    site = folder / "site"
    (wheel,) = (folder / "wheels").glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", site, wheel], check=True)
    return site


def cellfeat(environment: Path, folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess:
    variables = {**os.environ, "PYTHONPATH": str(environment), "CELLFEAT_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "cellfeat.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)


def test_the_plugin_is_ten_lines():
    assert len(MODULE.splitlines()) == 10


def test_it_is_listed_and_runs_by_being_installed(environment, tmp_path):
    listing = cellfeat(environment, tmp_path, "plugins", "list")
    assert "unit-length" in listing.stdout
    assert "cellfeat-unit-length" in listing.stdout
    manifest = write_demo(tmp_path / "demo", per_class=2, size=48)
    done = cellfeat(
        environment, tmp_path, "run", "--data", manifest, "--backbone", "colour", "--align", "unit-length",
        "--folds", "2", "--source", "lab-a", "--out", "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "colour · unit-length · svm-linear" in done.stdout
    predicted = cellfeat(environment, tmp_path, "predict", "run", manifest.parent / "images", "-o", "answers.csv")
    assert predicted.returncode == 0, predicted.stderr


def test_it_passes_the_contract_checks(environment, tmp_path):
    code = (
        "import pathlib, unit_length; from cellfeat.testing import check_align; "
        f"check_align(unit_length.UnitLength, pathlib.Path({str(tmp_path)!r}))"
    )
    variables = {**os.environ, "PYTHONPATH": str(environment)}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_it_the_name_is_unknown(tmp_path):
    done = cellfeat(tmp_path, tmp_path, "run", "--align", "unit-length")
    assert done.returncode == 2
    assert "no align named 'unit-length'" in done.stderr
