"""`cellfeat info`: what a file or folder is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def info(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Any file or folder that cellfeat reads or writes")],
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON")] = False,
) -> None:
    """What a file or folder is, and what to do with it next. Nothing in it is run."""
    import json

    from cellfeat.artifact_info import describe
    from cellfeat.console import console, say

    found = describe(path)
    if as_json:
        print(json.dumps({"path": str(path), **found._asdict()}, indent=1))
        return
    console.print(f"{path}: {found.kind}", markup=False, soft_wrap=True)
    for name, value in found.facts.items():
        if value not in (None, [], {}):
            console.print(f"  {name}: {_told(value)}", markup=False, soft_wrap=True)
    for command in found.next:
        say(f"Next: {command}")


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key} {_told(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_told(item) for item in value)
    return f"{value:,}" if type(value) is int and value >= 10_000 else str(value)
