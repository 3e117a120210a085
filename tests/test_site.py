"""The documentation site: built strictly, whole, and asking no other host for anything."""

from __future__ import annotations

import ast
import html
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from browsing import DESK, PHONE, opened

from cellfeat import recipe

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
# What the site is made of; a link to any other file of the repository is found by its text alone.
PARTS = ("docs", "benchmarks", ".github", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "mkdocs.yml")
SERVED_AS_THEY_ARE = ("leaderboard/index.html", "report/index.html")


class Links(HTMLParser):
    """Where a page leads, what it loads, and the names inside of it."""

    LOADS = (("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src"))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.leads: list[str] = []
        self.loads: list[str] = []
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.names |= {name for name in (found.get("id"), found.get("name")) if name}
        if tag == "a" and found.get("href"):
            self.leads.append(str(found["href"]))
        if tag == "link" and found.get("rel") in ("canonical", "next", "prev"):
            return
        self.loads += [str(found[key]) for kind, key in self.LOADS if tag == kind and found.get(key)]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as `mkdocs build --strict` builds it."""
    target = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Links]:
    return {path: Links(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}


def test_no_link_or_anchor_inside_the_site_is_broken(site, pages):
    for page, links in pages.items():
        if page.relative_to(site).as_posix() in SERVED_AS_THEY_ARE:  # test_leaderboard.py, test_run_report.py
            continue
        for link in links.leads:
            address = urlsplit(link)
            if address.scheme in ("http", "https", "mailto"):
                continue
            target = (page.parent / unquote(address.path)).resolve() if address.path else page
            assert target.is_file(), f"{page.name}: {link}"
            if address.fragment and target in pages and target.suffix == ".html" and "index.html#" not in link:
                assert unquote(address.fragment) in pages[target].names, f"{page.name}: {link}"


def test_nothing_is_asked_of_another_host(site, pages):
    for page, links in pages.items():
        for address in links.loads:
            assert not address.startswith(("http:", "https:", "//")), f"{page.name} loads {address}"
            if not address.startswith("data:"):
                assert (page.parent / unquote(urlsplit(address).path)).is_file(), f"{page.name}: {address}"
    for path in [*site.rglob("*.css"), *site.glob("*.js"), *site.glob("pictures/*.svg")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"url\(\s*[\"']?(https?:)?//|@import", text), path.name


def navigated(entries: list) -> Iterator[str]:
    for entry in entries:
        for target in entry.values() if isinstance(entry, dict) else [entry]:
            yield from navigated(target) if isinstance(target, list) else [target]


def test_every_page_is_in_the_navigation():
    listed = set(navigated(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    methods = {name for name in there if name.startswith("methods/")}
    assert "methods/" in listed, "stands for all of them"
    assert {name for name in listed if not name.startswith("repository/")} - {"methods/"} == there - methods


def test_pages_of_the_repository_and_whole_pages_are_served(site):
    assert "Changelog" in (site / "repository" / "CHANGELOG.html").read_text(encoding="utf-8")
    suite = (site / "repository" / "benchmarks" / "suites" / "laboratories.yaml.html").read_text(encoding="utf-8")
    assert "cross-domain" in suite
    for name in SERVED_AS_THEY_ARE:
        assert (site / name).read_bytes() == (DOCS / name).read_bytes()
    assert not list(site.rglob("*.py"))
    assert not (site / "report" / "run").exists(), "a run folder is no page"
    assert not (site / "404.html").exists(), "it would lead from the root of a host that is not known"


def test_every_method_is_in_the_navigation(site):
    text = (site / "methods" / "cae.html").read_text(encoding="utf-8")
    for path in (DOCS / "methods").glob("*.md"):
        name = "index" if path.stem == "README" else path.stem
        assert f'href="{name}.html"' in text, path.stem


def test_tables_are_tables(site, pages):
    """A row with a pipe too many, or a table without an empty line above, is shown as text."""
    for page in pages:
        if page.relative_to(site).as_posix() not in SERVED_AS_THEY_ARE:
            shown = re.sub(r"<(pre|code)\b.*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
            assert not re.search(r"\|\s*:?-{2,}", shown), page.name
            assert "&lt;!--" not in shown, page.name
            cells = re.findall(r"<td\b.*?</td>", page.read_text(encoding="utf-8"), re.DOTALL)
            assert not [cell for cell in cells if "\\|" in cell], page.name
    assert "<code>int &#124; None</code>" in (site / "methods" / "cae.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("size", "theme"), [(DESK, "light"), (PHONE, "dark")])
@pytest.mark.parametrize("name", ["index.html", "benchmark.html", "formats.html", "methods/cae.html"])
def test_pages_fit_the_window(browser, site, name, size, theme):
    with opened(browser, site / name, size=size, theme=theme) as found:
        assert found.sideways() <= 0
        assert not [address for address in found.requests if not address.startswith("file:")]
        broken = "[...document.querySelectorAll('td:first-child code')].filter(one => one.getClientRects().length > 1)"
        assert found.page.evaluate(f"{broken}.map(one => one.textContent)") == []


def test_the_search_works_from_a_disk(browser, site):
    with opened(browser, site / "index.html") as found:
        found.page.keyboard.press("/")
        found.page.keyboard.type("per-domain-z")
        found.page.wait_for_selector(".md-search-result__item", timeout=20_000)
        titles = " ".join(found.page.locator(".md-search-result__item h1").all_inner_texts())
    assert "per-domain-z" in titles


def with_gaps(node: ast.expr) -> str:
    """A text of a program, "…" for what is put in; nothing for what is no text."""
    if isinstance(node, ast.JoinedStr):
        return "".join(with_gaps(part) or "…" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def messages() -> list[str]:
    """Every text in the sources of the package and its plugins, and of what reads the command line for them."""
    paths = [*(ROOT / "cellfeat").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
    for found in filter(None, map(importlib.util.find_spec, ("typer", "click"))):
        paths += Path(str(found.origin)).parent.rglob("core.py")
    texts = []
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant | ast.JoinedStr):
                texts.append(with_gaps(node))
    return texts


THE_SHELLS = "cellfeat: command not found"


def test_the_errors_of_the_faq_are_real():
    headings = re.findall(r"^### (.*)$", (DOCS / "faq.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(headings) >= 20
    sources = messages()
    for heading in headings:
        message = re.fullmatch(r"`(.+)`", heading)
        assert message, f"{heading} is no message"
        parts = [part for part in message[1].split("…") if part.strip()]
        wanted = re.compile(".*".join(map(re.escape, parts)), re.DOTALL)
        assert message[1] == THE_SHELLS or any(map(wanted.search, sources)), message[1]
        assert len(message[1]) > 20, f"{message[1]}: too little to recognise"


def test_every_recipe_is_explained():
    text = (DOCS / "recipes.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z-]+)` \| [A-Z]", text, re.MULTILINE)) == set(recipe.built_in())


def test_tests_that_prove_promises_exist():
    names = re.findall(r"`(tests/[^`]+)`", (DOCS / "reliability.md").read_text(encoding="utf-8"))
    assert len(names) > 20
    assert not [name for name in names if not (ROOT / name).exists()]


def test_pictures_are_made_by_the_script_and_are_small():
    program = ast.parse((DOCS / "screenshots.py").read_text(encoding="utf-8"))
    (table,) = [
        node.value
        for node in program.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "MADE"
    ]
    assert isinstance(table, ast.Dict)
    made = {key.value for key in table.keys if isinstance(key, ast.Constant)}
    used = {name for path in DOCS.glob("*.md") for name in re.findall(r"\]\(pictures/([^)]+)\)", path.read_text())}
    assert used == made
    for name in made:
        assert 5_000 < (DOCS / "pictures" / name).stat().st_size < 200_000, name


def test_the_picture_of_a_run_ends_as_a_run_ends():
    """What `run` says last is in its source; the picture must not show what an earlier version said."""
    drawn = html.unescape((DOCS / "pictures" / "run.svg").read_text(encoding="utf-8")).replace("\xa0", " ")
    shown = [line.strip() for line in re.findall(r">([^<>]+)</text>", drawn) if line.strip()]
    program = ast.parse((ROOT / "cellfeat" / "commands" / "run.py").read_text(encoding="utf-8"))
    (run,) = [node for node in program.body if isinstance(node, ast.FunctionDef) and node.name == "run"]
    said = [with_gaps(node.args[0]) for node in ast.walk(run) if isinstance(node, ast.Call) and called(node) == "say"]
    wanted = [line for text in said for line in text.splitlines()]
    assert len(wanted) >= 3
    for line, form in zip(shown[-len(wanted) :], wanted, strict=True):
        assert re.fullmatch(".*".join(map(re.escape, form.split("…"))), line), f"{form}: python docs/screenshots.py"
    assert shown[-1].startswith("Next: cellfeat predict first-run IMAGES --refit")


def called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else ""


def test_a_link_that_leads_nowhere_stops_the_build(tmp_path):
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.parquet", "*.jsonl"))
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "docs" / "data.md").write_text("# Data\n\n[lost](no-such-page.md)\n", encoding="utf-8")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "no-such-page.md" in done.stdout + done.stderr
