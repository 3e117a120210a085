"""The example plugins of docs/examples: built as wheels and installed beside cellfeat, they work by being there."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import test_docs
import yaml
from test_layers import plugin_offences, work_on_import

from cellfeat.demo import write_demo

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "docs" / "examples"
NAMES = ("cellfeat-combat", "cellfeat-deep-coral")
RECIPES = {name: EXAMPLES / name / "recipes" / f"{name.removeprefix('cellfeat-')}.yaml" for name in NAMES}

IMAGES = 30  # of drawn cells, two of each class in each laboratory
QUICK = "--folds 2 --source lab-a --target lab-b --no-pictures --data demo/manifest.csv"
TINY = "--set align.model=test_resnet --set align.image_size=32 --set align.epochs=1"
COMBAT = f"run --recipe {shlex.quote(str(RECIPES['cellfeat-combat']))} --backbone colour {QUICK}"
COMMANDS = (
    f"{COMBAT} --out combat",
    f"{COMBAT} --align combat,coral --out chain",
    f"{COMBAT} --align per-domain-z,combat --set align.combat.reference=lab-b --out z",
    "predict chain demo/images --refit -o chain.csv",
    f"run --recipe {shlex.quote(str(RECIPES['cellfeat-deep-coral']))} {TINY} {QUICK} --out network",
    "predict network demo/images -o network.csv",
)
COMMAND_LINE = """
import shlex, sys
from cellfeat.cli import main
for line in sys.stdin.read().splitlines():
    sys.argv = ["cellfeat", *shlex.split(line)]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
    print("\\f")
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with both wheels installed in it, as a reader of the docs would get them."""
    folder = tmp_path_factory.mktemp("examples")
    for name in NAMES:  # copied, because a build leaves its traces beside the sources
        shutil.copytree(EXAMPLES / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    sources = [folder / name for name in NAMES]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder / "wheels", *sources], check=True)
    wheels = sorted((folder / "wheels").glob("*.whl"))
    assert [wheel.name.partition("-")[0] for wheel in wheels] == ["cellfeat_combat", "cellfeat_deep_coral"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", folder / "site", *wheels], check=True)
    return folder / "site"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A working folder with drawn cells, whose cache all tests here share."""
    folder = tmp_path_factory.mktemp("work")
    write_demo(folder / "demo", per_class=2, size=48)
    return folder


def variables(site: Path, place: Path) -> dict[str, str]:
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "CELLFEAT_CACHE": str(place / "cache")}


def python(site: Path, place: Path, *arguments: str | Path, typed: str = "") -> str:
    """What a program printed, which must have ended well."""
    command, around = [sys.executable, *arguments], variables(site, place)
    done = subprocess.run(command, cwd=place, env=around, input=typed, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def printed(site, place) -> list[str]:
    """What each of COMMANDS printed; all in one process, because each would spend five seconds on imports."""
    found = python(site, place, "-c", COMMAND_LINE, typed="\n".join(COMMANDS))
    return found.split("\f")


def test_both_are_listed_with_their_distributions(site, place):
    listing = python(site, place, "-m", "cellfeat.cli", "plugins", "list")
    for name, method in zip(NAMES, ("combat", "deep-coral"), strict=True):
        (line,) = [line for line in listing.splitlines() if name in line]
        assert f" {method} " in line


def test_the_vector_method_runs_alone_and_in_chains(printed, place):
    assert "colour · combat · svm-linear" in printed[0]
    assert "colour · combat+coral · svm-linear" in printed[1]
    assert "colour · per-domain-z+combat · svm-linear" in printed[2]
    resolved = yaml.safe_load((place / "z" / "recipe.yaml").read_text())["align"]
    assert resolved[1] == {"name": "combat", "reference": "lab-b", "tolerance": 1e-6}


def test_the_vector_method_predicts_for_a_new_laboratory_by_a_new_fit(printed, place):
    assert len((place / "chain.csv").read_text().splitlines()) == 1 + IMAGES


def test_the_network_runs_by_its_recipe_with_a_head_of_its_own_and_predicts(printed, place):
    assert "deep-coral" in printed[4]
    assert (place / "network" / "pipelines" / "lab-a" / "align-0" / "state.safetensors").is_file()
    assert not list((place / "network").rglob("classifier.skops"))
    record = (place / "network" / "records.jsonl").read_text().splitlines()[0]
    assert '"coral": [' in record  # its losses by epoch
    assert len((place / "network.csv").read_text().splitlines()) == 1 + IMAGES


@pytest.mark.parametrize("name", NAMES)
def test_its_own_tests_pass(name, site, place, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # those of this environment take seconds to load
    folder = shutil.copytree(EXAMPLES / name / "tests", place / name / "tests")
    shutil.copy(EXAMPLES / name / "pyproject.toml", folder.parent)
    python(site, folder.parent, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "cellfeat")


SOURCES = sorted(path for name in NAMES for path in (EXAMPLES / name).rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_it_imports_the_public_api_alone_and_does_nothing_on_import(path):
    package = path.relative_to(EXAMPLES).parts[0].replace("-", "_")
    assert plugin_offences(path.read_text(), package) == []
    if "src" in path.parts:
        assert work_on_import(path.read_text()) == []


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_whole_distribution(name):
    project = tomllib.loads((EXAMPLES / name / "pyproject.toml").read_text())["project"]
    assert (project["name"], project["license"], project["license-files"]) == (name, "MIT", ["LICENSE"])
    assert any(requirement.startswith("cellfeat>=") for requirement in project["dependencies"])
    package = project["entry-points"]["cellfeat"][name.removeprefix("cellfeat-")]
    for part in ("README.md", "LICENSE", f"src/{package}/py.typed", "tests/test_contract.py"):
        assert (EXAMPLES / name / part).is_file(), part


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_of_its_readme_exist(name, monkeypatch):
    page = EXAMPLES / name / "README.md"
    assert len(test_docs.commands(page)) > 4
    test_docs.test_commands_and_their_options_exist(page, monkeypatch)


def test_listing_them_loads_no_heavy_library(site, place):
    code = (
        "import sys, cellfeat_combat, cellfeat_deep_coral\n"
        "cellfeat_combat.cellfeat_align(), cellfeat_deep_coral.cellfeat_align()\n"
        "print(sorted({'torch', 'timm', 'sklearn', 'scipy', 'safetensors'} & set(sys.modules)))"
    )
    assert python(site, place, "-c", code) == "[]\n"
