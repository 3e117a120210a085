"""What is released: an sdist and a wheel with everything in them, installed where nothing of this checkout is."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import cellfeat
from cellfeat.demo import write_demo
from cellfeat.extras import OPTIONAL

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BY_NAME = ("import_module", "import_extra", "__import__")
TRACES = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*", "build", "dist", "site", "runs")


class Built(NamedTuple):
    sdist: Path
    wheel: Path  # made from the sdist
    direct: Path  # made from the sources


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Built:
    """The distributions of a copy of this checkout, as a release builds them; without network."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    source.mkdir()
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, source)
    for name in ("cellfeat", "plugins", "tests"):  # tests are there to be left out
        shutil.copytree(ROOT / name, source / name, ignore=TRACES)
    for out, what in {"dist": [], "direct": ["--wheel"]}.items():
        command = [sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", folder / out, source]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    (sdist,), (wheel,), (direct,) = (
        (folder / "dist").glob("*.tar.gz"),
        (folder / "dist").glob("*.whl"),
        (folder / "direct").glob("*.whl"),
    )
    return Built(sdist, wheel, direct)


def contents(wheel: Path) -> dict[str, int]:
    """{name: checksum} of a wheel's files."""
    with zipfile.ZipFile(wheel) as archive:
        return {one.filename: one.CRC for one in archive.infolist()}


def sources() -> set[str]:
    """Every file of the packages, as it is named where they are installed."""
    packages = [ROOT / "cellfeat", *(path for path in (ROOT / "plugins").iterdir() if (path / "__init__.py").is_file())]
    files = (path for package in packages for path in package.rglob("*") if path.is_file())
    kept = (path for path in files if "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix().removeprefix("plugins/") for path in kept}


def test_the_wheel_is_every_file_of_the_packages_and_nothing_else(built):
    found = set(contents(built.wheel))
    about = {name for name in found if ".dist-info/" in name}
    assert found - about == sources()
    assert {name.partition("/")[2] for name in about} == {
        "METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt", "licenses/LICENSE",
    }  # fmt: skip
    assert {"cellfeat/py.typed", "cellfeat/recipes/demo.yaml", "cellfeat/templates/report.html"} <= found
    assert "cellfeat_lora_sam/weights/cell-tiny-v1.safetensors" in found
    assert "cellfeat_lora_sam/weights/cell-detector-v1.safetensors" in found
    assert "cellfeat/templates/plugin/common/pyproject.toml.jinja" in found


def test_the_sdist_builds_the_wheel_of_the_sources_and_has_no_test_data(built):
    assert contents(built.wheel) == contents(built.direct)
    with tarfile.open(built.sdist) as archive:
        names = {one.name.partition("/")[2] for one in archive if one.isfile()}
    outside = {name for name in names if not name.startswith(("cellfeat/", "plugins/", "cellfeat.egg-info/"))}
    assert outside == {
        "CHANGELOG.md", "CITATION.cff", "LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml",
        "setup.cfg",
    }  # fmt: skip


def test_the_metadata_are_those_of_the_project(built):
    with zipfile.ZipFile(built.wheel) as archive:
        (name,) = [one for one in archive.namelist() if one.endswith("/METADATA")]
        about = Parser().parsestr(archive.read(name).decode())
    assert (about["Name"], about["Version"], about["License-Expression"]) == (
        "cellfeat",
        PROJECT["version"],
        "Apache-2.0",
    )
    assert set(about.get_all("Provides-Extra") or []) == set(PROJECT["optional-dependencies"])
    assert about["Requires-Python"] == PROJECT["requires-python"]


def test_the_version_has_one_source():
    files = [path for path in (ROOT / "cellfeat").rglob("*.py") if f'"{PROJECT["version"]}"' in path.read_text("utf-8")]
    assert files == [], "the version stands in pyproject.toml alone"
    assert cellfeat.__version__ == PROJECT["version"], "install again: pip install -e ."


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> dict[str, str]:
    """Variables of a fresh environment with the wheel, which sees the packages that it needs, not this checkout."""
    folder = tmp_path_factory.mktemp("fresh")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    pip = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", built.wheel], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {
        **kept,
        "PATH": f"{environment}/bin:{os.environ['PATH']}",
        "CELLFEAT_CACHE": str(folder / "cache"),
        "CELLFEAT_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def called(environment: dict[str, str], folder: Path, *words: str) -> str:
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout + done.stderr


def test_the_installed_wheel_runs_from_any_folder_offline(installed, tmp_path):
    assert called(installed, tmp_path, "cellfeat", "--version") == f"cellfeat {PROJECT['version']}\n"
    place = called(
        installed,
        tmp_path,
        "python",
        "-c",
        "import cellfeat, cellfeat_da; print(cellfeat.__file__, cellfeat_da.__file__)",
    )
    assert all(str(Path(installed["PATH"].partition("/bin:")[0])) in path for path in place.split())
    write_demo(tmp_path / "demo", per_class=2, size=48)
    transfer = ["--folds", "2", "--source", "lab-a", "--target", "lab-b"]
    said = called(
        installed,
        tmp_path,
        "cellfeat",
        "run",
        "--data",
        "demo/manifest.csv",
        "--align",
        "per-domain-z",
        *transfer,
        "-o",
        "run",
    )
    assert "lab-a → lab-b" in said
    assert "Next: cellfeat predict run IMAGES --refit -o predictions.csv" in said


def dependencies() -> dict[str, set[str]]:
    """{distribution: extras that bring it}, "" for the base, of pyproject.toml."""
    found: dict[str, set[str]] = {}
    lines = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    for extra, requirements in lines.items():
        for line in requirements:
            found.setdefault(canonicalize_name(Requirement(line).name), set()).add(extra)
    return found


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, top-level module) of every import in a file, in functions too, and of modules imported by their name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, str(node.module).partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in BY_NAME:
            yield from (
                (node.lineno, str(one.value).partition(".")[0])
                for one in node.args[:1]
                if isinstance(one, ast.Constant)
            )


def undeclared(paths: Iterator[Path], declared: set[str]) -> list[str]:
    homes = packages_distributions()
    found = []
    for path in paths:
        for line, module in imported(path):
            if module in sys.stdlib_module_names or module.split("_")[0] == "cellfeat":
                continue
            known = OPTIONAL.get(module, ("", ""))[0]
            if not {canonicalize_name(name) for name in (*homes.get(module, ()), known)} & declared:
                found.append(f"{path.relative_to(path.parents[1])}:{line}: {module}")
    return found


def test_every_package_that_is_imported_is_declared(tmp_path):
    files = [*(ROOT / "cellfeat").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
    assert undeclared(iter(files), set(dependencies()) - {"cellfeat"}) == []
    (tmp_path / "x.py").write_text("import yaml\ndef f():\n    import scanpy.pp\n    import_module('skada.deep')\n")
    without = set(dependencies()) - {"scanpy", "skada"}
    assert [one.rpartition(": ")[2] for one in undeclared(iter([tmp_path / "x.py"]), without)] == ["scanpy", "skada"]


@cache
def base_distributions() -> frozenset[str]:
    """What an installation without extras brings, with what that needs in turn, on this machine."""
    found: set[tuple[str, str]] = set()  # (distribution, extra of it)
    waiting = [Requirement(line) for line in PROJECT["dependencies"]]
    while waiting:
        wanted = waiting.pop()
        for extra in {"", *wanted.extras}:
            key = canonicalize_name(wanted.name), extra
            if key not in found:
                found.add(key)
                needs = [Requirement(line) for line in _requires(key[0])]
                waiting += [one for one in needs if one.marker is None or one.marker.evaluate({"extra": extra})]
    return frozenset(name for name, _ in found)


def _requires(name: str) -> list[str]:
    try:
        return requires(name) or []
    except PackageNotFoundError:  # for another platform
        return []


BASE_ONLY = """
import shlex, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

blocked = set(sys.stdin.readline().split())
sys.meta_path.insert(0, Absent())
from cellfeat.cli import main
for line in sys.stdin.read().splitlines():
    sys.argv = ["cellfeat", *shlex.split(line)]
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    print(f"\\f{code}", file=sys.stderr, flush=True)
"""
MAIN_JOB = (
    "data index folders ward --domain ward -o m.csv",
    "data labels m.csv -o labels.yaml",
    "data demo demo --per-class 2 --size 48",
    "run --data demo/manifest.csv --labels five-class --backbone colour --align per-domain-z,coral --folds 2 "
    "--source lab-a --target lab-b -o run",
    "report run --figures svg",
    "predict run ward --refit -o predictions.csv",
    "extract demo/manifest.csv --backbone colour -o features.parquet",
    "plugins list",
)
WITH_EXTRAS = {
    "report run --embedding umap -o page.html": "report",
    "extract demo/manifest.csv --backbone colour -o features.h5ad": "anndata",
    "extract demo/manifest.csv --backbone colour --engine ray -o by-ray.parquet": "ray",
    "extract s3://bucket/cells.csv --backbone colour -o far.parquet": "cloud",
    "run --data demo/manifest.csv --backbone colour --align ot-linear --folds 2 --source lab-a -o o": "alignment",
    "run --data demo/manifest.csv --backbone colour --align macenko --folds 2 --source lab-a -o n": "alignment",
}


@pytest.fixture(scope="module")
def base_install(tmp_path_factory) -> dict[str, tuple[int, str]]:
    """{command: (exit status, what it said on stderr)} where no package of an extra can be imported."""
    folder = tmp_path_factory.mktemp("base")
    homes = packages_distributions()
    kept = base_distributions() | {"cellfeat"}
    blocked = {module for module, names in homes.items() if not {canonicalize_name(name) for name in names} & kept}
    assert {"pandas", "scanpy", "skada", "umap", "anndata", "pytest"} & homes.keys() <= blocked
    assert not {"torch", "sklearn", "lance", "numpy", "matplotlib"} & blocked
    write_demo(folder / "drawn", per_class=1, size=48)
    for word, name in {"Mono": "monocyte", "Eos": "eosinophil"}.items():
        (folder / "ward" / word).mkdir(parents=True)
        shutil.copy(next((folder / "drawn" / "images").glob(f"*{name}*")), folder / "ward" / word)
    commands = [*MAIN_JOB, *WITH_EXTRAS]
    environment = {**os.environ, "CELLFEAT_CACHE": str(folder / "cache"), "PYTHONSAFEPATH": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", BASE_ONLY], input="\n".join([" ".join(blocked), *commands]), cwd=folder, env=environment,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    said = done.stderr.split("\f")
    assert len(said) == len(commands) + 1, done.stderr[-4000:]
    codes = [int(part.split("\n")[0]) for part in said[1:]]
    texts = [said[0], *(part.partition("\n")[2] for part in said[1:-1])]
    return dict(zip(commands, zip(codes, texts, strict=True), strict=True))


def test_the_main_job_needs_no_extra(base_install):
    assert {command: base_install[command] for command in MAIN_JOB if base_install[command][0]} == {}


@pytest.mark.parametrize("command", WITH_EXTRAS)
def test_what_needs_an_extra_names_it(base_install, command):
    code, said = base_install[command]
    assert code == 2, said
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "which is not installed" in error or "needs the package" in error
    assert f'pip install "cellfeat[{WITH_EXTRAS[command]}]"' in error
