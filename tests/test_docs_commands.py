"""Every command of README and docs runs, in the order of its page, on drawn data: half of the pages, and the tables."""

from __future__ import annotations

import pytest
from docs_commands import (
    ELSEWHERE,
    NOT_RUN,
    PAGES,
    REPLACED,
    ROOT,
    bare,
    is_run,
    lines,
    named,
    pages_to_run,
    preparing,
    run_line,
    run_page,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    with preparing(tmp_path_factory.mktemp("prepared")) as found:
        yield found


@pytest.mark.parametrize("page", pages_to_run(0), ids=named)
def test_the_commands_of_a_page_run_in_their_order(page, prepared, tmp_path):
    run_page(page, prepared, tmp_path / "work")


def test_no_entry_is_stale():
    every = [line for page in PAGES if named(page) not in ELSEWHERE for line in lines(page)]
    assert not [start for start in NOT_RUN if not any(bare(line).startswith(start) for line in every)]
    assert not [one.part for one in REPLACED if not any(one.part in line for line in every if is_run(line))]
    assert not [name for name in ELSEWHERE if not lines(ROOT / name)]


def test_pages_that_run_elsewhere_are_read_there():
    for name, test in ELSEWHERE.items():
        text = (ROOT / "tests" / test).read_text(encoding="utf-8")
        folder, stem = name.split("/")[-2], name.split("/")[-1].removesuffix(".md")
        assert stem in text or folder in text, f"{test} does not name {name}"


def test_a_line_that_fails_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = run_line("cellfeat data info missing.csv")
    assert code == 2
    assert "missing.csv" in said
    with pytest.raises(AssertionError, match="what is 'wget'"):
        run_line("wget https://example.org")
