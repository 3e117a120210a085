"""What is said, where, how often, and what a pipe gets to see of it."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from rich.console import Console
from rich.table import Table

from cellfeat import console
from cellfeat.console import SilentReporter, TerminalReporter, note, progress, say

LONG = "a/" * 120 + "file [bold]not markup[/bold] 3.5"


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(console.time, "monotonic", lambda: Clock.now)
    return Clock


def on(monkeypatch, terminal: bool) -> io.StringIO:
    """Messages go to a text buffer that is or is not a terminal; nothing was said yet."""
    out = io.StringIO()
    monkeypatch.setattr(console, "messages", Console(file=out, force_terminal=terminal, width=80, highlight=False))
    monkeypatch.setattr(console, "_said", set())
    return out


def test_a_note_is_said_once_however_often_it_is_given(monkeypatch):
    out = on(monkeypatch, terminal=False)
    for text in ("one", "two", "one"):
        note(text)
    assert out.getvalue() == "note: one\nnote: two\n"


def test_in_a_pipe_a_line_stays_one_line_and_as_it_is(monkeypatch):
    out = on(monkeypatch, terminal=False)
    say(LONG)
    note(LONG)
    assert out.getvalue() == f"{LONG}\nnote: {LONG}\n"


def test_messages_go_to_stderr_and_tables_to_stdout_without_being_folded():
    code = (
        "from cellfeat.console import *\nfrom rich.table import Table\nt = Table('a' * 70, 'b' * 70)\n"
        "console.print(t); say('said'); note('noted')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "said\nnote: noted\n"
    assert f"{'a' * 70} ┃ {'b' * 70}" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


def test_short_work_leaves_nothing_in_a_pipe(monkeypatch, clock):
    out = on(monkeypatch, terminal=False)
    with progress(3, "encoding") as bar:
        for _ in range(3):
            bar.advance()
            clock.now += 1
    assert out.getvalue() == ""


def test_long_work_says_a_rare_line_with_rate_and_time_left(monkeypatch, clock):
    out = on(monkeypatch, terminal=False)
    with progress(1000, "encoding images") as bar:
        for _ in range(70):
            clock.now += 1
            bar.advance(10)
    assert out.getvalue().splitlines() == [
        "encoding images: 300/1000, 10.0/s, about 70 s left",
        "encoding images: 600/1000, 10.0/s, about 40 s left",
    ]


def test_what_an_earlier_run_had_done_does_not_count_for_the_rate(monkeypatch, clock):
    out = on(monkeypatch, terminal=False)
    with progress(1000, "training") as bar:
        bar.advance(900)
        for _ in range(40):
            clock.now += 1
            bar.advance()
    assert out.getvalue().splitlines() == ["training: 930/1000, 1.0/s, about 70 s left"]


def test_slow_work_is_counted_in_seconds_each_and_may_have_no_end(monkeypatch, clock):
    out = on(monkeypatch, terminal=False)
    with progress(None, "cae") as bar:
        clock.now += 40
        bar.advance()
        clock.now += 40
        bar.advance(0)
    assert out.getvalue().splitlines() == ["cae: 1, 40.0 s each", "cae: 1, 80.0 s each"]


def test_a_terminal_gets_a_bar_that_goes_away(monkeypatch):
    out = on(monkeypatch, terminal=True)
    with progress(4, "encoding [x]") as bar:
        bar.advance(3)
    assert "encoding [x]" in out.getvalue()
    assert "3/4" in out.getvalue()
    assert out.getvalue().endswith("\x1b[2K")  # the line is cleared


def test_bars_nest(monkeypatch):
    out = on(monkeypatch, terminal=True)
    with progress(2, "sources") as outer, progress(3, "epochs") as inner:
        inner.advance()
        outer.advance()
    assert "sources" in out.getvalue()
    assert "epochs" in out.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_an_error_passes_through_a_bar(monkeypatch, terminal):
    on(monkeypatch, terminal)
    with pytest.raises(RuntimeError, match="stop"), progress(2, "work"):
        raise RuntimeError("stop")


def test_the_terminals_reporter_keeps_what_it_said(monkeypatch):
    out = on(monkeypatch, terminal=False)
    first, second = TerminalReporter(), TerminalReporter()
    for reporter in (first, first, second):
        reporter.note("once")
        with reporter.progress(2, "work") as bar:
            bar.advance()
    assert out.getvalue() == "note: once\n"
    assert first.notes == second.notes == ["once"]


def test_the_silent_reporter_keeps_notes_and_shows_nothing(capsys):
    reporter = SilentReporter()
    reporter.note("once")
    reporter.note("once")
    with reporter.progress(None, "work") as bar:
        bar.advance(5)
    assert reporter.notes == ["once"]
    assert capsys.readouterr() == ("", "")


def test_tables_are_not_folded_at_eighty_columns():
    table = Table("x" * 60, "y" * 60)
    with console.console.capture() as shown:
        console.console.print(table)
    assert f"{'x' * 60} ┃ {'y' * 60}" in shown.get()
