"""Which plugins load, by the environment and by options anywhere on the command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cellfeat.errors import CellfeatError
from cellfeat.plugin_choice import PLACES, VARIABLES, Choice, taken_from


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    """No choice in the environment, and what a test puts there goes away."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    Path("one.py").write_text("")


def test_nothing_said_takes_everything():
    assert Choice.of_environment().is_all
    assert Choice.of_environment().takes("anything", "of anybody")
    assert taken_from(["run", "--align", "cae"]) == ["run", "--align", "cae"]
    assert Choice.of_environment().is_all


@pytest.mark.parametrize(
    ("text", "taken"), [("", []), ("cae", ["cae"]), (" cae , da ,cae", ["cae", "da"]), ("mine-dist", ["mine"])]
)
def test_cellfeat_plugins_names_what_loads(monkeypatch, text, taken):
    monkeypatch.setenv("CELLFEAT_PLUGINS", text)
    plugins = {"cae": "cellfeat", "da": "cellfeat", "mine": "mine-dist"}
    choice = Choice.of_environment()
    assert [name for name, distribution in plugins.items() if choice.takes(name, distribution)] == taken


@pytest.mark.parametrize(
    "arguments",
    [
        ["--plugins-dir", "mine", "-p", "no:cae", "run", "--folds", "2"],
        ["run", "--plugins-dir=mine", "--folds", "2", "-p", "no:cae"],
        ["run", "--folds", "2", "-pno:cae", "--plugins-dir", "mine"],
    ],
)
def test_options_stand_anywhere_and_go_into_the_environment(arguments, tmp_path):
    assert taken_from(arguments) == ["run", "--folds", "2"]
    assert os.environ["CELLFEAT_NO_PLUGINS"] == "cae"
    assert Choice.of_environment() == Choice(None, ("cae",), (tmp_path / "mine",))
    assert not Choice.of_environment().takes("cae", "cellfeat")


def test_options_add_to_the_environment_and_to_each_other(monkeypatch, tmp_path):
    monkeypatch.setenv("CELLFEAT_PLUGINS_DIR", str(tmp_path / "mine"))
    monkeypatch.setenv("CELLFEAT_NO_PLUGINS", "da")
    taken_from(["-p", "no:cae", "--plugins-dir", "one.py", "-p", "no:da"])
    assert Choice.of_environment() == Choice(None, ("da", "cae"), (tmp_path / "mine", tmp_path / "one.py"))


def test_other_options_of_that_letter_are_left_to_their_commands():
    assert taken_from(["stain", "fit", "-p", "3", "--", "-p", "no:cae"]) == [
        "stain",
        "fit",
        "-p",
        "3",
        "--",
        "-p",
        "no:cae",
    ]
    assert taken_from(["stain", "-p"]) == ["stain", "-p"]
    assert Choice.of_environment().is_all


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plugins-dir", "nowhere"], "--plugins-dir nowhere: there is no such file or folder"),
        (["--plugins-dir", "notes.txt"], "--plugins-dir notes.txt: it is no .py file"),
        (["--plugins-dir"], "--plugins-dir needs a folder of *.py files and packages, or one .py file"),
        (["--plugins-dir", "--align"], "--plugins-dir needs a folder"),
        (["--plugins-dir", f"a{os.pathsep}b"], "in it cannot be given; rename the folder"),
    ],
)
def test_a_wrong_place_is_one_clear_line(arguments, message):
    Path("notes.txt").write_text("")
    with pytest.raises(CellfeatError) as error:
        taken_from(arguments)
    assert message in str(error.value)


def test_a_wrong_place_in_the_environment_names_the_variable(monkeypatch):
    monkeypatch.setenv("CELLFEAT_PLUGINS_DIR", "nowhere")
    with pytest.raises(CellfeatError, match=r"CELLFEAT_PLUGINS_DIR .*nowhere: there is no such file or folder"):
        Choice.of_environment()


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice(only=("cea",)), "CELLFEAT_PLUGINS: no plugin or distribution named 'cea'. Did you mean 'cae'?"),
        (Choice(left_out=("cea",)), "-p no:NAME or CELLFEAT_NO_PLUGINS: no plugin or distribution named 'cea'."),
    ],
)
def test_an_unknown_name_is_answered_with_the_choices(choice, message):
    with pytest.raises(CellfeatError) as error:
        choice.check({"cae", "da"})
    assert str(error.value).startswith(message)
    assert str(error.value).endswith("Available: cae, da")
    Choice(("cae",), ("da",)).check({"cae", "da"})


def test_places_in_the_environment_do_not_depend_on_the_working_folder(monkeypatch, tmp_path):
    (tmp_path / "mine.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(PLACES, "mine.py")
    assert taken_from(["plugins", "list"]) == ["plugins", "list"]
    assert os.environ[PLACES] == str(tmp_path / "mine.py")
    assert Choice.of_environment().options() == f" --plugins-dir {tmp_path / 'mine.py'}"


def test_leaving_nothing_out_is_refused():
    with pytest.raises(CellfeatError, match="-p no: leaves nothing out: name a plugin, as in -p no:cae"):
        taken_from(["plugins", "list", "-p", "no:"])
