"""Optional packages: known by the extra that brings them, and missed with the command that installs them."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from cellfeat.errors import CellfeatError
from cellfeat.extras import OPTIONAL, import_extra

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {name: {Requirement(line).name for line in lines} for name, lines in PROJECT["optional-dependencies"].items()}


@pytest.mark.parametrize("module", OPTIONAL)
def test_the_extra_that_is_named_brings_the_package_and_no_base_install_does(module):
    distribution, extra = OPTIONAL[module]
    assert distribution in EXTRAS[extra]
    assert distribution not in {Requirement(line).name for line in PROJECT["dependencies"]}


def test_all_is_every_extra_but_those_of_developers():
    (line,) = PROJECT["optional-dependencies"]["all"]
    assert Requirement(line).extras == set(EXTRAS) - {"all", "dev", "docs"}


def test_the_page_on_installing_names_every_extra():
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert [name for name in EXTRAS if f"`{name}`" not in page] == []


def test_an_absent_package_is_named_with_its_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(CellfeatError) as caught:
        import_extra("umap", "--embedding umap", "tsne needs nothing")
    assert str(caught.value) == (
        '--embedding umap needs umap-learn, which is not installed: pip install "cellfeat[report]" (tsne needs nothing)'
    )


def test_a_package_that_is_broken_says_why(monkeypatch, tmp_path):
    (tmp_path / "onnxscript.py").write_text("raise ImportError('built for another\\nNumPy')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "onnxscript", raising=False)
    with pytest.raises(CellfeatError, match=r"onnxscript, which cannot be imported \(built for another NumPy\): pip"):
        import_extra("onnxscript", "the export")


def test_a_module_of_a_package_is_found_by_the_package(monkeypatch):
    for name in ("torchstain", "torchstain.numpy", "torchstain.numpy.utils"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(CellfeatError, match=r'needs torchstain, .*"cellfeat\[alignment\]"'):
        import_extra("torchstain.numpy.utils", "align 'reinhard'")
