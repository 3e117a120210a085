"""`requirements.txt` of a submission: where the plugins of others are from, and nothing else.

It is written by strangers and handed to pip, which does far more than to install what is named: every line that is not
a name with a version, or with a commit over https, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement

REQUIREMENTS = "requirements.txt"
OWN = "cellfeat"
FORMS = "NAME==VERSION or NAME @ git+https://HOST/PATH@COMMIT (40 hexadecimal digits)"
COMMIT = re.compile(r"git\+https://[\w.-]+(/[\w-][\w.-]*)+@[0-9a-f]{40}(#subdirectory=[\w-]+(/[\w-]+)*)?", re.ASCII)
ENCODING = re.compile(r"coding[:=]")  # pip obeys it, and another encoding can make other lines of the same bytes
NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?=[\[=@;<>!~]|$)")
COMMENT = re.compile(r"(^|\s)#.*$")


def faults(content: bytes, used: Mapping[str, Collection[str]], left_out: Collection[str] = ()) -> list[str]:
    """What is wrong with a file, and what it lacks.

    content: of the file; empty where there is none. used: {distribution: versions} that the records name, without
    cellfeat's own. left_out: distributions of rows that are not handed in, whose lines `only` takes away.
    """
    known = {plain(name): (name, versions) for name, versions in used.items()}
    text = _decoded(content)
    found = [f"{REQUIREMENTS} is not plain ASCII text"] if text is None else []
    named: set[str] = set()
    for number, line in enumerate((text or "").splitlines(), 1):
        wanted = COMMENT.sub("", line).strip()
        if ENCODING.search(line):
            found.append(f"{REQUIREMENTS}, line {number}: a line must not name an encoding")
        elif wanted and _name(wanted) not in {plain(name) for name in left_out} - known.keys():
            key, fault = _line(wanted, known)
            fault = fault or (f"{key} is named twice" if key in named else "")
            named |= {key}
            found += [f"{REQUIREMENTS}, line {number}: {fault}"] if fault else []
    for key, (name, versions) in sorted(known.items()):
        if len(versions) > 1:
            found.append(f"records were made with {len(versions)} versions of {name} ({', '.join(sorted(versions))})")
        elif key not in named:
            found.append(
                f"{REQUIREMENTS} does not say where {name} is from; add a line such as {name}=={min(versions)} or "
                f"{name} @ git+https://…@COMMIT"
            )
    return found


def _decoded(content: bytes) -> str | None:
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError:
        return None
    return text if all(character.isprintable() or character in "\t\r\n" for character in text) else None


def _line(line: str, known: Mapping[str, tuple[str, Collection[str]]]) -> tuple[str, str]:
    """The plain name that a line asks for ('' where it asks for none), and what is wrong with it ('' for nothing)."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        asked = Requirement(line)
    except InvalidRequirement:
        return "", f"{line!r} is neither {FORMS}"
    key = plain(asked.name)
    if key == OWN:
        return key, f"{OWN} itself is what checks a submission, and cannot be named"
    if key not in known:
        return key, f"no record was made with {asked.name}; take the line out"
    if asked.marker is not None:
        return key, f"{asked.name} has a condition ({asked.marker}); it must hold everywhere"
    return key, _source(asked, known[key][1])


def _source(asked: Requirement, versions: Collection[str]) -> str:
    """What is wrong with where a distribution comes from."""
    if asked.url is not None:
        return "" if COMMIT.fullmatch(asked.url) else f"{asked.url} is not git+https://HOST/PATH@COMMIT, 40 digits"
    pins = list(asked.specifier)
    if len(pins) != 1 or pins[0].operator != "==" or pins[0].version.endswith("*"):
        return f"{asked.name} does not say where it is from; name it as {FORMS}"
    if not any(_same(pins[0].version, version) for version in versions):
        return f"has {asked.name}=={pins[0].version}, but the records were made with {min(versions)}"
    return ""


def _same(one: str, other: str) -> bool:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(one) == Version(other)
    except InvalidVersion:
        return one == other


def only(text: str, names: Collection[str]) -> str:
    """The lines that name one of these distributions."""
    kept = {plain(name) for name in names}
    return "".join(f"{line.strip()}\n" for line in text.splitlines() if _name(line) in kept)


def _name(line: str) -> str:
    """The plain name that a line begins with; '' where it begins otherwise."""
    found = NAME.match(line)
    return plain(found[1]) if found else ""


def suggested(used: Mapping[str, Collection[str]]) -> str:
    """A file that names every distribution with the newest version that records were made with."""
    lines = [f"{name}=={newest(versions)}\n" for name, versions in sorted(used.items())]
    return "".join(lines) or "# every plugin is cellfeat's own\n"


def newest(versions: Collection[str]) -> str:
    """The newest by PEP 440, where 0.10 is newer than 0.9; what is no such version is older than all others."""
    from packaging.version import InvalidVersion, Version

    def order(version: str) -> tuple[bool, Version, str]:
        try:
            return True, Version(version), version
        except InvalidVersion:
            return False, Version("0"), version

    return max(versions, key=order)


def plain(name: str) -> str:
    """A distribution's name as the index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
