"""The image: what its files say is checked everywhere, and it is built where an engine runs."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
STAGES = re.split(r"^(?=FROM )", DOCKERFILE, flags=re.MULTILINE)[1:]


def lines(word: str, stage: str = DOCKERFILE) -> list[str]:
    """The arguments of every instruction of a name."""
    return re.findall(rf"^{word} (.*)$", stage, re.MULTILINE)


def ignored(name: str) -> bool:
    """Whether .dockerignore keeps a file or folder right below the repository from the engine; the last rule wins."""
    out = False
    for rule in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if rule and not rule.startswith("#") and fnmatch.fnmatch(name, rule.removeprefix("!")):
            out = not rule.startswith("!")
    return out


def test_what_is_copied_exists_and_reaches_the_engine():
    copied = [words.split()[:-1] for words in lines("COPY") if "--from" not in words]
    names = [name for words in copied for name in words]
    assert {"cellfeat", "plugins", "pyproject.toml"} <= set(names)
    assert all((ROOT / name).exists() for name in names)
    assert not [name for name in names if ignored(name)]
    for name in (".git", "tests", "docs", "benchmarks", "runs", ".venv", "shared", "CHANGELOG.md"):
        assert ignored(name), f"{name} has nothing to do in an image"
    assert PROJECT["readme"] in names
    assert set(PROJECT["license-files"]) <= set(names), "without them no wheel is built"


def test_what_is_copied_is_enough_for_the_wheel(tmp_path):
    """The first stage, done without an engine."""
    stage = tmp_path / "source"
    stage.mkdir()
    for words in lines("COPY", STAGES[0]):
        *names, _ = words.split()
        for name in names:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, stage / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                shutil.copy(ROOT / name, stage)
    assert "python -m pip wheel --no-cache-dir --no-deps" in lines("RUN", STAGES[0])[0]
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
        stage,
    ]
    subprocess.run(command, check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"cellfeat-{PROJECT['version']}-py3-none-any.whl"
    assert wheel.stat().st_size > 8e6, "the weights are in it"


def test_versions_agree_with_the_project():
    (python,) = re.findall(r"^ARG PYTHON=(.*)$", DOCKERFILE, re.MULTILINE)
    assert SpecifierSet(PROJECT["requires-python"]).contains(python)
    assert all("python:${PYTHON}-slim" in stage.splitlines()[0] for stage in STAGES)
    declared = {Requirement(line).name: Requirement(line) for line in PROJECT["dependencies"]}
    assert f'"{declared["torch"]}" torchvision' in DOCKERFILE


def test_the_image_runs_as_nobody_in_particular_and_keeps_its_cache():
    last = STAGES[-1]
    (user,) = lines("USER", last)
    assert user not in ("root", "0")
    assert f"--uid 1000 {user}" in last
    assert lines("VOLUME", last) == ["/cache"]
    assert "CELLFEAT_CACHE=/cache" in lines("ENV", last)[-1]
    assert "install -d -m 1777 /cache" in last, "with --user of the one who starts it"
    assert lines("ENTRYPOINT", last) == ['["cellfeat"]']
    assert last.index("USER") < last.index("RUN cellfeat --version"), "tried as who it will be"
    assert not re.search(r"password|token|secret|ADD http|curl|sudo", DOCKERFILE, re.IGNORECASE)


def test_the_docs_build_both_variants():
    text = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert "docker build -t cellfeat ." in text
    for argument in re.findall(r"--build-arg (\w+)=", text):
        assert argument in re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE)
    assert "--build-arg TORCH_INDEX=https://pypi.org/simple" in text


def test_the_image_is_built_and_works():
    """Minutes, where an engine runs; elsewhere it says why not."""
    if shutil.which("docker") is None:
        pytest.skip("no docker command on this machine")
    engine = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=60)
    if engine.returncode:
        pytest.skip(f"no Docker engine answers here: {engine.stderr.strip().splitlines()[-1]}")
    subprocess.run(["docker", "build", "-t", "cellfeat-test", ROOT], check=True, timeout=3000)
    run = ["docker", "run", "--rm", "--network", "none", "cellfeat-test"]
    said = subprocess.run([*run, "--version"], check=True, capture_output=True, text=True, timeout=120).stdout
    assert said == f"cellfeat {PROJECT['version']}\n"
    subprocess.run([*run, "data", "demo", "/tmp/demo", "--per-class", "1"], check=True, timeout=300)
