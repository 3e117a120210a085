"""What README and docs say exists, exists: names, commands, options, links, recipes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from docs_commands import PAGES, ROOT, blocks, named

import cellfeat
from cellfeat import cli, leaderboard, plugin_pages, recipe, run_report
from cellfeat.declared import Facts
from cellfeat.pipeline import Pipeline, resolve
from cellfeat.registry import installed
from cellfeat.slots import MEMBERS, SLOTS
from cellfeat.suite import planned, read_suite
from cellfeat.testing import checks_of

PLUGIN_PAGES = [ROOT / "docs" / "plugins.md", *sorted((ROOT / "docs" / "plugins").glob("*.md"))]
ENTRY_POINTS = "commands"  # `cellfeat.commands`: a group of them, no module that is public
ANYWHERE = {"--plugins-dir", "-p"}  # options that every command line may have
SCRIPTS = [*sorted((ROOT / ".github" / "workflows").glob("*.yml")), *sorted((ROOT / "docs").glob("*.sh"))]


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


@pytest.mark.parametrize("page", [*PAGES, *SCRIPTS], ids=named)
def test_commands_and_their_options_exist(page, monkeypatch):
    monkeypatch.setattr("sys.argv", ["cellfeat", "lora-sam"])
    for words in commands(page):
        cli.add_plugin_commands(words)
        command = typer.main.get_command(cli.app)
        while words and hasattr(command, "commands") and words[0] in command.commands:
            command, words = command.commands[words[0]], words[1:]
        assert not hasattr(command, "commands") or not words or words[0].startswith("-"), f"{page.name}: {words}"
        options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
        used = {word.partition("=")[0] for word in words if word.startswith("-")}
        assert used <= options | ANYWHERE, f"{page.name}: cellfeat … {' '.join(words)}: {used - options}"


def test_scripts_and_workflows_have_commands_to_test():
    found = {path.name: [words[:2] for words in commands(path)] for path in SCRIPTS}
    assert found["verify-submission.yml"] == [["bench", "submit"], ["bench", "leaderboard"], ["bench", "verify"]]
    assert ["bench", "leaderboard"] in found["pages.sh"]


SUBMISSION = yaml.safe_load((ROOT / ".github" / "workflows" / "verify-submission.yml").read_text())


def test_a_workflow_that_runs_strangers_code_is_started_by_hand_and_may_only_read():
    assert list(SUBMISSION[True]) == ["workflow_dispatch"], "YAML reads `on` as true; variables reach no fork's event"
    assert SUBMISSION["permissions"] == {"contents": "read"}
    assert "secrets." not in str(SUBMISSION)
    for job in SUBMISSION["jobs"].values():
        assert "permissions" not in job
        for step in job["steps"]:
            assert "${{" not in step.get("run", ""), "texts reach a shell by its environment alone"
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False
                assert "ref" not in step["with"], "the branch it was started on, never the pull request"


def test_files_are_judged_before_anything_of_the_strangers_is_installed_and_elsewhere():
    files, fits = SUBMISSION["jobs"]["files"], SUBMISSION["jobs"]["fits"]
    runs = [step["run"] for step in files["steps"] if "run" in step]
    assert [run for run in runs if "pip install" in run] == ["python -m pip install ."]
    assert not any("requirements.txt" in run and "pip" in run for run in runs)
    assert fits["needs"] == "files"
    installs = [line for step in fits["steps"] for line in step.get("run", "").splitlines() if "pip install" in line]
    assert len(installs) == 2
    assert all(line.startswith('"$RUNNER_TEMP/strangers/bin/python"') for line in installs)
    verify = fits["steps"][-1]["run"]
    assert "/dev/urandom" in verify, "an author must not know which fits are done again"
    assert '--seed "$seed"' in verify
    assert 'echo "drawn with seed $seed"' in verify


def test_the_site_is_published_by_a_job_that_runs_nothing_of_the_repository():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "docs.yml").read_text())
    assert workflow[True]["push"]["branches"] == ["main"]
    assert set(workflow[True]) == {"push", "workflow_dispatch"}, "never for what a stranger proposes"
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets." not in str(workflow)
    build, publish = workflow["jobs"]["build"], workflow["jobs"]["publish"]
    assert "permissions" not in build
    assert publish["permissions"] == {"pages": "write", "id-token": "write"}
    assert not [step for step in publish["steps"] if "run" in step or "checkout" in step["uses"]]
    assert next(step for step in build["steps"] if "checkout" in step.get("uses", ""))["with"] == {
        "persist-credentials": False
    }
    (needed,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["docs"]
    runs = [step["run"] for step in build["steps"] if "run" in step]
    assert runs == [f'python -m pip install "{needed}"', "python -m mkdocs build --strict --site-dir site"]


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def pull_request(tmp_path):
    """A function: what the first step of the workflow says of a pull request that changes these files."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    for name in ("theirs/cellfeat", "theirs/benchmarks/submissions/old", "temp"):
        (tmp_path / name).mkdir(parents=True)
    (theirs / "cellfeat" / "a.py").write_text("a = 1\n")
    (theirs / "benchmarks" / "submissions" / "old" / "records.jsonl").write_text("old\n")
    git(theirs, "init", "-q")
    git(theirs, "add", "-A")
    git(theirs, "commit", "-qm", "base")
    git(tmp_path, "clone", "-q", str(theirs), str(ours))
    step = next(step for step in SUBMISSION["jobs"]["files"]["steps"] if "PULL" in step.get("env", {}))

    def asked(change, pull: str = "7") -> tuple[int, str, str]:
        git(theirs, "checkout", "-q", "-b", "pull")
        change(theirs)
        git(theirs, "add", "-A")
        git(theirs, "commit", "-q", "--allow-empty", "-m", "pull")
        git(theirs, "update-ref", "refs/pull/7/head", "pull")
        environment = {**os.environ, "PULL": pull, "RUNNER_TEMP": str(tmp_path / "temp")}
        environment["GITHUB_ENV"] = str(tmp_path / "environment")
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", step["run"]], cwd=ours, env=environment, capture_output=True, text=True
        )
        told = tmp_path / "environment"
        return done.returncode, done.stdout + done.stderr, told.read_text() if told.is_file() else ""

    asked.checkout = ours
    return asked


def put(*names: str, mode: int = 0o644):
    def change(folder: Path) -> None:
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("new\n")
            path.chmod(mode)

    return change


def link(folder: Path) -> None:
    put(f"{NEW}/records.jsonl")(folder)
    (folder / NEW / "cells.parquet").symlink_to("/etc/passwd")


NEW = "benchmarks/submissions/new"
WHOLE = [f"{NEW}/{name}" for name in ("records.jsonl", "cells.parquet", "requirements.txt", "predictions/a+b.parquet")]


def test_a_pull_request_that_adds_one_folder_is_looked_at(pull_request):
    code, said, told = pull_request(put(*WHOLE))
    assert (code, told) == (0, f"FOLDER={NEW}\n"), said
    assert all((pull_request.checkout / name).read_text() == "new\n" for name in WHOLE)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (put(*WHOLE, "cellfeat/a.py"), "new plain files of one results folder alone"),
        (put(*WHOLE, "cellfeat/b.py"), "new plain files of one results folder alone"),
        (put(*WHOLE, ".github/workflows/x.yml"), "new plain files of one results folder alone"),
        (put(f"{NEW}/.gitattributes"), "new plain files of one results folder alone"),
        (put(f"{NEW}/predictions/a/b.parquet"), "new plain files of one results folder alone"),
        (put(f"{NEW}/predictions/a\nb.parquet"), "new plain files of one results folder alone"),
        (put("benchmarks/submissions/a b/records.jsonl"), "new plain files of one results folder alone"),
        (put("benchmarks/submissions/--out/records.jsonl"), "new plain files of one results folder alone"),
        (put(*WHOLE, mode=0o755), "new plain files of one results folder alone"),
        (link, "new plain files of one results folder alone"),
        (put("benchmarks/submissions/old/records.jsonl"), "new plain files of one results folder alone"),
        (put("benchmarks/submissions/old/cells.parquet"), "benchmarks/submissions/old is there already"),
        (put(*WHOLE, "benchmarks/submissions/two/records.jsonl"), "one folder for each pull request"),
        (lambda folder: None, "this pull request changes nothing"),
    ],
)
def test_a_pull_request_that_does_anything_else_is_refused(pull_request, change, text):
    code, said, told = pull_request(change)
    assert (code, told) == (1, "")
    assert text in said


@pytest.mark.parametrize("pull", ["", "x", "7/head", "7 --upload-pack=x", "-7", "$(id)", "7\n8"])
def test_the_number_of_a_pull_request_is_digits(pull_request, pull):
    code, said, told = pull_request(put(*WHOLE), pull)
    assert (code, told) == (1, "")
    assert "a pull request has a number, in digits" in said


def leaderboard_digest() -> str:
    submissions = ROOT / "benchmarks" / "submissions"
    folders = [ROOT / "benchmarks" / "results" / "laboratories", *sorted(submissions.glob("*/"))]
    return leaderboard.built_from(folders)


@pytest.mark.parametrize(
    ("page", "digest"),
    [("leaderboard", leaderboard_digest), ("report", lambda: run_report.built_from(ROOT / "docs" / "report" / "run"))],
)
def test_the_pages_are_current(page, digest):
    text = (ROOT / "docs" / page / "index.html").read_text(encoding="utf-8")
    assert f'name="cellfeat-built-from" content="{digest()}"' in text, "make them anew: bash docs/pages.sh"


@pytest.mark.parametrize("page", PAGES, ids=named)
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


def speaking_json(command: Any, words: tuple[str, ...] = ()) -> set[str]:
    """Commands, as they are typed, that have --json."""
    below = getattr(command, "commands", {})
    found = {name for key, one in below.items() for name in speaking_json(one, (*words, key))}
    return found | ({" ".join(words)} if any("--json" in one.opts for one in command.params) else set())


def test_every_command_that_speaks_json_is_on_the_page_for_other_programs():
    listed = (ROOT / "docs" / "comfort.md").read_text().partition("These have `--json`: ")[2].partition(".\n")[0]
    found = speaking_json(typer.main.get_command(cli.app))
    assert len(found) > 8
    assert found - set(re.findall(r"`([a-z ]+)`", listed.replace("\n", " "))) == set()


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
    for page in PLUGIN_PAGES:
        for name in re.findall(r"`cellfeat\.(\w+)", page.read_text()):
            assert name in {*cellfeat.__all__, "__all__", ENTRY_POINTS}, (page.name, name)


def test_the_pages_of_the_methods_are_current():
    folder, pages = ROOT / "docs" / "methods", dict[str, list[str]]()
    listed = (folder / "README.md").read_text()
    for slot in SLOTS:
        for offer in sorted(installed().offers, key=lambda offer: offer.name):
            if offer.slot == slot and offer.distribution == "cellfeat":
                pages.setdefault(f"{offer.name}.md", []).append(plugin_pages.page(offer))
                said = offer.summary.removeprefix(f"Align `{offer.name}`: ")
                assert f"| [`{offer.name}`]({offer.name}.md) | {said} |".casefold() in listed.casefold()
    assert not re.search(r"\| \w+ `[\w-]+`: ", listed), "the name is in the row already"
    assert {path.name for path in folder.iterdir()} == {"README.md", *pages}
    for name, texts in pages.items():
        assert (folder / name).read_text() == "\n".join(texts), "make them anew: python docs/reference.py"


def test_every_check_is_on_the_page_of_the_kit():
    text = (ROOT / "docs" / "plugins" / "conformance.md").read_text()
    for slot in SLOTS:
        for check in checks_of(slot):
            line = f"| `{check.name}` | {check.promise} | {check.remedy} |"
            assert line in text, f"{check.name}: make it anew: python docs/reference.py"


def test_every_fact_and_member_is_on_the_page_of_its_slot():
    overview = (ROOT / "docs" / "plugins.md").read_text()
    for name in (field.name for field in fields(Facts)):
        assert f"`{name}`" in overview or name.replace("_", "-") in overview or name == "api", name
    for slot, members in MEMBERS.items():
        page = (ROOT / "docs" / "plugins" / f"{slot}.md").read_text()
        assert [name for name in members if not re.search(rf"`{name}\b", page)] == [], slot


def test_the_changelog_names_the_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "[Unreleased]" in text or f"[{version}]" in text
