"""`cellfeat plugins` and the options that say what loads, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cellfeat.demo import write_demo

ROOT = Path(__file__).resolve().parent.parent
MODULE = '''
from cellfeat import SavesState, hookimpl

class UnitLength(SavesState):
    """Every vector gets length 1."""

    reads, writes, uses_target, uses_labels = ("pooled",), "pooled", False, False

    def fit(self, cells, context):
        return self

    def transform(self, cells, context):
        return cells.pooled / (1e-9 + (cells.pooled**2).sum(1, keepdims=True) ** 0.5)

@hookimpl
def cellfeat_align():
    return {"unit-length": UnitLength}
'''


def install(site: Path, name: str, source: str, commands: str = "") -> None:
    """A distribution of one module, as pip leaves it."""
    module = name.replace("-", "_")
    (site / f"{module}.py").write_text(source)
    info = site / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\nLicense-Expression: MIT\n")
    points = f"[cellfeat]\n{name} = {module}\n" + (f"[cellfeat.commands]\n{commands}\n" if commands else "")
    (info / "entry_points.txt").write_text(points)


def cellfeat(folder: Path, *arguments: str | Path, site: Path | None = None, **variables: str):
    """Run the command; gives the finished process."""
    path = os.pathsep.join(map(str, filter(None, (site, ROOT, ROOT / "plugins"))))
    environment = {**os.environ, "PYTHONPATH": path, "CELLFEAT_CACHE": str(folder / "cache"), **variables}
    command = [sys.executable, "-m", "cellfeat", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A good plugin, one that raises on import, one for API 99, and one whose method declares nonsense."""
    folder = tmp_path_factory.mktemp("site")
    install(folder, "good", MODULE)
    install(folder, "raises", "print('printed on import')\nraise RuntimeError('no [GPU] here')")
    install(folder, "future", "from cellfeat import TimeSeries\nCELLFEAT_API_VERSION = 99\n")
    odd = MODULE.replace("unit-", "odd-").replace('"pooled", False, False', '"map", False, False')
    install(folder, "odd", odd)
    return folder


def test_json_is_all_that_goes_to_stdout_and_names_every_fault_with_its_remedy(site, tmp_path):
    done = cellfeat(tmp_path, "plugins", "list", "--json", site=site)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    [mine] = [one for one in found["offers"] if one["distribution"] == "good"]
    assert (mine["slot"], mine["name"], mine["version"]) == ("align", "unit-length", "1.0")
    assert mine["facts"]["licence"] == "MIT"
    assert {one["name"] for one in found["offers"]} >= {"cae", "svm-linear", "lora-sam", "otsu"}
    told = {one["plugin"]: (one["reason"], one["remedy"]) for one in found["broken"]}
    assert told == {
        "raises": (
            "RuntimeError: no [GPU] here (raises.py, line 2)",
            "tell the author of raises; -p no:raises leaves it out",
        ),
        "future": (
            "it is written for plugin API 99, this cellfeat has 1",
            "update cellfeat (pip install --upgrade cellfeat), or install a release of future for plugin API 1",
        ),
        "odd": (
            "align 'odd-length' of odd: writes is 'map', but must be 'pooled' or 'image'",
            "tell the author of odd",
        ),
    }


def test_people_are_told_both_too(site, tmp_path):
    out = cellfeat(tmp_path, "plugins", "list", site=site).stdout
    assert "broken: raises of raises: RuntimeError: no [GPU] here (raises.py, line 2)\n" in out
    assert "  what to do: tell the author of raises; -p no:raises leaves it out\n" in out
    info = cellfeat(tmp_path, "plugins", "info", "future", site=site)
    assert info.returncode == 0
    assert info.stdout.startswith("broken: future of future: it is written for plugin API 99")
    assert "what to do: update cellfeat" in info.stdout
    info = cellfeat(tmp_path, "plugins", "info", "unit-length", site=site).stdout
    for line in ("reads: pooled", "needs target images: no", "deterministic: yes", "plugin API: 1", "licence: MIT"):
        assert f"\n{line}\n" in info
    page = cellfeat(tmp_path, "plugins", "info", "unit-length", "--markdown", site=site).stdout
    assert page.startswith("# unit-length\n\nAlignment method of the plugin `good`")
    assert page.endswith("## Parameters\n\nNone.\n")


def test_requirements_are_lines_for_pip(site, tmp_path):
    done = cellfeat(tmp_path, "plugins", "list", "--requirements", site=site)
    assert "good==1.0" in done.stdout.splitlines()
    assert not any(line.startswith("cellfeat==") for line in done.stdout.splitlines())
    both = cellfeat(tmp_path, "plugins", "list", "--requirements", "--json", site=site)
    assert (both.returncode, both.stdout) == (2, "")
    assert "--json and --requirements are two lists; ask for one of them" in both.stderr


def offered(folder: Path, site: Path, *arguments: str, **variables: str) -> set[str]:
    """The plugins that offer something."""
    done = cellfeat(folder, *arguments, site=site, **variables)
    assert done.returncode == 0, done.stderr
    return {one["plugin"] for one in json.loads(done.stdout)["offers"]}


def test_what_loads_is_chosen_anywhere_on_the_command_line(site, tmp_path):
    listed = ("plugins", "list", "--json")
    assert offered(tmp_path, site, *listed, CELLFEAT_PLUGINS="good,da") == {"good", "da"}
    assert offered(tmp_path, site, *listed, CELLFEAT_PLUGINS="") == set()
    assert offered(tmp_path, site, "-p", "no:cae", *listed, CELLFEAT_PLUGINS="cae,da") == {"da"}
    assert "good" not in offered(tmp_path, site, "plugins", "list", "-p", "no:good", "--json")
    assert not {"cae", "lora-sam", "da"} & offered(tmp_path, site, *listed, "-p", "no:cellfeat")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plugins", "list", "-p", "no:gooood"], "no plugin or distribution named 'gooood'. Did you mean 'good'?"),
        (["-p", "good", "plugins", "list"], "-p good: it leaves a plugin out, as in -p no:NAME"),
        (["plugins", "list", "--plugins-dir", "nowhere"], "--plugins-dir nowhere: there is no such file or folder"),
    ],
)
def test_a_wrong_choice_is_one_line(site, tmp_path, arguments, message):
    done = cellfeat(tmp_path, *arguments, site=site)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert message in done.stderr


def test_help_shows_the_options(tmp_path):
    out = cellfeat(tmp_path, "--help", COLUMNS="160").stdout
    for word in ("--plugins-dir", "-p", "no:NAME", "CELLFEAT_PLUGINS=NAME", "CELLFEAT_PLUGINS_DIR"):
        assert word in out


def test_a_single_file_runs_at_once_and_is_on_its_records_with_its_digest(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "unit_length.py").write_text(MODULE)
    manifest = write_demo(tmp_path / "demo", per_class=2, size=32)
    arguments = ["--data", manifest, "--backbone", "colour", "--align", "unit-length", "--clf", "lr", "--folds", "2"]
    done = cellfeat(
        tmp_path, "run", *arguments, "--source", "lab-a", "--target", "lab-b", "--no-pictures", "--out", "run",
        "--plugins-dir", "mine", CELLFEAT_PLUGINS="classical,classifiers,unit_length",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run" / "records.jsonl").read_text().splitlines()[0])
    name, _, digest = record["plugins"]["align:unit-length"].partition(" ")
    assert (name, len(digest), int(digest, 16) >= 0) == ("unit_length.py", 12, True)
    assert record["plugin_facts"]["align:unit-length"]["reads"] == ["pooled"]


def test_commands_of_plugins_that_are_left_out_are_left_out(tmp_path):
    assert "lora-sam" in cellfeat(tmp_path, "--help", CELLFEAT_PLUGINS="lora-sam").stdout
    assert "lora-sam" not in cellfeat(tmp_path, "--help", CELLFEAT_PLUGINS="cae").stdout
    assert "lora-sam" not in cellfeat(tmp_path, "-p", "no:lora-sam", "--help").stdout


def test_help_with_a_hundred_plugins_is_right_and_imports_none_of_them(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    for number in range(100):
        name = f"made-up-{number:02}"
        trap = f"open({str(tmp_path / 'imported')!r}, 'a').write('{name} ')\nraise SystemExit('imported')\n"
        install(site, name, trap, f"{name} = {name.replace('-', '_')}:app")
    done = cellfeat(tmp_path, "--help", site=site)
    assert done.returncode == 0, done.stderr
    assert all(f" made-up-{number:02} " in done.stdout for number in range(100))
    assert all(f" {name} " in done.stdout for name in ("run", "plugins", "bench", "lora-sam"))
    assert not (tmp_path / "imported").exists()
    listed = cellfeat(tmp_path, "plugins", "list", "--json", site=site)
    assert len(json.loads(listed.stdout)["broken"]) == 100, "and a hundred that fail stop nothing"
