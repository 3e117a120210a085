"""Pages in headless Chromium: opened from the disk, every console message, error and request noted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

DESK, PHONE = (1280, 900), (390, 844)  # px
SERIOUS = ("serious", "critical")


@dataclass
class Opened:
    """A page in a browser, and what went wrong or out of it."""

    page: Page
    problems: list[str] = field(default_factory=list)  # errors and warnings of the console, exceptions
    requests: list[str] = field(default_factory=list)  # other than the page itself, data: and blob: addresses
    blocked: list[str] = field(default_factory=list)  # those that the page's own policy stopped

    def findings(self) -> list[str]:
        """axe-core's serious and critical findings: rule, and the elements."""
        from axe_playwright_python.sync_playwright import Axe

        results = Axe().run(self.page).response
        return [
            f"{one['id']}: {' '.join(str(node['target']) for node in one['nodes'][:5])}"
            for one in results["violations"]
            if one["impact"] in SERIOUS
        ]

    def sideways(self) -> int:
        """How many px the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, or the one that CELLFEAT_TEST_CHROMIUM names; the test is skipped where there is none."""
    from playwright.sync_api import sync_playwright

    names = (os.environ.get("CELLFEAT_TEST_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, filter(None, names))), None)
    if path is None:
        tell: Any = pytest.fail if os.environ.get("CI") else pytest.skip
        tell("no Chromium: install Debian's package chromium, or name a browser by CELLFEAT_TEST_CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Browser, file: Path, fragment: str = "", size: tuple[int, int] = DESK, theme: str = "light"
) -> Iterator[Opened]:
    """The file in a window of this size, with this preferred theme."""
    own = file.resolve().as_uri()
    with visiting(browser, own + fragment, own, size, theme) as found:
        yield found


@contextmanager
def visiting(
    browser: Browser, address: str, own: str, size: tuple[int, int] = DESK, theme: str = "light"
) -> Iterator[Opened]:
    """An address, in a browser's window without a past; requests of addresses that begin with `own` are the page's."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=theme, accept_downloads=True
    )
    found = Opened(context.new_page())
    page = found.page
    page.on("console", lambda m: found.problems.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found.problems.append(str(error)))
    page.on(
        "request",
        lambda r: found.requests.append(r.url) if not r.url.startswith(("data:", "blob:", own)) else None,
    )
    page.on("requestfailed", lambda r: found.blocked.append(r.url) if r.failure == "csp" else None)
    try:
        page.goto(address)
        yield found
    finally:
        context.close()
