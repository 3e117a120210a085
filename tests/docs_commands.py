"""Commands of README and docs: found, laid out with drawn data, and run in the order of their page.

How it goes. Every line of a ```sh block is a command. The lines of a page run one after the other in a folder of its
own, `cellfeat …` in this process, with one cache for many pages. A page that names `cells.csv`, `ward-7/`, `first-run`,
… and does not make them itself finds them there: MAKERS in docs_files.py says what there is. A page in ALONE is to be
followed from nothing, and finds nothing. A block under `<!-- file: NAME -->` is written to that file first. To make a
new page run:

- names that it needs and that are not in MAKERS: add a function there that makes them;
- a line that costs too much, or needs a download: a line in REPLACED, which says what is run instead and why;
- a line that cannot be run here at all: a line in NOT_RUN, with the reason;
- a page whose commands another test runs already: a line in ELSEWHERE.

Entries that fit no line any more are an error, so that the tables stay as short as they can be. Whether options exist
is asked of every line all the same, by test_docs.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from docs_files import Prepared, cellfeat

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = {"cat", "cd", "cp", "echo", "head", "ls", "mkdir"}  # small commands that a page may have between ours
FILE = re.compile(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Replaced:
    """part of a line, what stands there instead when it is run, and why."""

    part: str
    instead: str
    why: str


REPLACED = [
    Replaced(
        "adapter --weights vit_b --masks-from", "second-adapter --weights vit_b --masks-from", "adapter is made above"
    ),
    Replaced("adapter --weights vit_b", "adapter --weights cell-tiny --epochs 1 --domain lab-a", "375 MB; hours"),
    Replaced("weights=vit_b", "weights=cell-tiny", "a download of 375 MB"),
    Replaced("check my-method", "check my-method --only shape", "test_tutorial.py makes every check of a new method"),
    Replaced("--set epochs=1 --budget", "--set prior_cells=5 --budget", "the new repository's method has no epochs"),
    Replaced("check per-domain-z", "check per-domain-z --only shape", "test_contracts.py makes every check"),
    Replaced("--random 5", "--random 1", "time"),
]
NOT_RUN = {
    "~/cellfeat-env/": "an environment made with pip",
    "source ~/cellfeat-env/": "the same",
    "python3 -m venv ~/cellfeat-env": "the same",
    "python -m pip install": "needs a package index; of a plugin's repository, `cellfeat` below does what it does",
    "python -m pytest": "test_tutorial.py runs the tests of a new repository",
    "pip wheel": "needs a package index",
    "cellfeat run --data cells.csv --backbone dinov2-b": "a download",
    "cellfeat run --data cells.csv --backbone dinobloom-s": "a download",
    "cellfeat run --data cells.csv --backbone timm": "a download",
    "cellfeat review": "serves a page until somebody has finished; test_review_page.py does so in a browser",
    "docker ": "needs a container engine; test_docker.py reads the Dockerfile",
    "cellfeat weights fetch vit_b": "a download of 375 MB; test_weights.py fetches from a server of its own",
    "cellfeat run --offline": "the whole demo takes minutes; the autoencoder's and the runs' tests do its parts",
    "python3 -m venv .venv": "makes an environment with pip; .ci/run runs the second of these",
    "pip install": "needs a package index",
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
ALONE = {"docs/first-method.md"}
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
    store.lay_out(folder, [] if named(page) in ALONE else todo)
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
