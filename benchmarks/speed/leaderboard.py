"""How long a leaderboard of many records takes to build, and how long its page takes to answer.

Results are made up (`benchmarks.speed.made_up_results`). Building is the time of `cellfeat bench leaderboard` as a
whole; an answer is the time from an action in headless Chromium to the frame after it, the slowest of several.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import common
from benchmarks.speed import made_up_results, measure
from cellfeat import CellfeatError

ACTIONS = {
    "sort": "document.querySelector('[data-sort=seconds]').click()",
    "unfold": "document.querySelectorAll('tr.row')[{n}].querySelector('th.name button').click()",
    "search": "{{ const box = document.getElementById('search'); box.value = 'row-0{n}'; "
    "box.dispatchEvent(new Event('input')); }}",
    "clear": "{{ const box = document.getElementById('search'); box.value = ''; "
    "box.dispatchEvent(new Event('input')); }}",
    "source": "{{ const choice = document.getElementById('source'); choice.selectedIndex = {n} % choice.length; "
    "choice.dispatchEvent(new Event('change')); }}",
    "matrix": "document.querySelector('[data-view=matrix]').click()",
    "time": "document.querySelector('[data-view=time]').click()",
    "table": "document.querySelector('[data-view=table]').click()",
}
MEASURE = (
    "() => new Promise((done) => {{ const start = performance.now(); {action}; "
    "requestAnimationFrame(() => setTimeout(() => done(performance.now() - start), 0)); }})"
)


def main(
    rows: Annotated[int, typer.Option(min=2, help="Rows of the benchmark, each with two classifiers")] = 42,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of every row")] = 5,
    cells: Annotated[list[int] | None, typer.Option(help="Of a laboratory; repeat; default: 300 400 1000 5000")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Times that every action is measured")] = 10,
    json: Annotated[Path | None, typer.Option(help="Append a JSON line to this file")] = None,
) -> None:
    """Build one page, then act in it; the slowest answer to every action counts."""
    with tempfile.TemporaryDirectory() as name:
        record = built(Path(name), rows, seeds, cells or [300, 400, 1000, 5000])
        record |= {"load": measure.load()}
        record["answers_ms"] = answers(Path(name) / "index.html", repeats)
    common.append_json(json, "leaderboard", [record])
    print(f"{record['records']:,} records: {record['seconds']:.1f} s, {record['page_bytes'] / 1e6:.1f} MB")
    print(", ".join(f"{action} {took:.0f} ms" for action, took in record["answers_ms"].items()))


def built(folder: Path, rows: int, seeds: int, cells: list[int]) -> dict[str, Any]:
    """Made-up results and their page, with the seconds of the command as a whole."""
    count = made_up_results.write(folder / "results", cells, rows, seeds=seeds)
    command = [sys.executable, "-m", "cellfeat", "bench", "leaderboard", str(folder / "results"), "-o", str(folder)]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    return {"records": count, "seconds": seconds, "page_bytes": (folder / "index.html").stat().st_size}


def answers(file: Path, repeats: int) -> dict[str, float]:
    """Milliseconds of the slowest answer to every action."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        raise CellfeatError("no Chromium; install Debian's package chromium, or another one as google-chrome")
    slowest = dict.fromkeys(ACTIONS, 0.0)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(file.resolve().as_uri())
        for number in range(1, repeats + 1):
            for name, action in ACTIONS.items():
                took = page.evaluate(MEASURE.format(action=action.format(n=number)))
                slowest[name] = max(slowest[name], round(took, 1))
        browser.close()
    return slowest


if __name__ == "__main__":
    common.start(main)
