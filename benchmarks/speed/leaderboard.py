"""How long a leaderboard of many records takes to build, and how long its page takes to answer.

Results are made up (`benchmarks.speed.made_up_results`). Building is the time of `cellfeat bench leaderboard` as a
whole; an answer is the time from an action in headless Chromium to the frame after it, the slowest of several.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.speed import made_up_results

ACTIONS = {
    "sort": "document.querySelector('[data-sort=seconds]').click()",
    "unfold": "document.querySelectorAll('tr.row')[{n}].querySelector('td.name button').click()",
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=42, help="rows of the benchmark, each with two classifiers")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of every row")
    parser.add_argument("--cells", type=int, nargs="+", default=[300, 400, 1000, 5000], help="cells of each laboratory")
    parser.add_argument("--repeats", type=int, default=10, help="times that every action is measured")
    parser.add_argument("--out", type=Path, help="keep results and page in this folder, which must not exist")
    parser.add_argument("--json", type=Path, help="append the figures to this file, as a line of JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out or Path(scratch) / "made-up"
        found = measure(folder, options.rows, options.seeds, options.cells, options.repeats)
    print(json.dumps(found, indent=1))
    if options.json:
        with options.json.open("a") as file:
            file.write(json.dumps({"program": "leaderboard", **found}) + "\n")


def measure(folder: Path, rows: int, seeds: int, cells: list[int], repeats: int) -> dict[str, object]:
    count = made_up_results.write(folder / "results", cells, rows, seeds=seeds)
    start = time.perf_counter()
    command = [sys.executable, "-m", "cellfeat", "bench", "leaderboard", str(folder / "results"), "-o", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    page = folder / "index.html"
    return {
        "records": count,
        "build_s": round(seconds, 1),
        "page_mb": round(page.stat().st_size / 1e6, 2),
        "answers_ms": answers(page, repeats),
    }


def answers(file: Path, repeats: int) -> dict[str, float]:
    """Milliseconds of the slowest answer to every action."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        raise SystemExit("error: no Chromium; install Debian's package chromium")
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
    main()
