"""`cellfeat doctor`: what could keep cellfeat from working here, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cellfeat.findings import Finding

STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="The findings as JSON")] = False,
) -> None:
    """Look at versions, GPU, memory, disk, weights, plugins and settings; exit status 1 if something is wrong.

    Every line is ok, a note, or a problem, and says what to do.
    """
    from collections import Counter
    from dataclasses import asdict

    from cellfeat.console import say
    from cellfeat.doctor import examine
    from cellfeat.findings import PROBLEM
    from cellfeat.showing import show_json

    found = examine()
    counts = Counter(one.state for one in found)
    if as_json:
        show_json({"findings": [asdict(one) for one in found], "problems": counts[PROBLEM]})
    else:
        for one in found:
            _show(one)
        say(", ".join(f"{counts[state]} {word}" for state, word in WORDS.items() if counts[state]))
    if counts[PROBLEM]:
        raise typer.Exit(1)


WORDS = {"ok": "as they should be", "note": "to know", "problem": "to be mended"}


def _show(one: Finding) -> None:
    from rich.text import Text

    from cellfeat.console import console

    line = Text.assemble((f"{one.state:<8}", STYLES[one.state]), f"{one.what}: {one.text}")
    console.print(line, soft_wrap=True)
    if one.remedy:
        console.print(Text(f"        what to do: {one.remedy}"), soft_wrap=True)
