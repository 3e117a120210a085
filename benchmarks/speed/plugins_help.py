"""How long `cellfeat --help` and `cellfeat plugins list` take with many plugins installed.

python -m benchmarks.speed.plugins_help --plugins 100 --repeats 10

Made-up distributions, each with a method and a command, stand beside what is installed here; every call is a process of
its own. The ways take turns; times of the interpreter alone are shown beside them, since it is part of each. A process
waits for its turn on a busy machine, so that the time of its processor is shown too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from benchmarks import common

MODULE = '''\
"""A plugin that is made up."""

from cellfeat import SavesState, hookimpl


class Nothing(SavesState):
    """Changes nothing."""

    reads, writes, uses_target, uses_labels = ("pooled",), "pooled", False, False

    def fit(self, cells, context):
        return self

    def transform(self, cells, context):
        return cells.pooled


@hookimpl
def cellfeat_align():
    return {"NAME": Nothing}
'''
METADATA = "Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\nRequires-Dist: cellfeat>=0.1\n"
POINTS = "[cellfeat]\n{name} = {module}\n[cellfeat.commands]\n{name} = {module}:app\n"


def main(
    plugins: Annotated[int, typer.Option(min=1, help="Made-up distributions")] = 100,
    repeats: Annotated[int, typer.Option(min=1, help="Turns of all ways, of which the median counts")] = 10,
    json: Annotated[Path | None, typer.Option(help="Append a JSON line per way to this file")] = None,
) -> None:
    """The help and the list, with and without the made-up plugins, and the interpreter alone."""
    with tempfile.TemporaryDirectory() as folder:
        site = write_plugins(Path(folder) / "site", plugins)
        help_, list_ = ["-m", "cellfeat", "--help"], ["-m", "cellfeat", "plugins", "list"]
        ways = {
            "interpreter alone": (["-c", "pass"], None),
            "help, 0 plugins more": (help_, None),
            f"help, {plugins} plugins more": (help_, site),
            "list, 0 plugins more": (list_, None),
            f"list, {plugins} plugins more": (list_, site),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for turn in range(repeats + 1):
            for name, (arguments, place) in ways.items():
                took = seconds(arguments, place)
                if turn:  # the first compiles the modules, and reads them from the disk
                    found[name].append(took)
    _show(found, json)


def write_plugins(site: Path, count: int) -> Path:
    """Distributions as pip leaves them, of one module each."""
    for number in range(count):
        name, module = f"made-up-{number:03}", f"made_up_{number:03}"
        info = site / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(MODULE.replace("NAME", name), encoding="utf-8")
        (info / "METADATA").write_text(METADATA.format(name=name), encoding="utf-8")
        (info / "entry_points.txt").write_text(POINTS.format(name=name, module=module), encoding="utf-8")
    return site


def seconds(arguments: Sequence[str], site: Path | None) -> tuple[float, float]:
    """Of one process: until it has ended, and of the processor."""
    paths = [str(site)] if site else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
    before, began = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)
    took, after = time.perf_counter() - began, os.times()
    return took, after.children_user + after.children_system - before.children_user - before.children_system


def _show(found: Mapping[str, Sequence[tuple[float, float]]], json: Path | None) -> None:
    plain = {"help": "help, 0 plugins more", "list": "list, 0 plugins more"}
    table = common.new_table(
        "With many plugins", "way", "s", "least", "most", "s of the processor", "× without", left=1
    )
    rows = []
    for name, values in found.items():
        took, processor = [[one[place] for one in values] for place in (0, 1)]
        base = plain.get(name.partition(",")[0])
        ratio = median(took) / median(one[0] for one in found[base]) if base else None
        rows.append(
            {
                "way": name,
                "seconds": median(took),
                "range": [min(took), max(took)],
                "processor_seconds": median(processor),
                "ratio": ratio,
                "repeats": len(took),
            }
        )
        figures = [f"{value:.3f}" for value in (median(took), min(took), max(took), median(processor))]
        table.add_row(name, *figures, "" if ratio is None else f"{ratio:.2f}")
    common.append_json(json, "plugins-help", rows)
    common.show(table)


if __name__ == "__main__":
    common.start(main)
