"""How a release is made: versions that agree, workflows that may do what they must, a citation that is valid."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
WORKFLOWS = {
    path.name: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
}
ON = True  # as YAML reads `on`
# What a job may do beyond reading: nothing that runs the repository's code, or a pull request's, is here.
MAY = {
    ("release.yml", "publish"): {"id-token": "write"},
    ("release.yml", "page"): {"contents": "write"},
    ("docs.yml", "publish"): {"pages": "write", "id-token": "write"},
}


def jobs() -> list[tuple[str, str]]:
    return [(name, job) for name, workflow in WORKFLOWS.items() for job in workflow["jobs"]]


@pytest.mark.parametrize(("name", "job"), jobs())
def test_a_job_may_do_what_it_must_and_no_more(name, job):
    if (name, job) not in MAY:
        assert WORKFLOWS[name]["jobs"][job].get("permissions", {"contents": "read"}) == {"contents": "read"}
        return
    steps = WORKFLOWS[name]["jobs"][job]["steps"]
    assert WORKFLOWS[name]["jobs"][job]["permissions"] == MAY[name, job]
    assert not [step for step in steps if "checkout" in step.get("uses", "")]
    runs = " ".join(step.get("run", "") for step in steps)
    assert "python" not in runs
    assert "pip" not in runs
    assert "cellfeat" not in runs


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_reads_only_and_pins_what_it_uses(name):
    workflow = WORKFLOWS[name]
    assert workflow["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in workflow[ON]
    assert "secrets." not in str(workflow)
    for job in workflow["jobs"].values():
        assert 0 < job["timeout-minutes"] <= 180
        for step in job["steps"]:
            assert "${{" not in step.get("run", ""), "texts reach a shell by its environment alone"
            if "uses" in step:
                assert re.fullmatch(r"(actions/[a-z-]+@v[1-9]\d*|pypa/gh-action-pypi-publish@release/v1)", step["uses"])
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False


def test_pull_requests_are_tested_without_secrets_by_the_readme_s_command():
    tests = WORKFLOWS["tests.yml"]
    assert set(tests[ON]) == {"push", "pull_request"}
    runs = [step["run"] for step in tests["jobs"]["tests"]["steps"] if "run" in step]
    assert runs[-1] == "bash .ci/run"
    assert "test command" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "token" not in str(tests)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f">={tests['jobs']['tests']['strategy']['matrix']['python'][0]}" == project["requires-python"]


def test_a_release_is_published_only_after_it_was_compared_and_tried():
    release = WORKFLOWS["release.yml"]
    assert release[ON] == {"push": {"tags": ["v*"]}}
    needs = {name: job.get("needs") for name, job in release["jobs"].items()}
    assert needs == {"build": None, "try": "build", "publish": "try", "page": "publish"}
    runs = [step["run"] for step in release["jobs"]["build"]["steps"] if "run" in step]
    assert runs[0] == 'python .github/release.py "$GITHUB_REF_NAME" --notes notes.md'
    tried = release["jobs"]["try"]
    assert not [step for step in tried["steps"] if "checkout" in step.get("uses", "")], "the wheel alone is tried"
    assert set(tried["strategy"]["matrix"]["kind"]) == {"whl", "tar.gz"}
    assert release["jobs"]["publish"]["environment"] == "pypi"


@pytest.fixture
def repository(tmp_path) -> Path:
    """What the release is compared by, with a section for the version."""
    for name in ("pyproject.toml", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path)
    sections = ["# Changelog", "## [Unreleased]", f"## [{VERSION}] - 2026-01-31", "### Added\n- All."]
    sections += ["## [0.0.1] - 2025-01-01", "- Less."]
    (tmp_path / "CHANGELOG.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return tmp_path


def released(root: Path, *options: str | Path) -> tuple[int, str]:
    """(exit status, what is missing) of the program that the release's workflow asks, about the version's tag."""
    command = [sys.executable, ROOT / ".github" / "release.py", f"v{VERSION}", "--root", root, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stderr


def test_a_tag_that_agrees_leaves_its_section_as_notes(repository):
    assert released(repository, "--notes", repository / "notes.md") == (0, "")
    assert (repository / "notes.md").read_text(encoding="utf-8") == "### Added\n- All.\n"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("pyproject.toml", f'version = "{VERSION}"', 'version = "9.9.9"', "has version 9.9.9, whose tag is v9.9.9"),
        ("CITATION.cff", f"version: {VERSION}", "version: 9.9.9", f"has version 9.9.9, pyproject.toml {VERSION}"),
        ("CITATION.cff", f"version: {VERSION}\n", "", "CITATION.cff has version None"),
        ("CHANGELOG.md", " - 2026-01-31", "", f"CHANGELOG.md has no section '## [{VERSION}] - YEAR-MONTH-DAY'"),
        ("CHANGELOG.md", "### Added\n- All.\n", "", "with text below it"),
    ],
)
def test_a_tag_that_does_not_agree_is_no_release(repository, file, old, new, message):
    text = (repository / file).read_text(encoding="utf-8")
    assert old in text
    (repository / file).write_text(text.replace(old, new, 1), encoding="utf-8")
    code, said = released(repository, "--notes", repository / "notes.md")
    assert code == 1
    assert message in said
    assert not (repository / "notes.md").exists()


def test_the_repository_itself_lacks_nothing_but_its_dated_section():
    _, said = released(ROOT)
    assert [line for line in said.splitlines() if not line.startswith("CHANGELOG.md has no section")] == []


def test_the_citation_is_one_of_this_version_and_names_the_papers():
    assert CITATION["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= CITATION.keys(), "required by the format"
    assert (CITATION["version"], CITATION["license"], CITATION["type"]) == (VERSION, "Apache-2.0", "software")
    assert all("name" in author or "family-names" in author for author in CITATION["authors"])
    for paper in CITATION["references"]:
        assert {"type", "title", "authors"} <= paper.keys()
        assert all({"family-names", "given-names"} == author.keys() for author in paper["authors"])
    named = [one["value"] for paper in CITATION["references"] for one in paper["identifiers"]]
    assert named == ["arXiv:2408.07467", "arXiv:2408.06716"]
    assert all(paper["url"].endswith(name[6:]) for paper, name in zip(CITATION["references"], named, strict=True))
