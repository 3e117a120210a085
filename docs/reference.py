"""Makes the pages that follow from code: methods/*.md, and the tables of plugins/conformance.md.

python docs/reference.py
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from cellfeat.testing import checks_of

DOCS = Path(__file__).resolve().parent
SLOTS = {"align": "Alignment methods", "backbone": "Backbones", "segmenter": "Segmenters", "classifier": "Classifiers"}
CHECKS = re.compile(r"(<!-- checks -->\n).*(<!-- end of checks -->)", re.DOTALL)


def told(*words: str) -> str:
    """What `cellfeat plugins …` prints."""
    return subprocess.run(["cellfeat", "plugins", *words], check=True, capture_output=True, text=True).stdout


def write_methods() -> None:
    """A page for each method that comes with cellfeat, and a list of them."""
    shipped = [one for one in json.loads(told("list", "--json"))["offers"] if one["distribution"] == "cellfeat"]
    folder = DOCS / "methods"
    folder.mkdir(exist_ok=True)
    for path in folder.glob("*.md"):
        path.unlink()
    for name in sorted({one["name"] for one in shipped}):
        (folder / f"{name}.md").write_text(told("info", name, "--markdown"), encoding="utf-8")
    (folder / "README.md").write_text("\n".join(index(shipped)) + "\n", encoding="utf-8")


def index(shipped: list[dict[str, str]]) -> Iterator[str]:
    """Lines of the list of methods."""
    yield from ("# Methods that come with cellfeat", "")
    yield "Made from their signatures by [reference.py](../reference.py)."
    yield "`cellfeat plugins info NAME --markdown` writes such a page for every installed method."
    for slot, heading in SLOTS.items():
        yield from ("", f"## {heading}", "", "| name | |", "|---|---|")
        for one in sorted((one for one in shipped if one["slot"] == slot), key=lambda one: one["name"]):
            yield f"| [`{one['name']}`]({one['name']}.md) | {plain(one['name'], one['summary'])} |"


def plain(name: str, summary: str) -> str:
    """A summary without the name before it, which the row has already: Align `none`: the mean … -> The mean …"""
    said = re.sub(rf"^\w+ `{re.escape(name)}`: ", "", summary)
    return said if said == summary or said.startswith("x ") else said[:1].upper() + said[1:]


def conformance() -> str:
    """The page of the kit with a table of checks for every slot."""
    lines = []
    for slot, heading in SLOTS.items():
        lines += [f"## {heading}", "", "| check | promise | when it fails |", "|---|---|---|"]
        lines += [f"| `{one.name}` | {one.promise} | {one.remedy} |" for one in checks_of(slot)]
        lines.append("")
    page = (DOCS / "plugins" / "conformance.md").read_text(encoding="utf-8")
    return CHECKS.sub(lambda found: "\n".join([found[1], *lines, found[2]]), page)


def main() -> None:
    write_methods()
    (DOCS / "plugins" / "conformance.md").write_text(conformance(), encoding="utf-8")


if __name__ == "__main__":
    main()
