"""What a terminal of any width, a pipe, a log and an old encoding get to see: everything, and nothing else."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from cellfeat import showing
from cellfeat.report import result_table

WIDTHS = (40, 60, 80, 200)


def printed(table: Table, width: int) -> str:
    out = io.StringIO()
    showing.show(table, Console(file=out, width=width, force_terminal=False, highlight=False))
    return out.getvalue()


@pytest.fixture(scope="module")
def records(finished_suite) -> list[dict]:
    lines = (finished_suite / "records.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [one for one in found if one["address"] == found[0]["address"]]


@pytest.mark.parametrize("width", WIDTHS)
def test_a_runs_table_loses_no_name_and_no_number_at_any_width(records, width):
    text = printed(result_table(records), width)
    flat = " ".join(text.split())
    for record in records:
        score = record["scores"]["accuracy"]
        assert f"{100 * score['mean']:.1f}" in flat
        assert f"[{100 * score['low']:.1f}, {100 * score['high']:.1f}]" in flat
        if not record["held_out_folds"]:
            assert f"{record['source']} → {record['target']}" in flat
    assert "…" not in text


@pytest.mark.parametrize("width", WIDTHS)
def test_words_are_never_cut(width):
    table = Table("name", "file", "digest", title="Things", caption="Told below")
    names = ["cell-tiny-v1", "vit_b_lm"]
    for name in names:
        table.add_row(name, f"/cache/{name}.pt", "sha256:" + "ab" * 20)
    text = printed(table, width)
    for name in names:
        assert f"/cache/{name}.pt" in text
    assert text.count("sha256:" + "ab" * 20) == 2
    assert "Things" in text
    assert "Told below" in text


def test_what_does_not_fit_is_lines_of_heading_and_value():
    table = Table("", "row", "mean", "s")
    table.add_row("1", "coral/lr", "91.2 [88.0, 93.1]", "")
    table.add_row("", "none/lr", "80.2 [77.0, 84.1]", "12")
    assert printed(table, 12).splitlines() == [
        "1 coral/lr",
        "  mean: 91.2 [88.0, 93.1]",
        "none/lr",
        "  mean: 80.2 [77.0, 84.1]",
        "  s: 12",
    ]


@pytest.mark.parametrize("width", [12, 80])
def test_a_name_in_brackets_is_no_markup(width):
    names = ["[/i]baso", "[bold]x[/bold]", ":smile:"]
    table = Table("class", names[0], "n", title="Of [/x]", caption="Told of [red]lab")
    for name in names:
        table.add_row(name, name, "80.2 [77.0, 84.1]")
    text = printed(table, width)
    assert text.count(names[0]) == (5 if width == 12 else 3)  # its heading is beside every row that becomes lines
    for one in (*names, "Of [/x]", "Told of [red]lab"):
        assert one in text


def test_json_has_no_nan(capsys):
    showing.show_json({"a": [float("nan"), 1.5, (float("inf"),)], 3: "×"})
    out = capsys.readouterr().out
    assert json.loads(out) == {"a": [None, 1.5, [None]], "3": "×"}
    assert out.isascii()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "cellfeat", *arguments]


SET_BY_THE_TEST = ("CI", "NO_COLOR", "TERM", "LANG", "COLUMNS", "LINES")


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in SET_BY_THE_TEST}
    return {**kept, "TERM": "xterm-256color", **changes}


@pytest.mark.parametrize("settings", [{"PYTHONIOENCODING": "ascii"}, {"LANG": "C", "LC_ALL": "C"}])
def test_an_output_without_the_signs_gets_plain_ones(settings, finished_suite):
    arguments = ["bench", "list", str(finished_suite)]
    done = subprocess.run(command(*arguments), env=environment(**settings), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"coral" in done.stdout or b"z/lr" in done.stdout
    if "PYTHONIOENCODING" in settings:
        assert done.stdout.isascii()
        assert b"-> lab-b" in done.stdout


def test_every_sign_of_our_own_texts_has_a_plain_one():
    texts = Path(showing.__file__).parent.glob("*.py")
    signs = {sign for path in texts for sign in path.read_text(encoding="utf-8") if not sign.isascii()}
    assert not any("".join(showing.PLAIN.values()).encode("utf-8")[i] > 127 for i in range(3))
    assert signs & set(showing.PLAIN) >= {"×", "→", "…", "–", "·"}
    error = UnicodeEncodeError("ascii", "12 × ü → 3²", 3, 11, "")
    assert showing._replaced(error) == ("x \\xfc -> 32", 11)


def test_a_reader_that_leaves_early_is_no_matter():
    """Through a shell, as `cellfeat … | head -1`: with a little output and with much, and with JSON."""
    for arguments in ("plugins list", "plugins list --json", "data info --help"):
        line = f"{sys.executable} -m cellfeat {arguments} | head -1"
        done = subprocess.run(["bash", "-c", line], env=environment(), capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), arguments
        assert len(done.stdout.splitlines()) == 1


def on_terminal(arguments: list[str], width: int = 80, **changes: str) -> str:
    """What a command writes to a terminal of so many columns, everything to the same one."""
    ours, theirs = pty.openpty()
    import fcntl
    import struct
    import termios

    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    process = subprocess.Popen(command(*arguments), env=environment(**changes), stdout=theirs, stderr=theirs)
    os.close(theirs)
    parts = []
    while True:
        try:
            parts.append(os.read(ours, 65536))
        except OSError:  # the terminal's other end is closed
            break
    os.close(ours)
    assert process.wait() == 0, b"".join(parts)
    return b"".join(parts).decode().replace("\r\n", "\n")


def test_a_log_has_no_control_characters_even_on_a_terminal(tmp_path):
    arguments = ["data", "demo", "--per-class", "1", "--size", "32"]
    plain = {"dumb": {"TERM": "dumb"}, "ci": {"CI": "true"}}
    for name, changes in plain.items():
        text = on_terminal([*arguments, str(tmp_path / name)], **changes)
        assert "synthetic cells" in text
        assert not set(text) & {"\x1b", "\r"}, text
    piped = subprocess.run(command(*arguments, str(tmp_path / "piped")), env=environment(), capture_output=True)
    assert not set(piped.stderr + piped.stdout) & set(b"\x1b\r")
    shown = on_terminal([*arguments, str(tmp_path / "shown")])
    assert "\x1b" in shown, "a terminal does get its bar"
    uncoloured = on_terminal([*arguments, str(tmp_path / "uncoloured")], NO_COLOR="1")
    assert "\x1b[3" not in uncoloured
    assert "\x1b[9" not in uncoloured


def test_a_narrow_terminal_gets_every_name(tmp_path):
    text = on_terminal(["weights", "list"], width=40, CELLFEAT_CACHE=str(tmp_path))
    assert "dinobloom-g" in text
    assert "has seen: SA-1B, light-microscopy images of micro-sam's generalist" in text
    assert "cellfeat weights fetch NAME" in " ".join(text.split())


def test_narrow_help_cuts_no_name():
    for words in (["--help"], ["run", "--help"], ["hub", "push", "--help"]):
        text = on_terminal(words, width=60)
        assert "…" not in text.replace("NAME,…", ""), text
    text = on_terminal(["--help"], width=60)
    assert "--install-completion" in text
    assert "CELLFEAT_PLUGINS_DIR" in text
