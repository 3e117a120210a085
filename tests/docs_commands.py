"""Commands of README and docs: found, laid out with drawn data, and run in the order of their page.

How it goes. Every line of a ```sh block is a command. The lines of a page run one after the other in a folder of its
own, `cellfeat …` in this process, with one cache for many pages. A page that names `cells.csv`, `ward-7/`, `first-run`,
… and does not make them itself finds them there: MAKERS says what there is. A block under `<!-- file: NAME -->` is
written to that file first. To make a new page run:

- names that it needs and that are not in MAKERS: add a function there that makes them;
- a line that costs too much, or needs a download: a line in REPLACED, which says what is run instead and why;
- a line that cannot be run here at all: a line in NOT_RUN, with the reason;
- a page whose commands another test runs already: a line in ELSEWHERE.

Entries that fit no line any more are an error, so that the tables stay as short as they can be. Whether options exist
is asked of every line all the same, by test_docs.py.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from cellfeat import cli, console, plugin_choice

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = {"cat", "cd", "cp", "echo", "head", "ls", "mkdir"}  # small commands that a page may have between ours
FILE = re.compile(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)
LABORATORIES = ("acevedo20", "bccd", "tecom")


@dataclass(frozen=True)
class Replaced:
    """part of a line, what stands there instead when it is run, and why."""

    part: str
    instead: str
    why: str


REPLACED = [
    Replaced(
        "run --backbone lora-sam --align none", "run --data cells.csv --align none", "the demo has 360 cells; time"
    ),
    Replaced(
        "adapter --weights vit_b --masks-from", "second-adapter --weights vit_b --masks-from", "adapter is made above"
    ),
    Replaced("adapter --weights vit_b", "adapter --weights cell-tiny --epochs 1 --domain lab-a", "375 MB; hours"),
    Replaced("weights=vit_b", "weights=cell-tiny", "a download of 375 MB"),
    Replaced(
        "check my-method", "check my-method --plugins-dir cellfeat-my-method/src --only shape", "nothing is installed"
    ),
    Replaced("--set epochs=1 --budget", "--set prior_cells=5 --budget", "the new repository's method has no epochs"),
    Replaced("check per-domain-z", "check per-domain-z --only shape", "test_contracts.py makes every check"),
    Replaced("--random 5", "--random 1", "time"),
]
NOT_RUN = {
    ".venv/bin/": "an environment made with pip",
    "pip download": "needs a package index",
    "cellfeat run --data cells.csv --backbone dinov2-b": "a download",
    "cellfeat run --data cells.csv --backbone dinobloom-s": "a download",
    "cellfeat run --data cells.csv --backbone timm": "a download",
    "cellfeat onnx resnext50.onnx": "25 million parameters; test_onnx.py exports smaller ones",
    "docker ": "needs a container engine; test_docker.py reads the Dockerfile",
    "cellfeat weights fetch vit_b": "a download of 375 MB; test_weights.py fetches from a server of its own",
    "cellfeat run --offline": "the whole demo takes minutes; the autoencoder's and the runs' tests do its parts",
    "python3 -m venv .venv": "makes an environment with pip; .ci/run runs the second of these",
    "pip install": "needs a package index; of a plugin's repository, `cellfeat` below does what it does",
    "cellfeat bench submit results/mine --check --against": "records of the three laboratories; test_submission.py",
    "accelerate launch": "four GPUs; test_distributed.py runs two processes",
    "cellfeat run --recipe dorl --data": "150 + 300 epochs from SAM ViT-B; test_docs.py builds every recipe",
    "cellfeat weights import": "files of other authors; test_lora_sam_published.py and test_cae_published.py draw them",
    "cellfeat weights export": "an adapter of SAM ViT-B; test_lora_sam_published.py",
    "cellfeat extract cells.csv -o features.parquet --engine ray": "test_ray_engine.py runs it",
    "cellfeat extract cells.csv -o features.parquet --backbone lora-sam --engine ray": "test_ray_engine.py runs it",
    "cellfeat extract s3://": "a server of S3's kind; test_storage.py reads from one of memory",
    "export ": "names of a server of somebody else's",
    "cellfeat bench run benchmarks/suites/laboratories.yaml": "two days of two cores",
    "cellfeat run --data manifest.csv --labels five-class --source tecom": "ten minutes; test_real.py runs parts of it",
}
ELSEWHERE = {
    "docs/first-hour.md": "test_first_hour.py",
    "docs/plugins/publish.md": "test_tutorial.py",
    "docs/plugins/align.md": "test_docs_slots.py",
    "docs/plugins/backbone.md": "test_docs_slots.py",
    "docs/plugins/classifier.md": "test_docs_slots.py",
    "docs/plugins/segmenter.md": "test_docs_slots.py",
    "docs/examples/cellfeat-combat/README.md": "test_examples.py",
    "docs/examples/cellfeat-deep-coral/README.md": "test_examples.py",
}


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """The text of every block of code in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def lines(page: Path) -> list[str]:
    """Every command of a page's sh blocks, in order, continued lines joined, without comments."""
    text = "".join(blocks(page, "sh")).replace("\\\n", " ")
    found = (re.sub(r"(^|\s)#.*$", "", line).strip() for line in text.splitlines())
    return [line for line in found if line]


def bare(line: str) -> str:
    """Without variables in front."""
    return re.sub(r"^([A-Z_]+=\S+ )+", "", line)


def is_run(line: str) -> bool:
    return not any(bare(line).startswith(start) for start in NOT_RUN)


def replaced(line: str) -> str:
    for one in REPLACED:
        line = line.replace(one.part, one.instead)
    return line


def pages_to_run(half: int) -> list[Path]:
    """Every second page, from the one of this number on: a file of tests is one process, and two run at once."""
    return [page for page in PAGES if named(page) not in ELSEWHERE and any(map(is_run, lines(page)))][half::2]


@contextlib.contextmanager
def preparing(folder: Path) -> Iterator[Prepared]:
    """Files that pages take for granted, and one cache for all of these pages, below a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELLFEAT_CACHE", str(folder / "cache"))
        yield Prepared(folder)


def run_page(page: Path, store: Prepared, folder: Path) -> None:
    """Run what can be run of a page in a new folder. Raises AssertionError with the line that failed, and its words."""
    todo = [replaced(line) for line in lines(page) if is_run(line)]
    store.lay_out(folder, todo)
    for name, text in FILE.findall(page.read_text(encoding="utf-8")):
        (folder / name).write_text(text, encoding="utf-8")
    with contextlib.chdir(folder):
        for line in todo:
            code, said = run_line(line)
            assert code == 0, f"{named(page)}: {line}\n{said[-3000:]}"


def run_line(line: str) -> tuple[int, str]:
    """Exit status and words of one line: `A=1 cellfeat …`, `cellfeat … | grep x`, or a small command of the shell."""
    first, _, rest = line.partition(" | ")
    words = shlex.split(first)
    variables = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
    words = words[len(variables) :]
    if words[0] == "cd":
        os.chdir(words[1])
        return 0, ""
    if words[0] != "cellfeat":
        assert words[0] in SHELL, f"what is {words[0]!r}? Put the line into NOT_RUN, or its command into SHELL"
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", line], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr
    code, out, err = cellfeat(words[1:], variables)
    if rest and not code:
        done = subprocess.run(["bash", "-c", rest], input=out, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr
    return code, out + err


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
        for source in Path.cwd().glob("cellfeat-*/src"):  # what `pip install -e` of a plugin's repository does
            patch.syspath_prepend(str(source))
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
    return word == name or word.startswith(f"{name}/") or word.endswith(f"={name}")


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
