"""`cellfeat review`: a page on this machine where classified cells are accepted or corrected."""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cellfeat.review_server import ReviewServer

LOOK_EVERY = 0.5  # s, at the terminal and at the clock


def review(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of `cellfeat smear`, CSV of `cellfeat predict`")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of 127.0.0.1; default: any that is free")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser")] = True,
) -> None:
    """Look at classified cells, accept or correct each, by keys or mouse; every decision is saved at once.

    The page is for this machine alone. It ends with its button Finish, or with Ctrl-C here; the next start goes on
    where this one ended.
    """
    from cellfeat.review_server import start

    server = start(out, port)
    try:
        _tell(server)
        _invite(server, browser)
        while not server.wait(LOOK_EVERY):
            if _enter_was_pressed():
                _invite(server, browser=False)
    except KeyboardInterrupt:  # the usual end
        pass
    finally:
        server.close()
    _tell_results(server)


def _tell(server: ReviewServer) -> None:
    """What is lacking, or was lost, before anybody begins."""
    from cellfeat.console import note

    table = server.review.table
    if server.missing:
        note(
            f"{server.missing} of {len(table.cells)} cells have no picture that can be read here (URLs are not "
            "fetched); they are reviewed without"
        )
    if server.outside:
        note(
            f"{server.outside} of {len(table.cells)} pictures lie outside the folder of {table.path.name} and this "
            "one, as the table names them; if you did not make the table yourself, look at where"
        )
    if server.review.journal.half:
        note(f"{table.journal}: its last line was cut short, as by a kill; that step was not confirmed and is left out")


def _tell_results(server: ReviewServer) -> None:
    """What was decided, a smear's new count, and what comes next."""
    from cellfeat.console import say
    from cellfeat.recounted import COUNTS
    from cellfeat.showing import show

    table = server.review.table
    counts = server.review.counts()
    said = ", ".join(f"{number:,} {what}" for what, number in counts.items() if what != "left")
    say(f"{table.reviewed}: {said or 'nothing decided'}; {counts['left']:,} not looked at")
    found = server.review.recounted() if said else None
    if found is not None:
        for one in found.tables():
            show(one)
        say(f"The count of the reviewed cells is in {table.path.with_name(COUNTS[0])}, and as JSON beside it")
    if said:
        say(f"Next: cellfeat data correct {quote(str(table.reviewed))} -o corrected.csv")


def _invite(server: ReviewServer, browser: bool) -> None:
    """Print an address that opens the page once, or open the page with it."""
    from cellfeat.console import say

    address = server.new_address()
    typer.echo(address)  # whole, so that it can be copied or clicked
    if browser and not webbrowser.open(address):
        say("No browser could be opened; open this address yourself.")
    another = "Enter prints a new one, for another browser. " if _has_terminal() else ""
    say(f"It opens the page once. {another}Ctrl-C ends the review; everything is saved as it goes.")


def _has_terminal() -> bool:
    """Whether lines can be read here without waiting for them; on Windows they cannot."""
    return sys.platform != "win32" and sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()


def _enter_was_pressed() -> bool:
    import os
    import select

    # A thread that waits for a line would not let Python end.
    if not _has_terminal() or not select.select([sys.stdin], [], [], 0)[0]:
        return False
    return bool(os.read(sys.stdin.fileno(), 4096))
