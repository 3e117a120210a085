"""What a shell is told when a name is being typed, asked as bash, zsh and fish ask."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from test_cli import cellfeat  # noqa: F401  a fixture

from cellfeat import completion
from cellfeat.recipe import built_in
from cellfeat.registry import installed
from cellfeat.slots import SLOTS


@pytest.fixture
def offered(cellfeat, monkeypatch):  # noqa: F811
    """The names that bash is offered for a line, the last word of which is being typed."""

    def ask(line: str) -> list[str]:
        words = line.split(" ")
        monkeypatch.setenv(completion.VARIABLE, "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        _, out, err = cellfeat()
        assert err == ""
        return [line for line in out.splitlines() if line]

    return ask


@pytest.mark.parametrize(
    ("line", "slot"),
    [
        ("cellfeat run --backbone ", "backbone"),
        ("cellfeat run --segmenter ", "segmenter"),
        ("cellfeat run --align ", "align"),
        ("cellfeat run --clf ", "classifier"),
        ("cellfeat extract cells.csv --backbone ", "backbone"),
    ],
)
def test_every_method_of_a_slot(offered, line, slot):
    assert offered(line) == installed().names(slot)


def test_what_is_typed_narrows_it(offered):
    assert offered("cellfeat run --align per-domain-z,mean") == ["per-domain-z,mean-centre"]
    assert offered("cellfeat run --clf svm-") == ["svm-linear", "svm-poly", "svm-rbf"]
    assert offered("cellfeat run --clf nothing-of-the-kind") == []


def test_recipes_vocabularies_weights_and_choices(offered, tmp_path):
    (tmp_path / "mine.yaml").write_text("")
    assert offered("cellfeat run --recipe ") == sorted([*built_in(), "mine.yaml"])
    assert "five-class" in offered("cellfeat run --labels ")
    assert offered("cellfeat weights fetch vit_b") == ["vit_b", "vit_b_lm"]
    assert offered("cellfeat run --adapt ") == ["heldout", "none", "test"]
    assert offered("cellfeat run --device c") == ["cpu", "cuda"]
    assert offered("cellfeat run --precision ") == ["bf16", "fp16", "fp32"]
    assert set(offered("cellfeat plugins info ")) == {name for slot in SLOTS for name in installed().names(slot)}


def test_parameters_are_those_of_the_methods_that_the_line_names(offered):
    found = offered("cellfeat run --align cae --clf lr --set align.")
    assert "align.epochs=" in found
    assert all(one.startswith("align.") for one in found)
    assert offered("cellfeat run --set align.") == []


def test_commands_also_those_of_a_plugin(offered):
    assert {"run", "doctor", "lora-sam"} <= set(offered("cellfeat "))
    assert offered("cellfeat lora-sam fine") == ["finetune"]
    assert offered("cellfeat bench ver") == ["verify"]


def test_what_goes_wrong_offers_nothing(offered, monkeypatch):
    monkeypatch.setenv("CELLFEAT_PLUGINS", "no-such-plugin")
    assert offered("cellfeat run --backbone ") == []


@pytest.mark.parametrize(
    ("shell", "settings"),
    [
        ("bash", {"COMP_WORDS": "cellfeat run --backbone lora", "COMP_CWORD": "3"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "cellfeat run --backbone lora"}),
        (
            "fish",
            {"_TYPER_COMPLETE_ARGS": "cellfeat run --backbone lora", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
        ),
    ],
)
def test_each_shell_is_answered_in_its_own_way_and_soon(shell, settings):
    environment = {**os.environ, completion.VARIABLE: f"complete_{shell}", **settings}
    command = [sys.executable, "-c", "import sys; sys.argv = ['cellfeat']; from cellfeat.cli import main; main()"]
    begun = os.times().children_user
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    used = os.times().children_user - begun
    assert done.returncode == 0, done.stderr
    assert "lora-sam" in done.stdout
    assert used < 3, "a person waits for it; it takes 0.5 s of an idle core"


def test_the_scripts_to_install_are_there(cellfeat, monkeypatch):  # noqa: F811
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    for shell in ("bash", "zsh", "fish"):
        code, out, err = cellfeat("--show-completion", shell)
        assert code == 0, err
        assert completion.VARIABLE in out
