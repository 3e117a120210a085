"""How long `import cellfeat` and the command line's first answers take, beside the interpreter alone.

python -m benchmarks.speed.startup --repeats 15

Every call is a process of its own, and the ways take turns. Wall time is what a person waits; on a busy machine a
process waits for its turn, so that the time of the processor is shown too. Completion is asked as bash asks it.
"""

from __future__ import annotations

import platform
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from benchmarks import common
from benchmarks.speed.plugins_help import seconds

LINE = "cellfeat run --align per-domain-z,cor"  # as it stands when the tab key is pressed
COMPLETION = f"""
import os
os.environ |= {{"_CELLFEAT_COMPLETE": "complete_bash", "COMP_WORDS": {LINE!r}, "COMP_CWORD": "3"}}
from cellfeat.cli import main
main()
"""
WAYS = {
    'python -c "pass"': ("-c", "pass"),
    'python -c "import cellfeat"': ("-c", "import cellfeat"),
    "cellfeat --version": ("-m", "cellfeat", "--version"),
    "cellfeat --help": ("-m", "cellfeat", "--help"),
    f"{LINE}, completed": ("-c", COMPLETION),
}


def main(
    repeats: Annotated[int, typer.Option(min=1, help="Turns of all ways, of which the median counts")] = 15,
    json: Annotated[Path | None, typer.Option(help="Append a JSON line per way to this file")] = None,
) -> None:
    """The median start of each, in turns, after one turn that fills the file cache."""
    turns = [{way: seconds(arguments, None) for way, arguments in WAYS.items()} for _ in range(repeats + 1)][1:]
    table = common.new_table(
        f"Starts: Python {platform.python_version()}, {common.cpu_model()}",
        "way",
        "s",
        "least",
        "most",
        "s of the processor",
    )
    rows = []
    for way in WAYS:
        took, processor = [[turn[way][place] for turn in turns] for place in (0, 1)]
        row = {"way": way, "seconds": median(took), "range": [min(took), max(took)], "repeats": repeats}
        rows.append({**row, "processor_seconds": median(processor)})
        table.add_row(way, *(f"{value:.3f}" for value in (median(took), min(took), max(took), median(processor))))
    common.append_json(json, "startup", rows)
    common.show(table)


if __name__ == "__main__":
    common.start(main)
