"""`cellfeat plugins new`: what it writes is whole, installs, passes its own tests, and runs."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from email.message import Message
from email.parser import Parser
from pathlib import Path
from types import SimpleNamespace

import pytest
import test_docs
import yaml
from typer.testing import CliRunner

from cellfeat import CellfeatError, cli, scaffold
from cellfeat.commands import new_plugin
from cellfeat.plugin_names import KINDS, LONGEST, kind_of, names_for, offered_by_others
from cellfeat.registry import Offer, Registry, installed
from cellfeat.scaffold import Author, author_of, render, write_plugin

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = tuple(KINDS)
ANA = 'Ana "A." Pérez <ana@example.org>'
LONG = "a" * LONGEST  # what ruff would wrap at this length, or join at the shortest, must not be in a template


def new(*arguments: str | Path) -> str:
    """What the command prints, or the message of its CellfeatError."""
    done = CliRunner().invoke(cli.app, ["plugins", "new", *map(str, arguments)])
    if isinstance(done.exception, CellfeatError):
        return str(done.exception)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def repositories(tmp_path_factory) -> dict[str, Path]:
    """{option of the slot: repository} of four methods own-align, own-backbone, own-segmenter and own-clf."""
    folder = tmp_path_factory.mktemp("authors")
    for option in OPTIONS:
        new(option, f"own-{option}", "--out", folder / option, "--author", ANA)
    return {option: folder / option for option in OPTIONS}


@pytest.fixture(scope="module")
def site(repositories, tmp_path_factory) -> Path:
    """A folder of installed packages with the wheels of all four."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder / "wheels"]
    subprocess.run([*build, *repositories.values()], check=True)
    wheels = sorted((folder / "wheels").glob("*.whl"))
    target = folder / "packages"
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", target, *wheels], check=True)
    return target


def python(site: Path, *arguments: str | Path, cache: Path | None = None) -> subprocess.CompletedProcess:
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}
    if cache:
        variables["CELLFEAT_CACHE"] = str(cache)
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)


def texts(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and "build" not in path.relative_to(folder).parts]
    return {str(path.relative_to(folder)): path.read_text() for path in files if ".egg-info" not in str(path)}


def metadata(site: Path, option: str) -> Message:
    return Parser().parsestr((site / f"cellfeat_own_{option}-0.1.0.dist-info" / "METADATA").read_text())


# What is written


@pytest.mark.parametrize("option", OPTIONS)
def test_a_repository_is_a_plugin_before_it_is_installed(option, tmp_path):
    """`--plugins-dir REPOSITORY/src` while prototyping: the package finds its own modules under any name."""
    from cellfeat import registry
    from cellfeat.plugin_choice import Choice

    new(option, "mine", "--out", tmp_path / "here", "--author", ANA)
    found = registry.load([], Choice(places=(tmp_path / "here" / "src",)))
    assert (found.broken, [offer.name for offer in found.offers]) == ([], ["mine"])
    assert found.find(KINDS[option].slot, "mine").factory.__module__.startswith("cellfeat.prototypes.cellfeat_mine.")


@pytest.mark.parametrize("option", OPTIONS)
def test_a_repository_has_all_that_one_needs(option, tmp_path):
    printed = new(option, "mine", "--out", tmp_path / "here", "--author", ANA)
    found = set(texts(tmp_path / "here"))
    package = f"src/cellfeat_mine/{KINDS[option].file}.py"
    assert found == {
        *("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", ".gitignore", ".github/workflows/test.yml"),
        *("src/cellfeat_mine/__init__.py", "src/cellfeat_mine/py.typed", package, "recipe.yaml", "suite.yaml"),
        *("tests/test_contract.py", "tests/test_method.py"),
    }
    for part in {part for path in found for part in path.split("/")}:
        assert part in printed
    for command in (f"cd {tmp_path / 'here'}", "pip install --no-deps --no-build-isolation -e .", "plugins check mine"):
        assert command in printed


def test_the_folder_is_named_after_the_method(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "cd cellfeat-unit-length" in new("classifier", "unit-length", "--author", ANA)
    assert (tmp_path / "cellfeat-unit-length/src/cellfeat_unit_length/classifier.py").is_file()


def test_code_is_of_good_style_whatever_the_name_s_length(repositories, tmp_path):
    for option in OPTIONS:
        for name in ("a", LONG):
            kind = KINDS[option]
            write_plugin(kind, names_for(kind, name, installed()), tmp_path / f"{option}-{name}", Author("Ana"))
    folders = [*repositories.values(), *tmp_path.iterdir()]
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", *folders],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["class", "cells", "features", "self", "any", "context", "x-1", "torch"])
def test_a_name_cannot_break_the_code(name):
    for kind in KINDS.values():
        files = render(kind, names_for(kind, name, Registry()), Author("Ana"))
        tree = ast.parse(files[f"src/cellfeat_{name.replace('-', '_')}/{kind.file}.py"])
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
        made = {node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
        assert len(made) == 1
        assert not made & imported


def test_metadata_name_author_licence_and_the_cellfeat_it_needs(site):
    from importlib.metadata import version

    from packaging.requirements import Requirement

    for option in OPTIONS:
        found = metadata(site, option)
        assert (found["Name"], found["License-Expression"]) == (f"cellfeat-own-{option}", "MIT")
        assert 'Ana \\"A.\\" Pérez' in found["Author-email"]
        assert "ana@example.org" in found["Author-email"]
        (needed,) = [Requirement(line) for line in found.get_all("Requires-Dist") if "extra" not in line]
        assert needed.name == "cellfeat"
        assert needed.specifier.contains(version("cellfeat"), prereleases=True)
        assert (site / f"cellfeat_own_{option}/py.typed").is_file()
        licence = (site / f"cellfeat_own_{option}-0.1.0.dist-info/licenses/LICENSE").read_text()
        assert 'Ana "A." Pérez\n' in licence


def test_what_is_left_to_the_author_is_one_word_and_in_the_readme(repositories):
    for folder in repositories.values():
        files = texts(folder)
        marked = sorted(path for path, text in files.items() for line in text.splitlines() if "EDIT: " in line)
        listed = re.findall(r"^\| `([^`]+)` \| \w.* \|$", files["README.md"], re.MULTILINE)
        assert sorted(listed) == marked
        assert not re.search(r"\b(TODO|FIXME|XXX)\b", "".join(files.values()))


def test_the_word_is_said_once_for_each_thing():
    assert scaffold._edits("a.py", "x = 1  # EDIT: your idea. It may be long\n# EDIT: a number of 0.5 to 2\n") == [
        scaffold.Edit("a.py", "your idea"),
        scaffold.Edit("a.py", "a number of 0.5 to 2"),
    ]


@pytest.mark.parametrize("option", OPTIONS)
def test_commands_of_the_readme_exist(option, repositories, monkeypatch):
    assert len(test_docs.commands(repositories[option] / "README.md")) > 8
    test_docs.test_commands_and_their_options_exist(repositories[option] / "README.md", monkeypatch)


@pytest.mark.parametrize("option", OPTIONS)
def test_the_workflow_is_yaml_and_does_all_that_the_readme_says(option, repositories):
    workflow = yaml.safe_load((repositories[option] / ".github/workflows/test.yml").read_text())
    job = workflow["jobs"]["test"]
    assert {step["with"]["python-version"] for step in job["steps"] if "with" in step} == {"${{ matrix.python }}"}
    done = "\n".join(step.get("run", "") for step in job["steps"])
    for command in ("pytest", f"cellfeat plugins check own-{option}", "--recipe recipe.yaml", "build", "ruff check"):
        assert command in done


def test_every_template_comes_with_the_package():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["cellfeat"]
    there = {path for path in (ROOT / "cellfeat/templates").rglob("*") if path.is_file()}
    assert there - {path for pattern in data for path in (ROOT / "cellfeat").glob(pattern)} == set()


# What it does once it is installed


def test_they_are_listed_by_being_installed(site):
    listing = python(site, "-m", "cellfeat", "plugins", "list").stdout
    for option in OPTIONS:
        assert f"own-{option} " in listing
        assert f"cellfeat-own-{option} 0.1.0" in listing
    assert "broken" not in listing


def test_their_own_tests_pass(site, repositories):
    folders = [folder / "tests" for folder in repositories.values()]
    options = ["-q", "-rs", "-p", "no:cacheprovider", "--strict-markers", "--import-mode=importlib"]
    options += ["--rootdir", ROOT.anchor]
    done = python(site, "-m", "pytest", *options, *folders)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    reasons = set(re.findall(r"^SKIPPED \[\d+\] .*?: (.*)$", done.stdout, re.MULTILINE))
    assert reasons, "no start method has every optional member"
    assert all(re.match("it |its |the method has no such member|the factory has no", reason) for reason in reasons), (
        reasons
    )


RECIPES = """\
import json, sys
from pathlib import Path
from cellfeat.cli import app

data, out, *folders = sys.argv[1:]
for folder in map(Path, folders):
    run = Path(out) / folder.name
    app(["run", "--recipe", str(folder / "recipe.yaml"), "--data", data, "--source", "lab-a", "--out", str(run),
         "--no-pictures"], standalone_mode=False)
align = next(folder for folder in map(Path, folders) if folder.name == "align")
results = str(Path(out) / "results")
app(["bench", "run", str(align / "suite.yaml"), "--data", data, "--out", results], standalone_mode=False)
app(["bench", "verify", results, "--data", data, "--random", "2"], standalone_mode=False)
"""


@pytest.fixture(scope="module")
def runs(site, repositories, tmp_path_factory) -> Path:
    """A run of each recipe, and the results folder of the alignment method's suite, whose records hold."""
    from cellfeat.demo import write_demo

    folder = tmp_path_factory.mktemp("runs")
    data = write_demo(folder / "demo", per_class=2, size=48)
    done = python(site, "-c", RECIPES, data, folder, *repositories.values(), cache=folder / "cache")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return folder


def test_their_recipes_run(runs):
    for option in OPTIONS:
        (recipe,) = (runs / option).glob("recipe.yaml")
        section = yaml.safe_load(recipe.read_text())[KINDS[option].slot]
        assert (section[0] if isinstance(section, list) else section)["name"] == f"own-{option}"
        assert list((runs / option).glob("records.jsonl"))


def test_the_suite_s_records_name_the_plugin_and_can_be_done_again(runs):
    records = [json.loads(line) for line in (runs / "results/records.jsonl").read_text().splitlines()]
    assert {record["row"] for record in records} == {"baseline", "own-align"}
    assert "cellfeat-own-align" in json.dumps([record for record in records if record["row"] == "own-align"])


SUITES = """\
import sys
from pathlib import Path
from cellfeat.pipeline import resolve
from cellfeat.registry import installed
from cellfeat.suite import planned, read_suite

for folder in map(Path, sys.argv[1:]):
    plans = list(planned(read_suite(folder / "suite.yaml")))
    print(sorted({plan.row for plan in plans}), len(plans), [resolve(plan.recipe, installed()) and 0 for plan in plans])
"""


def test_every_suite_compares_the_method_with_a_baseline_under_two_seeds(site, repositories):
    done = python(site, "-c", SUITES, *repositories.values())
    expected = [f"['baseline', 'own-{option}'] 4 [0, 0, 0, 0]" for option in OPTIONS]
    assert done.stdout.splitlines() == expected, done.stderr


# What is refused


FORM = "cannot name a method: lower-case letters, digits and single hyphens, a letter first"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My_Method", f"'My_Method' {FORM}; try 'my-method'"),
        ("3d", f"'3d' {FORM}; try 'my-3d'"),
        ("a--b", f"'a--b' {FORM}; try 'a-b'"),
        ("../up", f"'../up' {FORM}; try 'up'"),
        ("émile", f"'émile' {FORM}; try 'emile'"),
        ("-", f"'-' {FORM}"),
        ("", f"'' {FORM}"),
        ("b" * 33, f"{'b' * 33!r} has 33 characters; 32 at most, since much is named after it"),
        ("cellfeat-a", "'cellfeat-a' would make the distribution cellfeat-cellfeat-a: leave 'cellfeat' away; try 'a'"),
        ("cellfeat", "'cellfeat' would make the distribution cellfeat-cellfeat: leave 'cellfeat' away"),
        ("off", "'off' means False in the YAML of a recipe; choose another name"),
        ("null", "'null' means None in the YAML of a recipe; choose another name"),
        ("baseline", "'baseline' is the other row of the suite that comes with the plugin; choose another name"),
        (
            "coral",
            "cellfeat comes with the alignment method 'coral', and two of one name would have to be told apart "
            "wherever it is asked for; choose another name, as in 'my-coral'",
        ),
        (
            "lora-sam",
            "the package cellfeat_lora_sam is a part of cellfeat already, and this plugin would hide it; "
            "choose another name than 'lora-sam'",
        ),
    ],
)
def test_a_name_that_cannot_be_is_one_clear_line(name, message):
    with pytest.raises(CellfeatError) as error:
        names_for(KINDS["align"], name, installed())
    assert str(error.value) == message


def test_a_shipped_method_s_name_is_free_in_the_other_slots():
    assert names_for(KINDS["clf"], "coral", installed()).product == "coral_classifier"


def test_a_stranger_s_name_may_be_taken_with_a_note(tmp_path, monkeypatch):
    offers = [Offer("align", "mine", dict, "p", owner, "1") for owner in ("cellfeat-other", "cellfeat-mine")]
    names = names_for(KINDS["align"], "mine", Registry(offers))
    assert offered_by_others(KINDS["align"], names, Registry(offers)) == ["cellfeat-other"]
    assert offered_by_others(KINDS["clf"], names, Registry(offers)) == []
    monkeypatch.setattr("cellfeat.registry.installed", lambda: Registry(offers))
    printed = new("align", "mine", "--out", tmp_path / "here", "--author", ANA)
    assert "cellfeat-other too offers the alignment method 'mine'" in printed


@pytest.mark.parametrize(("got", "meant"), [("classifer", "clf"), ("aligner", "align"), ("model", "")])
def test_an_unknown_slot_is_one_clear_line(got, meant):
    with pytest.raises(CellfeatError, match=f"no slot named '{got}'.*Available: align, backbone, clf, segmenter"):
        kind_of(got)


def test_what_is_there_is_never_overwritten(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "thesis.txt").write_text("years of work")
    message = new("align", "mine", "--out", tmp_path / "there")
    assert message == f"{tmp_path / 'there'} exists and is never overwritten; choose another name or move it away"
    assert texts(tmp_path / "there") == {"thesis.txt": "years of work"}


def test_nothing_is_left_of_a_writing_that_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(scaffold, "render", lambda *_: {"a.py": "", "b.py": "no file can hold \ud800"})
    names = names_for(KINDS["align"], "mine", installed())
    with pytest.raises(UnicodeEncodeError):
        write_plugin(KINDS["align"], names, tmp_path / "here", Author("Ana"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "<ana@example.org>", "Ana <ana>", "Ana <a@b> c", "Ana\nEve"])
def test_an_author_is_a_name_and_perhaps_a_mail(text):
    names = SimpleNamespace(distribution="cellfeat-mine")
    with pytest.raises(CellfeatError, match=r"is not of the form 'Name' or 'Name <mail@example\.org>'"):
        author_of(text, names)
    assert author_of("Ana Pérez", names) == Author("Ana Pérez")
    assert author_of(" Ana <ana@example.org> ", names) == Author("Ana", "ana@example.org")


def test_without_a_name_git_s_is_taken_and_else_the_authors(monkeypatch, tmp_path):
    names = SimpleNamespace(distribution="cellfeat-mine")
    settings = {"user.name": "Ana", "user.email": "ana@example.org"}
    monkeypatch.setattr(scaffold, "_git", lambda key: settings.get(key, ""))
    assert author_of(None, names) == Author("Ana", "ana@example.org")
    del settings["user.email"]
    assert author_of(None, names) == Author("Ana")
    settings.clear()
    assert author_of(None, names) == Author("The authors of cellfeat-mine")


def test_git_s_settings_are_read_where_there_is_git(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert scaffold._git("user.name") == ""
    (tmp_path / "git").write_text("#!/bin/sh\n[ $3 = user.name ] && echo Ana\n")
    (tmp_path / "git").chmod(0o755)
    assert (scaffold._git("user.name"), scaffold._git("user.email")) == ("Ana", "")


@pytest.mark.parametrize(("found", "told"), [("65.5.0", True), ("77.0.1", False)])
def test_an_old_setuptools_is_told_of_before_it_fails(found, told, monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.metadata.version", lambda name: found)
    assert new_plugin._needed_first() == (['python -m pip install "setuptools>=77"'] if told else [])


def test_the_templates_ask_for_the_setuptools_that_is_told_of():
    text = (ROOT / "cellfeat/templates/plugin/common/pyproject.toml.jinja").read_text()
    assert text.count(f'"setuptools>={new_plugin.SETUPTOOLS}"') == 2  # to build, and to develop
