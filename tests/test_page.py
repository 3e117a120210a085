"""Pages: one file, escaped, nothing fetched, own scripts alone."""

from __future__ import annotations

import json

import pytest
from browsing import opened

from cellfeat import page

HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">&'\"\u2028"


@pytest.fixture
def templates(tmp_path, monkeypatch):
    """A page of its own beside the shipped templates."""
    folder = tmp_path / "templates"
    folder.mkdir()
    for name in ("base.html", page.SHARED_STYLE, page.SHARED_SCRIPT):
        (folder / name).write_bytes((page.TEMPLATES / name).read_bytes())
    (folder / "try.html").write_text(
        '{% extends "base.html" %}{% block main %}<p id="name">{{ name }}</p><p id="script"></p>{% endblock %}'
    )
    (folder / "try.js").write_text(
        'document.getElementById("script").textContent = JSON.parse(document.getElementById("data").textContent).name;'
    )
    monkeypatch.setattr(page, "TEMPLATES", folder)
    page._environment.cache_clear()
    yield folder
    page._environment.cache_clear()


def render(**values):
    return page.render("try.html", version="1", built_from="x", **{"title": "A page", "name": "a", **values})


def test_texts_of_data_stay_texts_in_a_browser(templates, browser, tmp_path):
    file = tmp_path / "page.html"
    page.write(file, render(title=f"A page {HOSTILE}", name=HOSTILE, scripts=["try.js"], data={"name": HOSTILE}))
    with opened(browser, file) as found:
        assert found.page.title().startswith("A page </script>")
        for place in ("#name", "#script"):
            assert found.page.locator(place).text_content() == HOSTILE
        assert (found.problems, found.requests) == ([], [])


def test_a_script_that_is_not_the_pages_own_does_not_run_and_nothing_is_fetched(templates, browser, tmp_path):
    inside = "<script>document.title='taken'</script><img src='https://example.org/x.png'><img src='x.png'>"
    file = tmp_path / "page.html"
    file.write_text(render(scripts=[], data=None).replace("</main>", f"{inside}</main>"))
    with opened(browser, file) as found:
        assert found.page.title() == "A page"
        assert [text for text in found.problems if "Content Security Policy" in text]
        assert len(found.requests) == 2
        assert found.blocked == found.requests


def test_the_theme_follows_the_system_until_it_is_chosen(templates, browser, tmp_path):
    file = tmp_path / "page.html"
    page.write(file, render())
    paper = "getComputedStyle(document.body).backgroundColor"
    with opened(browser, file, theme="dark") as found:
        dark = found.page.evaluate(paper)
        assert found.findings() == []
        found.page.get_by_role("button", name="Light theme").click()
        light = found.page.evaluate(paper)
        assert light == "rgb(255, 255, 255)" != dark
        seen = []
        for _ in range(3):  # now and then Chromium shows a load without what was kept; why is not known
            found.page.wait_for_timeout(300)  # ms
            found.page.reload()
            seen.append(found.page.evaluate(paper))
        assert light in seen
        assert found.findings() == []


@pytest.mark.parametrize("text", [HOSTILE, "<!--", "]]>"])
def test_json_cannot_end_its_block(text):
    block = page.json_block({"name": text})
    assert not set("<>&\u2028\u2029") & set(block)
    assert json.loads(block) == {"name": text}


def test_json_holds_no_number_that_browsers_cannot_read():
    with pytest.raises(ValueError, match="JSON"):
        page.json_block({"a": float("nan")})


def test_a_page_replaces_a_file_whole(tmp_path):
    (tmp_path / "page.html").write_text("old")
    page.write(tmp_path / "page.html", "neu – ü")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "neu – ü"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_the_digest_of_sources_changes_with_any_of_them(templates):
    before = page.sources_digest(["try.js"])
    assert before == page.sources_digest(["try.js"]) != page.sources_digest(["try.html"])
    (templates / "page.css").write_text("body {}")
    assert page.sources_digest(["try.js"]) != before
