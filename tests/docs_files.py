"""Files that pages of the documentation take for granted, made of drawn cells; and commands run in this process."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from cellfeat import cli, console, plugin_choice

ROOT = Path(__file__).resolve().parent.parent
LABORATORIES = ("acevedo20", "bccd", "tecom")


def cellfeat(words: list[str], variables: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command in this process, which is left as it was."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        for name in (
            *plugin_choice.VARIABLES,
            "CELLFEAT_OFFLINE",
        ):  # options go into the environment, which the next command shares
            patch.setenv(name, "")
            patch.delenv(name)
        for name, value in (variables or {}).items():
            patch.setenv(name, value)
        # Of a plugin's repository `pip install -e` does the same: its package is found, and its methods are offered.
        sources = [str(path) for path in (Path.cwd() / "src", *Path.cwd().glob("cellfeat-*/src")) if path.is_dir()]
        for source in sources:
            patch.syspath_prepend(source)
        if sources:
            patch.setenv("CELLFEAT_PLUGINS_DIR", os.pathsep.join(sources))
        patch.setattr(sys, "argv", ["cellfeat", *words])
        patch.setattr(cli.app, "registered_groups", list(cli.app.registered_groups))
        patch.setattr(console, "_said", set())
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
    return code, out.getvalue(), err.getvalue()


class Prepared:
    """Files that pages take for granted, each made when a page first names it, and copied for every page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def lay_out(self, folder: Path, todo: list[str]) -> None:
        """Copies of what the lines name and do not make themselves; `folder` is made."""
        folder.mkdir()
        words = [shlex.split(line) for line in todo]
        made = {after.rstrip("/") for line in words for before, after in pairwise(line) if before in OUT}
        made |= {f"cellfeat-{line[4]}" for line in words if line[1:3] == ["plugins", "new"]}
        for name in MAKERS:
            if name not in made and any(_names(word, name) for line in words for word in line):
                self._copy(name, folder / name)

    def _copy(self, name: str, target: Path) -> None:
        source = self.made(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)

    def made(self, name: str) -> Path:
        """The path of a prepared file or folder, made now if it was not yet."""
        path = self.folder / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            MAKERS[name](self, path)
        return path


OUT = ("-o", "--out", "--output")


def _names(word: str, name: str) -> bool:
    return word.endswith(f"={name}") or word.startswith(f"{name}/") or name in (word, f"cellfeat-{word}")


@cache
def _drawn(folder: Path) -> list[dict[str, str]]:
    """Rows of a manifest: ten cells of five classes of three laboratories, 48 px, with absolute paths."""
    from cellfeat.demo import write_demo

    with write_demo(folder, per_class=10, size=48).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row | {column: str(folder / row[column]) for column in ("path", "mask_path")} for row in rows]


def _manifest(store: Prepared, path: Path, names: tuple[str, ...] = ()) -> None:
    rows = _drawn(store.folder / "drawn")
    own = sorted({row["domain"] for row in rows})
    called = dict(zip(own, names or own, strict=True))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(row | {"domain": called[row["domain"]]} for row in rows)


def _images(store: Prepared, path: Path, place: Callable[[dict[str, str], int], str]) -> None:
    for number, row in enumerate(_drawn(store.folder / "drawn")[::3]):
        target = path / place(row, number)
        target.parent.mkdir(parents=True, exist_ok=True)
        _convert(Path(row["path"]), target)


def _convert(source: Path, target: Path) -> None:
    from PIL import Image

    Image.open(source).convert("RGB").save(target)


ACEVEDO = {"basophil": "BA", "eosinophil": "EO", "lymphocyte": "LY", "monocyte": "MO", "neutrophil": "SNE"}
MATEK = {"basophil": "BAS", "eosinophil": "EOS", "lymphocyte": "LYT", "monocyte": "MON", "neutrophil": "NGS"}
SUITE = """\
name: mine
dataset: {labels: five-class}
backbone: {name: colour}
classifiers: [lr]
seeds: [1]
protocols: {transfers: {name: cross-domain, adapt: test, folds: 2, fitted_folds: 1}}
rows: {none: {align: none}, per-domain-z: {align: per-domain-z}, coral: {align: coral}}
"""


def _run(store: Prepared, path: Path) -> None:
    method = shlex.split("--backbone colour --align per-domain-z --clf lr")
    words = ["run", "--data", str(store.made("cells.csv")), *method, "--out", str(path)]
    code, _, err = cellfeat(words)
    assert code == 0, err


def _plugin(store: Prepared, path: Path) -> None:
    with contextlib.chdir(path.parent):
        code, _, err = cellfeat(["plugins", "new", "align", "my-method"])
    assert code == 0, err


def _results(store: Prepared, path: Path) -> None:
    words = ["bench", "run", str(store.made("suite.yaml")), "--data", str(store.made("cells.csv")), "--out", str(path)]
    code, _, err = cellfeat(words)
    assert code == 0, err


MAKERS: dict[str, Callable[[Prepared, Path], None]] = {
    "cells.csv": _manifest,
    "manifest.csv": lambda store, path: _manifest(store, path, LABORATORIES),
    "ward-7": lambda store, path: _images(store, path, lambda row, n: f"{row['label']}/{n}.png"),
    "new-images": lambda store, path: _images(store, path, lambda row, n: f"{n}.png"),
    "images": lambda store, path: _images(store, path, lambda row, n: f"{n}.png"),
    "PBC_dataset_normal_DIB": lambda store, path: _images(
        store, path, lambda row, n: f"{row['label']}/{ACEVEDO[row['label']]}_{n}.jpg"
    ),
    "AML-Cytomorphology_LMU": lambda store, path: _images(
        store, path, lambda row, n: f"{MATEK[row['label']]}/{MATEK[row['label']]}_{n:04d}.tiff"
    ),
    "suite.yaml": lambda store, path: path.write_text(SUITE, encoding="utf-8") and None,
    "first-run": _run,
    "run-1": _run,
    "results/mine": _results,
    "results/theirs": _results,
    "cellfeat-my-method": _plugin,
    "benchmarks": lambda store, path: shutil.copytree(ROOT / "benchmarks", path) and None,
}
