"""The page of a review in Chromium: 300 cells by keyboard, the browser closed and the server killed in the middle."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from browsing import PHONE, visiting
from reviewing import CLASSES, read, smear_folder

from cellfeat import api
from cellfeat.review_page import keys_of
from cellfeat.review_table import read_table

START = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\nfrom cellfeat.cli import main; main()"
HOSTILE = "<img src=x onerror=\"document.title='taken'\">&\"'</script>"


@contextmanager
def reviewed_by(folder: Path):
    """`cellfeat review` in a process of its own, and the address that it prints."""
    command = [sys.executable, "-c", START, "review", str(folder), "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


@contextmanager
def entered(browser, address: str, **window):
    own = re.match(r"http://127\.0\.0\.1:\d+/", address)[0]
    with visiting(browser, address, own, **window) as found:
        until(found.page, "!['loading', 'not loaded'].includes(byId('saved').textContent)")
        yield found


def until(page, expression: str) -> None:
    """Wait for this in the page; its policy lets Playwright's own waiting not evaluate anything."""
    deadline = time.monotonic() + 30
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"never came: {expression}"
        time.sleep(0.01)


def saved(page) -> None:
    """Wait until the program has confirmed every step."""
    until(page, "waiting.length === 0")


def text(page, name: str) -> str:
    return page.locator(f"#{name}").text_content()


def in_order(folder: Path) -> list[list[int]]:
    """The rows of each group, as the page is to show them: least sure first."""
    cells = read_table(folder).cells
    groups = [[row for row, cell in enumerate(cells) if cell.answer == name] for name in ("", *CLASSES)]
    return [sorted(rows, key=lambda row: (cells[row].probability, row)) for rows in groups]


def script(folder: Path) -> list[tuple[int, str, str]]:
    """(row, key, answer) of every cell, in the order of the page; "." before the first cell of a later group."""
    cells, keys = read_table(folder).cells, {"1": "neutrophil", "l": "lymphocyte", "3": "monocyte"}
    keys |= {"n": "not a cell", "?": "unsure"}
    some = ["Enter", "1", "Space", "l", "Enter", "3", "n", "Enter", "?", "Enter", "Space"]
    rows = [row for group in in_order(folder) for row in group]
    return [(row, key, keys.get(key, cells[row].best)) for row, key in zip(rows, some * len(rows), strict=False) if key]


def press(page, folder: Path, steps: list[tuple[int, str, str]]) -> None:
    starts = {rows[0] for rows in in_order(folder)[1:]}
    for row, key, _ in steps:
        if row in starts:
            page.keyboard.press(".")
        page.keyboard.press(key)


@pytest.mark.slow
def test_300_cells_by_keyboard_through_a_closed_browser_and_a_killed_server(browser, tmp_path):
    folder = smear_folder(tmp_path / "smear", 300)
    steps = script(folder)
    assert len(steps) == 300
    with reviewed_by(folder) as (process, address):
        with entered(browser, address) as found:
            press(found.page, folder, steps[:160])
            for _ in range(10):
                found.page.keyboard.press("u")
            saved(found.page)
            assert text(found.page, "progressed") == "150 of 300 reviewed"
            assert (found.problems, found.requests) == ([], [])
        process.send_signal(signal.SIGKILL)
        process.wait()
    with (folder / "review.jsonl").open("a") as file:
        file.write('{"time": "2026-01-01T00:00:00", "client": "abc", "num')  # the kill met it in a line
    with reviewed_by(folder) as (process, address), entered(browser, address) as found:
        page = found.page
        assert text(page, "progressed") == "150 of 300 reviewed"
        for _ in range(5):  # steps of the earlier sitting
            page.keyboard.press("u")
        until(page, "byId('progressed').textContent === '145 of 300 reviewed'")
        press(page, folder, steps[145:])
        saved(page)
        assert re.fullmatch(r"saved \d\d:\d\d:\d\d", text(page, "saved"))
        assert text(page, "progressed") == "300 of 300 reviewed"
        page.get_by_role("button", name="Finish").click()
        page.get_by_text("Every cell was looked at.").wait_for()
        assert (found.problems, found.requests) == ([], [])
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "its last line was cut short" in err
    assert "0 not looked at" in err
    assert f"Next: cellfeat data correct {folder / 'reviewed.csv'} -o corrected.csv" in err
    expected = {f"slide/{row:04d}": answer for row, _, answer in steps}
    assert {line["id"]: line["reviewed"] for line in read(folder / "reviewed.csv")} == expected


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder with twelve classes, one of them and one id full of markup."""
    names = ("basophil", "blast", "eosinophil", HOSTILE, *(f"kind {number}" for number in range(8)))
    return smear_folder(tmp_path_factory.mktemp("many") / "smear", 60, names, id=HOSTILE)


def test_names_stay_texts_and_every_class_has_a_key(browser, many):
    with api.review(many) as server, entered(browser, server.new_address()) as found:
        page, table = found.page, server.review.table
        assert page.title() == "Review of smear"
        assert page.locator("#grid img[onerror], #choices img, #groups img").count() == 0
        assert page.locator("#grid").get_by_role("option").count() == 8, "every seventh cell has no answer"
        rows = page.evaluate("GROUPS.get(-1)")
        for row, keys, name in zip(rows, keys_of(table.classes)[:6][::-1], table.classes[:6][::-1], strict=False):
            page.keyboard.press(keys[-1])
            saved(page)
            assert server.review.journal.decisions[table.cells[row].id] == name
        page.keyboard.press("/")
        page.keyboard.type("kind")
        page.keyboard.press("Enter")
        assert text(page, "unnamed") == "No class, or several, have that in their name."
        page.locator("#named").fill("KIND 7")
        page.keyboard.press("Enter")
        saved(page)
        assert server.review.journal.decisions[table.cells[rows[6]].id] == "kind 7"
        assert found.problems == []


def test_keys_of_many_classes_are_all_different():
    names = [
        "neutrophil",
        "unknown",
        "monocyte",
        "metamyelocyte",
        "",
        "红细胞",
        *(f"m{number}" for number in range(30)),
    ]
    keys = keys_of(names)
    every = "".join(keys)
    assert len(set(every)) == len(every) == 9 + 24
    assert (keys[0], keys[1], keys[2], keys[3]) == ("1e", "2k", "3m", "4t")
    assert not set(every) & set("nu")
    assert keys[-1] == ""


@pytest.fixture
def visited(browser, tmp_path):
    """A server, and a page of it."""
    with api.review(smear_folder(tmp_path / "smear", 30)) as server, entered(browser, server.new_address()) as found:
        yield server, found


def test_several_at_once_undone_in_one_step_and_what_is_shown(visited):
    server, found = visited
    page, decisions = found.page, server.review.journal.decisions
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    assert page.locator("[aria-selected=true]").count() == 3
    page.keyboard.press("m")
    saved(page)
    assert sorted(decisions.values()) == ["monocyte"] * 3
    page.keyboard.press("*")
    saved(page)
    assert page.locator("#groups button").first.text_content() == "no answer 4/4"
    page.keyboard.press("u")
    saved(page)
    assert sorted(decisions.values()) == ["monocyte"] * 3
    page.locator("#filter").select_option("left")
    assert page.locator("#grid").get_by_role("option").count() == 1
    page.get_by_role("button", name="monocyte 0/9").click()
    page.locator("#filter").select_option("novel")
    shown = page.evaluate("[...document.querySelectorAll('#grid li')].map((tile) => Number(tile.dataset.row))")
    cells = server.review.table.cells
    assert shown == [row for row, cell in enumerate(cells) if cell.answer == "monocyte" and "novel" in cell.flags] != []
    page.get_by_role("button", name="Not a cell").click()
    saved(page)
    assert decisions[cells[shown[0]].id] == "not a cell"
    for _ in range(3):
        page.get_by_role("button", name="Undo").click()
    saved(page)
    assert (decisions, text(page, "said")) == ({}, "nothing is left to be taken back")


def test_a_link_in_another_page_opens_it_too(browser, tmp_path):
    with api.review(smear_folder(tmp_path / "smear", 3)) as server:
        page = browser.new_page()
        page.set_content(f"<a href='{server.new_address()}'>a terminal in a page</a>")
        page.locator("a").click()
        page.get_by_text("0 of 3 reviewed").wait_for()
        assert page.url == f"http://127.0.0.1:{server.port}{server.folder}"
        page.close()


def test_what_cannot_be_saved_waits_and_is_told(visited):
    server, found = visited
    page = found.page
    page.route("**/decisions", lambda route: route.abort())
    page.keyboard.press("Enter")
    page.keyboard.press("n")
    page.wait_for_selector("#saved.failed")
    assert text(page, "saved") == "not saved: 2 steps wait"
    assert text(page, "problem").startswith("The program does not answer. Leave this page open")
    # A listener that prevents it is what makes a browser ask; dispatchEvent then says false.
    leave = "!dispatchEvent(new Event('beforeunload', {cancelable: true}))"
    assert page.evaluate(leave) is True
    assert server.review.journal.decisions == {}
    page.unroute("**/decisions")
    saved(page)
    assert sorted(server.review.journal.decisions.values()) == ["neutrophil", "not a cell"]
    assert text(page, "saved").startswith("saved ")
    assert text(page, "problem") == ""
    assert page.evaluate(leave) is False


def test_what_an_older_page_cannot_save_is_named_and_not_sent_again(visited):
    server, found = visited
    page = found.page
    page.keyboard.press("Enter")
    saved(page)
    server.folder = "/another/"  # as of a program that was started anew at this port
    sent = []
    page.on("request", lambda request: sent.append(request.url))
    row = page.evaluate("current()")
    page.keyboard.press("n")
    page.wait_for_selector("#saved.failed")
    until(page, "byId('problem').textContent.startsWith('The program was ended or started anew')")
    assert text(page, "problem").endswith(f"what is not saved: {server.review.table.cells[row].id} (not a cell).")
    page.wait_for_timeout(400)  # longer than the first pause
    page.keyboard.press("1")
    assert text(page, "saved") == "not saved: 1 step waits"
    assert sum(url.endswith("/decisions") for url in sent) == 1
    assert len(server.review.journal.decisions) == 1


def test_two_windows_show_what_both_decided(visited):
    server, found = visited
    page = found.page
    other = page.context.new_page()
    other.goto(page.url)
    until(other, "byId('saved').textContent === 'nothing to save yet'")
    other.keyboard.press("Enter")
    saved(other)
    page.keyboard.press("End")
    page.keyboard.press("n")
    saved(page)
    until(page, "byId('progressed').textContent === '2 of 30 reviewed'")
    assert len(server.review.journal.decisions) == 2


@pytest.mark.parametrize(("theme", "size"), [("light", (1280, 900)), ("dark", PHONE)])
def test_the_page_is_accessible_and_fits_the_window(browser, many, theme, size):
    with api.review(many) as server, entered(browser, server.new_address(), theme=theme, size=size) as found:
        page = found.page
        page.keyboard.press("Enter")
        page.evaluate("document.querySelector('.keys').open = true")
        assert (found.findings(), found.sideways()) == ([], 0)
        page.keyboard.press("Home")
        page.keyboard.press("+")
        until(page, "document.querySelector('#large img').complete")
        assert page.evaluate("document.querySelector('#large img').naturalWidth") == 48
        name = text(page, "large-name")
        page.keyboard.press("2")
        saved(page)
        assert text(page, "large-name") != name, "the next cell, as large"
        page.keyboard.press("u")
        saved(page)
        assert text(page, "large-name") == name
        assert (found.findings(), found.sideways()) == ([], 0)
        page.keyboard.press("Escape")
        assert page.evaluate("document.activeElement.closest('#grid') !== null")
        assert found.problems == []


def test_ctrl_c_and_sigterm_end_well_and_say_what_comes_next(tmp_path):
    folder = smear_folder(tmp_path / "smear", 3)
    with reviewed_by(folder) as (process, address):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{43}", address)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
        assert "nothing decided; 3 not looked at" in err
        assert "Traceback" not in err
    assert [line["reviewed"] for line in read(folder / "reviewed.csv")] == ["", "", ""]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a terminal of its own")
def test_enter_in_the_terminal_prints_a_new_address(tmp_path):
    import pty

    folder = smear_folder(tmp_path / "smear", 3)
    leader, follower = pty.openpty()
    command = [sys.executable, "-c", START, "review", str(folder), "--no-browser"]
    process = subprocess.Popen(command, stdin=follower, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        first = process.stdout.readline()
        os.write(leader, b"\n")
        second = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
        os.close(leader)
        os.close(follower)
    assert first.startswith("http://127.0.0.1:")
    assert second.startswith(first.partition("token=")[0])
    assert first != second
    assert "Enter prints a new one" in err
    assert process.returncode == 0
