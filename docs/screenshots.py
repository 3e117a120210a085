"""Makes the pictures of the site: of the committed pages in Chromium, and of what a command prints.

python docs/screenshots.py [NAME …]

Needs Playwright and a Chromium (CELLFEAT_TEST_CHROMIUM names one that is not on the path). The command is run on drawn
cells, so nobody's images are shown; a picture that is made again differs where a result, a page or a font does.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
PICTURES = DOCS / "pictures"
DESK, SHEET = (1280, 800), (860, 560)  # px
COMMAND = "run --data cells/manifest.csv --align per-domain-z --clf svm-linear --source lab-a --out first-run"
COLUMNS = 110
FEATURES = "document.getElementById('figure-embedding-before-alignment').scrollIntoView()"


def photograph(page: str, target: Path, size: tuple[int, int], prepare: str = "") -> None:
    """A picture of the first screen of a page of docs/, or at an address, in light colours, after a script has run."""
    from playwright.sync_api import sync_playwright

    names = (os.environ.get("CELLFEAT_TEST_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, filter(None, names))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        view = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme="light").new_page()
        view.goto(page if page.startswith("http://") else (DOCS / page).as_uri())
        if prepare:
            view.evaluate(prepare)
        view.wait_for_timeout(500)  # ms, for what is drawn after the page has loaded
        view.screenshot(path=target)
        browser.close()


def print_run(target: Path) -> None:
    """What `cellfeat run` says and prints, drawn as a terminal shows it."""
    from rich.console import Console
    from rich.text import Text

    with tempfile.TemporaryDirectory() as folder:
        settings: Any = {"cwd": folder, "env": os.environ | {"CELLFEAT_CACHE": f"{folder}/cache"}, "check": True}
        drawn = ["cellfeat", "data", "demo", "cells", "--per-class", "12"]
        subprocess.run(drawn, stderr=subprocess.DEVNULL, **settings)
        run = ["cellfeat", *COMMAND.split()]
        said = subprocess.run(run, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **settings).stdout
    shown = Console(record=True, width=COLUMNS, file=io.StringIO(), color_system="truecolor")
    shown.print(Text(f"$ cellfeat {COMMAND}", style="bold"))
    shown.print(Text(said.rstrip()))
    # Rich's picture asks another host for its font; the reader's own will do.
    picture = re.sub(r"@font-face \{.*?\}\n", "", shown.export_svg(title="cellfeat"), flags=re.DOTALL)
    target.write_text(picture, encoding="utf-8")


def photograph_review(target: Path) -> None:
    """The page of `cellfeat review` on drawn cells of a laboratory that the run has not seen, a few decided."""
    from cellfeat import api

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        os.environ["CELLFEAT_CACHE"] = f"{folder}/cache"
        method = {"backbone": "colour", "align": "per-domain-z", "clf": "lr"}
        run, _ = api.run(api.demo("cells", per_class=12), **method, source=["lab-a"], folds=2, out="run")
        images = sorted(Path("cells/images").glob("lab-b_*"))
        api.predict(run, images, out="first.csv", domain="lab-b", refit=True)
        with api.review("first.csv") as server:
            cells, first = server.review.table.cells, server.review.table.classes[0]
            shown = sorted((cell.probability, row) for row, cell in enumerate(cells) if cell.answer == first)
            truth = {row: cells[row].id.split("_")[1] for _, row in shown[:7]}  # as in lab-b_monocyte_0001.png
            server.review.decide(truth, "screenshot", 1)
            photograph(server.new_address(), target, SHEET, "scrollTo(0, 0)")


MADE: dict[str, Callable[[Path], None]] = {
    "leaderboard.png": lambda target: photograph("leaderboard/index.html", target, DESK),
    "report.png": lambda target: photograph("report/index.html", target, SHEET, FEATURES),
    "review.png": photograph_review,
    "run.svg": print_run,
}


def main() -> None:
    for name in sys.argv[1:] or list(MADE):
        MADE[name](PICTURES / name)


if __name__ == "__main__":
    main()
