r"""What `mkdocs build` does beside its own work, so that every link of a page works here and in a repository browser.

Pages link to files of the repository by their true paths (`../benchmarks/README.md`, `pages.sh`). Each such file is
a page under repository/: Markdown as it is, other text as a listing, a folder as the list of its files. Nothing is
fetched, and the site is whole without any host of sources. `methods/` in the navigation stands for all of its pages.
A pipe in the code of a table is `\|` in the source, as repository browsers want it, and is shown without the backslash.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
SOURCES = PurePosixPath("repository")
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
METHOD = re.compile(r"\| \[`([^`]+)`\]")
PIPED = re.compile(r"(?<!`)`([^`]*\\\|[^`]*)`(?!`)")
FENCE = re.compile(r"^ {0,3}(```|~~~)")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".sh": "sh", ".toml": "toml", ".json": "json"}
SERVED = {".md", ".html", ".png", ".svg"}  # of docs/: as mkdocs serves them


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """`methods/` in the navigation becomes the folder's pages, under the headings of its list.

    A 404.html would lead from the host's root, and where the site will lie is not known: the host has one of its own.
    """
    config.theme.static_templates.discard("404.html")
    listed: list[Any] = ["methods/README.md"]
    shown: set[str] = set()
    for line in (DOCS / "methods" / "README.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            listed.append({line.removeprefix("## "): (pages := [])})
        elif (row := METHOD.match(line)) and row[1] not in shown:  # `lora-sam` is in two lists and has one page
            shown.add(row[1])
            pages.append({row[1]: f"methods/{row[1]}.md"})
    for entry in config.nav or ():
        for title, target in entry.items():
            if target == "methods/":
                entry[title] = listed
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """A page for every file outside the site that a page links to, and for those that these link to."""
    waiting = [DOCS / file.src_uri for file in files.documentation_pages()]
    waiting += [ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]
    seen = {path for path in waiting if path.is_relative_to(DOCS)}
    while waiting:
        path = waiting.pop()
        if path in seen and not path.is_relative_to(DOCS):
            continue
        seen.add(path)
        if not _is_served(path):
            files.append(File.generated(config, _uri(path), content="\n".join(_listing(path))))
        if path.suffix == ".md":
            waiting += [target for target in _targets(path) if not _is_served(target) and target not in seen]
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to files of the repository lead to their pages, and tables show pipes as pipes."""
    place = page.file.src_uri
    own = _path(place)
    if own.suffix != ".md":
        return markdown
    return "\n".join(_relinked(markdown.splitlines(), own, PurePosixPath(place).parent))


def _relinked(lines: Iterable[str], own: Path, here: PurePosixPath) -> Iterator[str]:
    def changed(found: re.Match[str]) -> str:
        target = _target(own, found[2])
        if target is None:
            return found[0]
        uri = _uri(target) if not _is_served(target) else target.relative_to(DOCS).as_posix()
        return f"{found[1]}{os.path.relpath(uri, here)}{found[3] or ''}{found[4]}"

    for line, is_code in _outside_code(lines):
        shown = PIPED.sub(_with_pipes, line) if line.startswith("|") else line
        yield line if is_code else LINK.sub(changed, shown)


def _with_pipes(code: re.Match[str]) -> str:
    r"""`int \| None` as HTML, every sign of it by its number, so that none means anything to Markdown."""
    text = code[1].replace("\\|", "|")
    return f"<code>{''.join(sign if sign.isalnum() or sign == ' ' else f'&#{ord(sign)};' for sign in text)}</code>"


def _outside_code(lines: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """(line, whether it belongs to a block of code)."""
    inside = False
    for line in lines:
        fence = FENCE.match(line) is not None
        yield line, inside or fence
        inside ^= fence


def _targets(page: Path) -> Iterator[Path]:
    for line, is_code in _outside_code(page.read_text(encoding="utf-8").splitlines()):
        for found in () if is_code else LINK.finditer(line):
            target = _target(page, found[2])
            if target is not None:
                yield target


def _target(page: Path, link: str) -> Path | None:
    """The file or folder of the repository that a relative link names; None for an address, and where there is none."""
    if "://" in link or link.startswith(("mailto:", "/")):
        return None
    path = Path(os.path.normpath(page.parent / link))
    if (path / "README.md").is_file():
        path /= "README.md"
    return path if path.is_relative_to(ROOT) and path.exists() else None


def _is_served(path: Path) -> bool:
    return path.is_relative_to(DOCS) and path.is_file() and path.suffix in SERVED


def _uri(path: Path) -> str:
    """suites/x.yaml -> repository/suites/x.yaml.md; mkdocs passes over names with a dot in front: .a -> _a."""
    place = re.sub(r"^\.", "_", path.relative_to(ROOT).as_posix())
    return str(SOURCES / (place if path.suffix == ".md" else f"{place}.md"))


def _path(uri: str) -> Path:
    """The file that a page of the site is made from."""
    if not uri.startswith(f"{SOURCES}/"):
        return DOCS / uri
    place = ROOT / re.sub("^_", ".", uri.removeprefix(f"{SOURCES}/"))
    return place if place.is_file() else place.with_suffix("")


def _listing(path: Path) -> Iterator[str]:
    """Lines of the page of a file or folder."""
    if path.suffix == ".md":
        yield path.read_text(encoding="utf-8")
        return
    yield from (f"# {path.relative_to(ROOT).as_posix()}", "")
    if path.is_dir():
        yield from ("| file | kB |", "|---|--:|")
        for file in sorted(path.rglob("*")):
            if file.is_file():
                yield f"| `{file.relative_to(path).as_posix()}` | {max(1, round(file.stat().st_size / 1000))} |"
        return
    yield from (f"````{LANGUAGES.get(path.suffix, 'text')}", path.read_text(encoding="utf-8").rstrip(), "````")
