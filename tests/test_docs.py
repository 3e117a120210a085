"""What README and docs say exists, exists: names, commands, options, links, recipes."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
import yaml

import cellfeat
from cellfeat import cli, leaderboard, recipe
from cellfeat.pipeline import Pipeline, resolve
from cellfeat.registry import installed
from cellfeat.suite import planned, read_suite

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = [*sorted((ROOT / ".github" / "workflows").glob("*.yml")), *sorted((ROOT / "docs").glob("*.sh"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """Every `cellfeat …` command line of a page, split into words."""
    text = page.read_text()
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    lines += re.findall(r"`(cellfeat [^`]*)`", text)
    if page in SCRIPTS:
        lines += [line.removeprefix("run: ") for line in map(str.strip, text.splitlines())]
        lines = [line for line in lines if line.startswith("cellfeat ")]
    found = []
    for line in lines:
        for part in line.split("&&"):
            words = shlex.split(part.replace("|", " "), comments=True)
            if words and words[0].rpartition("/")[2] == "cellfeat":
                found.append(words[1:])
    return found


@pytest.mark.parametrize("page", [*PAGES, *SCRIPTS], ids=lambda page: page.name)
def test_commands_and_their_options_exist(page, monkeypatch):
    monkeypatch.setattr("sys.argv", ["cellfeat", "lora-sam"])
    for words in commands(page):
        cli.add_plugin_commands(words)
        command = typer.main.get_command(cli.app)
        while words and hasattr(command, "commands") and words[0] in command.commands:
            command, words = command.commands[words[0]], words[1:]
        assert not hasattr(command, "commands") or not words or words[0].startswith("-"), f"{page.name}: {words}"
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        used = {word.partition("=")[0] for word in words if word.startswith("-")}
        assert used <= options, f"{page.name}: cellfeat … {' '.join(words)}: {used - options}"


def test_scripts_and_workflows_have_commands_to_test():
    found = {path.name: [words[:2] for words in commands(path)] for path in SCRIPTS}
    assert found["verify-submission.yml"] == [["bench", "submit"], ["bench", "verify"], ["bench", "leaderboard"]]
    assert ["bench", "leaderboard"] in found["pages.sh"]


def test_a_workflow_that_runs_strangers_code_has_no_secrets_and_may_only_read():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "verify-submission.yml").read_text())
    assert list(workflow[True]) == ["pull_request"], "YAML reads `on` as true; pull_request_target would hold secrets"
    assert workflow["permissions"] == {"contents": "read"}
    for step in workflow["jobs"]["verify"]["steps"]:
        assert "github." not in step.get("run", ""), "texts of a pull request reach a shell by its environment alone"


@pytest.mark.parametrize(
    ("page", "digest"),
    [("leaderboard", lambda: leaderboard.built_from([ROOT / "benchmarks" / "results" / "laboratories"]))],
)
def test_the_pages_are_current(page, digest):
    text = (ROOT / "docs" / page / "index.html").read_text(encoding="utf-8")
    assert f'name="cellfeat-built-from" content="{digest()}"' in text, "make them anew: bash docs/pages.sh"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_lists_every_method():
    table = (ROOT / "README.md").read_text().partition("| slot | names |")[2].partition("\n\n")[0]
    for row in table.strip().splitlines()[1:]:
        slot, names = (cell.strip() for cell in row.strip("|").split("|"))
        outside = re.sub(r"\(.*?\)", "", names)
        assert set(re.findall(r"`([^`]+)`", outside)) == set(installed().names(slot)), slot


@pytest.mark.parametrize("name", recipe.built_in())
def test_every_shipped_recipe_is_whole(name):
    resolved = resolve(recipe.parse(recipe.read(name)), installed())
    assert recipe.parse(yaml.safe_load(resolved.as_yaml())) == resolved


def test_the_recipe_in_the_docs_is_one():
    (text,) = [block for block in blocks(ROOT / "docs" / "runs.md", "yaml") if "backbone" in block]
    resolved = resolve(recipe.parse(yaml.safe_load(text)), installed())
    assert [part.name for part in resolved.align] == ["cae", "per-domain-z"]


def test_the_suite_in_the_docs_is_one(tmp_path, context):
    (text,) = blocks(ROOT / "docs" / "benchmark.md", "yaml")
    (tmp_path / "mine.yaml").write_text(text)
    plans = list(planned(read_suite(tmp_path / "mine.yaml"), "cells.csv"))
    assert {plan.row for plan in plans} == {"none", "stain", "dorl", "network"}
    for plan in plans:
        Pipeline.build(resolve(plan.recipe, installed()), installed(), (), context)


def test_the_plugin_in_the_docs_is_the_one_that_is_tested():
    import test_third_party

    (code,) = blocks(ROOT / "docs" / "plugins.md", "python")
    kept = [line for line in code.splitlines() if line.strip() and not line.strip().startswith(("#", '"""'))]
    assert kept == test_third_party.MODULE.splitlines()


def test_the_public_api_is_what_plugins_are_told():
    text = (ROOT / "docs" / "plugins.md").read_text()
    for name in re.findall(r"`cellfeat\.(\w+)", text):
        assert name in cellfeat.__all__, name


def test_the_changelog_names_the_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "[Unreleased]" in text or f"[{version}]" in text
