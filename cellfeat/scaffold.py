"""A repository for a method of one's own, from the templates in `templates/plugin`.

`common` holds what all four slots share, a folder by each slot's option the rest: the method itself, its recipe, its
suite and its tests. A template's path is the path in the repository, where `package` stands for the package's name and
`dot-` for a leading dot. Whatever its author has to change stands on a line with the word `EDIT:`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cellfeat.artifacts import atomic_folder
from cellfeat.errors import CellfeatError
from cellfeat.plugin_names import Kind, Names

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates" / "plugin"
SUFFIX = ".jinja"
WORD = "EDIT:"
README = "README.md"
AUTHOR = re.compile(r"\s*(?P<name>[^<>]*[^<>\s])\s*(<(?P<mail>[^<>@\s]+@[^<>@\s]+)>)?\s*")


class Author(NamedTuple):
    """Whose work it is, for the licence and the package's metadata; `mail` may be empty."""

    name: str
    mail: str = ""


class Edit(NamedTuple):
    """One line that is left to the author: where it stands, and what it asks for."""

    path: str
    what: str


def write_plugin(kind: Kind, names: Names, folder: Path, author: Author) -> list[str]:
    """Write the repository of a new plugin into a folder that is not there yet; gives its files' paths, sorted.

    Raises: CellfeatError where the folder exists.
    """
    files = render(kind, names, author)
    with atomic_folder(folder) as partial:
        for path, text in files.items():
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            (partial / path).write_text(text, encoding="utf-8")
    return list(files)


def render(kind: Kind, names: Names, author: Author) -> dict[str, str]:
    """{path: text} of a new plugin's repository, sorted by path."""
    environment = _environment()
    values: dict[str, Any] = {"kind": kind, "names": names, "author": author, "year": date.today().year}
    values["requires"] = _lowest()
    texts: dict[str, str] = {}
    for part in ("common", kind.option):
        for source in sorted((TEMPLATES / part).rglob(f"*{SUFFIX}")):
            path = _destination(source.relative_to(TEMPLATES / part), names)
            if path != README:
                texts[path] = environment.get_template(source.relative_to(TEMPLATES).as_posix()).render(values)
    texts = dict(sorted(texts.items()))
    edits = [edit for path, text in texts.items() for edit in _edits(path, text)]
    # Last, because it lists what is left to the author in all other files.
    texts[README] = environment.get_template(f"common/{README}{SUFFIX}").render(values, edits=edits)
    return dict(sorted(texts.items()))


def author_of(text: str | None, names: Names) -> Author:
    """From "Name <mail>"; without it from Git's settings, and where these name nobody, "The authors of …".

    Raises: CellfeatError for a text of another form.
    """
    if text is None:
        name, mail = _git("user.name"), _git("user.email")
        return _author(f"{name} <{mail}>") or _author(name) or Author(f"The authors of {names.distribution}")
    author = _author(text)
    if author is None:
        raise CellfeatError(f"--author {text!r} is not of the form 'Name' or 'Name <mail@example.org>'")
    return author


def _author(text: str) -> Author | None:
    found = AUTHOR.fullmatch(text)
    return Author(found["name"], found["mail"] or "") if found and text.isprintable() else None


def _git(key: str) -> str:
    """One of Git's settings; empty where there is none, or no Git."""
    git = shutil.which("git")
    if git is None:
        return ""
    done = subprocess.run([git, "config", "--get", key], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _destination(path: Path, names: Names) -> str:
    """src/package/aligner.py.jinja -> src/cellfeat_mine/aligner.py"""
    parts = [names.module if part == "package" else re.sub("^dot-", ".", part) for part in path.parts]
    return "/".join(parts).removesuffix(SUFFIX)


def _edits(path: str, text: str) -> list[Edit]:
    """The first sentence of what is asked for, line by line."""
    lines = [line.partition(WORD)[2].strip() for line in text.splitlines() if WORD in line]
    return [Edit(path, re.split(r"\.(?: |$)", line)[0]) for line in lines]


def _lowest() -> str:
    """The oldest cellfeat that the new plugin asks for: the minor version that it was written with."""
    from importlib.metadata import version

    from packaging.version import Version

    running = Version(version("cellfeat"))
    return str(running) if running.is_prerelease else f"{running.major}.{running.minor}"


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=False,  # none of it is HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["toml"] = lambda text: json.dumps(text, ensure_ascii=False)  # a basic string of TOML is one
    return environment
