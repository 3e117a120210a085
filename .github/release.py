"""Is the repository ready to be released as this tag? Writes the tag's section of the changelog for the release's page.

python .github/release.py v1.2.3 --notes notes.md

The version stands in pyproject.toml; the tag, CITATION.cff and CHANGELOG.md must agree with it. Needs Python alone.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def problems(tag: str, root: Path) -> list[str]:
    """What does not agree with the tag, one line each."""
    version = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    cited = re.search(
        r"^version: *[\"']?([^\"'\s]+)", (root / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE
    )
    found = []
    if tag != f"v{version}":
        found.append(f"the tag is {tag}, but pyproject.toml has version {version}, whose tag is v{version}")
    if cited is None or cited[1] != version:
        found.append(f"CITATION.cff has version {cited and cited[1]}, pyproject.toml {version}")
    if not section(version, root):
        found.append(f"CHANGELOG.md has no section '## [{version}] - YEAR-MONTH-DAY' with text below it")
    return found


def section(version: str, root: Path) -> str:
    """The changelog's text about a version, "" where there is none."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    heading = rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$"
    found = re.search(rf"{heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("tag", help="as in v1.2.3")
    parser.add_argument("--notes", type=Path, help="write the changelog's section to this file")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    asked = parser.parse_args()
    found = problems(asked.tag, asked.root)
    if found:
        sys.exit("\n".join(found))
    if asked.notes:
        asked.notes.write_text(section(asked.tag.removeprefix("v"), asked.root) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
