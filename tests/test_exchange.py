"""Files of other programs: formats that plugins offer, their options, and what is refused or left behind."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cellfeat import CellfeatError, cli, hookimpl
from cellfeat.exchange import export_file, import_file
from cellfeat.registry import Broken, Registry


def read_toy(path: Path, folder: Path, scale: float = 1.0, sizes: tuple[int, int] = (1, 2)) -> str:
    (folder / "made").write_text(f"{path.read_text()} {scale} {sizes}")
    return f"look into {folder} twice: {folder}"


def write_toy(source: Path, path: Path, upper: bool = False) -> None:
    content = source.read_text()
    path.write_text(content.upper() if upper else content)


def fail(path: Path, folder: Path) -> None:
    (folder / "half").write_text("half")
    raise CellfeatError("this cannot be read")


class Toy:
    """Two slots, and files of its own."""

    importers = {"toy": read_toy, "broken-toy": fail}  # noqa: RUF012
    exporters = {"toy": write_toy}  # noqa: RUF012


def registry(*plugins: str) -> Registry:
    """Plugins of these names, each of which offers the factory as backbone and as segmenter."""
    made = Registry()
    for name in plugins:
        module = SimpleNamespace(
            cellfeat_backbone=hookimpl(named("cellfeat_backbone")),
            cellfeat_segmenter=hookimpl(named("cellfeat_segmenter")),
        )
        made.add(name, f"dist-{name}", "1", lambda module=module: module)
    assert not made.broken
    return made


def named(hook: str):
    def offer():
        return {"toy-model": Toy}

    offer.__name__ = hook
    return offer


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "source.txt"
    path.write_text("content")
    return path


def left_behind(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_import_fills_a_new_folder_and_names_it_in_what_it_says(source, tmp_path):
    said = import_file(registry("toys"), "toy", source, tmp_path / "out", ["scale=2", "sizes=[3, 4]"])
    assert (tmp_path / "out" / "made").read_text() == "content 2.0 (3, 4)"
    assert said == f"look into {tmp_path / 'out'} twice: {tmp_path / 'out'}"
    assert left_behind(tmp_path) == {"source.txt", "out"}


def test_export_writes_a_new_file(source, tmp_path):
    assert export_file(registry("toys"), "toy", source, tmp_path / "out.txt", ["upper=true"]) == ""
    assert (tmp_path / "out.txt").read_text() == "CONTENT"
    assert left_behind(tmp_path) == {"source.txt", "out.txt"}


@pytest.mark.parametrize(
    ("name", "assignments", "message"),
    [
        ("toi", [], r"no import format named 'toi'. Did you mean 'toy'\?.*By plugins: broken-toy of toys, toy of toys"),
        ("other:toy", [], r"no import format named 'other:toy'.*dist-toys:toy"),
        ("toy", ["scael=2"], r"no parameter of import format 'toy' named 'scael'. Did you mean 'scale'"),
        ("toy", ["folder=2"], r"no parameter of import format 'toy' named 'folder'"),
        ("toy", ["scale=much"], r"import format 'toy': scale is 'much', but must be float"),
        ("toy", ["scale=yes"], r"scale is True, but must be float"),
        ("toy", ["sizes=[1, 2, 3]"], r"sizes is \[1, 2, 3\], but must be tuple\[int, int\]"),
        ("toy", ["scale"], r"--set 'scale' is not of the form key=value"),
        ("toy", ["=2"], r"--set '=2' is not of the form key=value"),
        ("broken-toy", [], "this cannot be read"),
    ],
)
def test_a_mistake_leaves_nothing_behind(source, tmp_path, name, assignments, message):
    with pytest.raises(CellfeatError, match=message):
        import_file(registry("toys"), name, source, tmp_path / "out", assignments)
    assert left_behind(tmp_path) == {"source.txt"}


def test_plugins_that_did_not_load_are_named_with_an_unknown_format(source, tmp_path):
    toys = registry("toys")
    toys.broken.append(Broken("absent-toys", "dist", "no reason"))
    with pytest.raises(CellfeatError, match="not loaded: absent-toys"):
        import_file(toys, "other", source, tmp_path / "out")
    with pytest.raises(CellfeatError, match=r"no export format named 'toy'\. Available: nothing\. By plugins: none"):
        export_file(Registry(), "toy", source, tmp_path / "out")


def test_two_plugins_of_one_format_are_told_apart(source, tmp_path):
    both = registry("toys", "tins")
    with pytest.raises(CellfeatError, match=r"2 plugins offer import format 'toy'; say which one: .*dist-toys:toy"):
        import_file(both, "toy", source, tmp_path / "out")
    import_file(both, "dist-tins:toy", source, tmp_path / "out")
    assert (tmp_path / "out" / "made").is_file()


def test_nothing_is_overwritten_and_nothing_comes_from_nothing(source, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(CellfeatError, match="folder exists and is never overwritten"):
        import_file(registry("toys"), "toy", source, tmp_path / "folder")
    with pytest.raises(CellfeatError, match=r"source\.txt exists and is never overwritten"):
        export_file(registry("toys"), "toy", source, source)
    assert source.read_text() == "content"
    with pytest.raises(CellfeatError, match=r"no file at .*absent"):
        import_file(registry("toys"), "toy", tmp_path / "absent", tmp_path / "out")
    with pytest.raises(CellfeatError, match=r"nothing at .*absent"):
        export_file(registry("toys"), "toy", tmp_path / "absent", tmp_path / "out")
    assert left_behind(tmp_path) == {"source.txt", "folder"}


@pytest.fixture
def cellfeat(monkeypatch, capsys, tmp_path):
    """Run `cellfeat weights ARGUMENTS` with the toys alone; gives (exit status, stderr in one line)."""
    monkeypatch.setattr("cellfeat.registry.installed", lambda: registry("toys"))

    def call(*arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["cellfeat", "weights", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        output = capsys.readouterr()
        return code, " ".join(re.sub(r"[│╭╰─╮╯]", " ", output.out + output.err).split())

    return call


def test_the_commands(cellfeat, source, tmp_path):
    out = tmp_path / "out"
    code, said = cellfeat("import", "toy", source, "--out", out, "--set", "scale=2", "--set", "sizes=[3, 4]")
    assert (code, said) == (0, f"{out}: made from {source} look into {out} twice: {out}")
    assert (out / "made").read_text() == "content 2.0 (3, 4)"
    code, said = cellfeat("import", "toy", source, "--out", out)
    assert code == 2
    assert "never overwritten" in said
    code, said = cellfeat("export", "toy", source, "-o", tmp_path / "out.txt", "--set", "upper=true")
    assert (code, said) == (0, f"{tmp_path / 'out.txt'}: made from {source}")
    code, said = cellfeat("export", "tyo", source, "-o", tmp_path / "other.txt")
    assert code == 2
    assert "Did you mean 'toy'?" in said


def test_help_says_that_formats_come_from_plugins(cellfeat):
    code, said = cellfeat("import", "--help")
    assert code == 0
    assert "Formats come from the installed plugins" in said
