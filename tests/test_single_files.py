"""Single files as plugins: found, loaded under names that hide nothing, told apart by their content."""

from __future__ import annotations

import hashlib
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cellfeat.errors import CellfeatError
from cellfeat.single_files import SingleFile, constants, found, is_single_file

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(tmp_path):
    """A folder with two files, a package, and what is no plugin."""
    (tmp_path / "mine.py").write_text("VALUE = 1\n")
    (tmp_path / "two-words.py").write_text("from . import mine\nVALUE = mine.VALUE + 1\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("from .part import VALUE\n")
    (tmp_path / "package" / "part.py").write_text("VALUE = 3\n")
    (tmp_path / "_helper.py").write_text("raise AssertionError\n")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "data").mkdir()
    return tmp_path


def test_files_and_packages_of_a_folder_are_found_and_loaded(folder):
    files = found([folder])
    assert [(file.name, file.distribution) for file in files] == [
        ("mine", "mine.py"),
        ("package", "package.py"),
        ("two-words", "two-words.py"),
    ]
    assert [file.load().VALUE for file in files] == [1, 3, 2]


@pytest.mark.parametrize("place", ["mine.py", "package"])
def test_a_file_or_a_package_can_be_given_by_itself(folder, place):
    [file] = found([folder / place])
    assert file.load().__name__ == f"cellfeat.prototypes.{Path(place).stem}"


def test_a_file_hides_no_installed_module_of_its_name(tmp_path):
    for name in ("json", "os", "cellfeat", "numpy"):
        (tmp_path / f"{name}.py").write_text("VALUE = 'mine'\n")
    for file in found([tmp_path]):
        assert file.load().VALUE == "mine"
    import json

    import numpy

    assert json.loads("1") == 1
    assert numpy.ones(1).sum() == 1
    assert SingleFile(tmp_path / "os.py").load().VALUE == "mine"


def test_the_version_is_the_digest_of_the_source(folder):
    file = SingleFile(folder / "mine.py")
    assert file.version == hashlib.sha256(b"VALUE = 1\n").hexdigest()[:12]
    assert is_single_file(file.distribution, file.version)
    package = SingleFile(folder / "package")
    before = package.version
    package.load()
    assert package.version == before, "compiled code is no source"
    (folder / "package" / "part.py").write_text("VALUE = 4\n")
    assert package.version != before
    (folder / "package" / "part.py").rename(folder / "package" / "other.py")
    assert len({before, package.version, SingleFile(folder / "package").version}) == 2


@pytest.mark.parametrize(("name", "version"), [("mine.py", "1.0"), ("mine", "0123456789ab"), ("discord.py", "2.3.2")])
def test_a_distribution_is_no_single_file(name, version):
    assert not is_single_file(name, version)


def test_two_of_one_name_are_refused_and_a_file_given_twice_is_one(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "mine.py").write_text("")
    with pytest.raises(CellfeatError, match=r"two plugins are called mine: .* and .*; rename one"):
        found([folder, other])
    assert len(found([folder, folder / "mine.py"])) == 3


def test_a_file_of_another_folder_takes_the_place_of_one_loaded_before(folder, tmp_path_factory):
    assert SingleFile(folder / "mine.py").load().VALUE == 1
    other = tmp_path_factory.mktemp("other")
    (other / "mine.py").write_text("VALUE = 7\n")
    assert SingleFile(other / "mine.py").load().VALUE == 7
    assert importlib.import_module("cellfeat.prototypes.mine").VALUE == 7


def test_a_folder_without_any_and_a_name_that_is_none_are_told(tmp_path):
    with pytest.raises(CellfeatError, match=r"has no plugin: no \*\.py file and no folder with __init__\.py"):
        found([tmp_path])
    (tmp_path / "a.b.py").write_text("")
    with pytest.raises(CellfeatError, match=r"a\.b\.py is no name for a plugin: letters, digits, - and _; rename it"):
        found([tmp_path])[0].load()


def test_a_child_process_of_the_same_environment_imports_it_by_name(folder):
    code = (
        "import importlib, cellfeat.prototypes.mine as mine; "
        "print(mine.VALUE, importlib.import_module('cellfeat.prototypes.package').VALUE)"
    )
    places = os.pathsep.join(map(str, (folder / "mine.py", folder / "package")))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CELLFEAT_PLUGINS_DIR": places}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("1 3\n", "")


def test_constants_are_read_without_running_the_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("import nowhere\nA = 1\nB: str = 'x'\nif A:\n    C = 2\nD = A + 1\ndef f():\n    E = 3\n")
    assert constants(path, ("A", "B", "C", "D", "E")) == {"A": 1, "B": "x"}
    path.write_text("A = 1\ndef (")
    assert constants(path, ("A",)) == {}
    assert constants(tmp_path / "absent.py", ("A",)) == {}
