"""The report of a run: whole from the folder alone, safe whatever data say, usable when runs are large."""

from __future__ import annotations

import html
import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from browsing import PHONE, opened
from reporting import rewritten, small_run

from cellfeat import CellfeatError, records, run_report
from cellfeat.observation_files import FOLDER, SUMMARY
from cellfeat.run_report import RunFolder, built_from, draw, write_report

CLASSES = [
    '<img src=x onerror="document.title=1">',
    "</script><script>document.title=2</script>",
    "$\\frac{1}{0}$",
    "_b",
    "e",
]
LOADED = """async () => {
    for (const one of document.images) { one.loading = "eager"; await one.decode(); }
    return document.images.length;
}"""
DOMAINS = {"lab-a": "<b onclick=alert(1)>A", "lab-b": '"><svg onload=alert(1)>', "lab-c": "C & \u202e co"}


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Maps of features by two of their components: no test here needs t-SNE."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cellfeat.feature_figures._places", lambda values, *_: values[:, :2].astype(float))
        yield


@pytest.fixture(scope="module")
def cache(suite_cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELLFEAT_CACHE", str(suite_cache))
        yield suite_cache


@pytest.fixture(scope="module")
def finished(laboratories, cache, tmp_path_factory):
    """A run with hostile names in everything that data name, and its report."""
    folder = tmp_path_factory.mktemp("runs")
    names = sorted({"basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil"})
    manifest = rewritten(
        laboratories,
        folder / "hostile.csv",
        label=lambda row: CLASSES[names.index(row["label"])],
        domain=lambda row: DOMAINS[row["domain"]],
        id=lambda row: f"<u>{row['id']}</u>\"'",
    )
    text = manifest.read_text(encoding="utf-8").splitlines(keepends=True)
    manifest.write_text("".join([*text, text[1].replace("<u>", "<u>missing").replace(".png", "-<i>.png")]))
    transfer = {"source": [DOMAINS["lab-a"]], "target": [DOMAINS["lab-b"]]}
    run = small_run(manifest, folder / "run", skip_bad=True, protocol=transfer)
    write_report(run)
    return run


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_is_quiet_safe_and_reachable(finished, browser, theme):
    with opened(browser, finished / "report.html", theme=theme) as found:
        page = found.page
        assert page.title() == "Run report: colour · per-domain-z · lr"
        assert (found.problems, found.requests) == ([], [])
        assert page.locator("script:not([type])").count() == 2
        assert page.locator("svg script, [onload], [onerror], [onclick], main b, main u").count() == 0
        page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        assert found.findings() == []
        assert found.sideways() == 0
        for name in CLASSES:
            assert page.get_by_role("rowheader", name=name, exact=True).count() > 0
        pictures = page.locator("figure svg")
        assert pictures.count() == page.locator("svg[role=img][aria-label]").count() > 12
        assert page.locator("figure").count() == page.locator("figcaption").count()
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map(one => one.id)")
        assert len(ids) == len(set(ids))
        assert all(re.fullmatch("[0-9a-z-]+", one) for one in ids if one.startswith("figure-"))
        assert page.evaluate(LOADED) > 30


def test_a_phone_shows_everything_without_scrolling_sideways(finished, browser):
    with opened(browser, finished / "report.html", size=PHONE) as found:
        assert found.sideways() == 0
        found.page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        assert found.sideways() == 0
        ids = "[...document.querySelectorAll('ul.grid .name')].every(one => one.scrollWidth <= one.clientWidth + 1)"
        assert found.page.evaluate(ids), "ids of cells are wrapped, not cut off"
        widths = "[...document.querySelectorAll('.panel > svg')].map(one => one.getBoundingClientRect().width)"
        assert max(found.page.evaluate(widths)) <= 366
        sizes = "[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height)"
        assert min(size for size in found.page.evaluate(sizes) if size) > 7


def test_figures_take_the_themes_colours(finished, browser):
    ink = "getComputedStyle(document.querySelector('figure svg text')).fill"
    drawn = []
    for theme in ("light", "dark"):
        with opened(browser, finished / "report.html", theme=theme) as found:
            drawn.append(found.page.evaluate(ink))
            assert drawn[-1] == found.page.evaluate(
                "(() => { const p = document.createElement('p'); p.style.color = 'var(--ink)'; document.body.append(p);"
                " return getComputedStyle(p).color })()"
            )
    assert drawn[0] != drawn[1]


def test_an_address_unfolds_and_printing_shows_all_pictures(finished, browser):
    with opened(browser, finished / "report.html") as found:
        page = found.page
        galleries = page.locator("details.gallery")
        assert galleries.count() == 2
        assert page.locator("details.gallery[open]").count() == 1
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("details.gallery[open]").count() == 2
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.locator("details.gallery[open]").count() == 1
        page.evaluate("document.querySelectorAll('details.gallery')[1].querySelector('ul').id = 'there'")
        page.evaluate("location.hash = 'there'")
        page.wait_for_function("document.querySelectorAll('details.gallery')[1].open")
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"


def test_every_number_of_the_results_stands_in_the_page(finished):
    text = html.unescape((finished / "report.html").read_text(encoding="utf-8"))
    for record in records.read(finished / "records.jsonl"):
        for name in ("accuracy", "balanced_accuracy", "macro_f1"):
            score = record["scores"][name]
            assert f">{100 * score['mean']:.1f}</td>" in text
            assert f"[{100 * score['low']:.1f}, {100 * score['high']:.1f}]" in text
        assert record["dataset"]["digest"] in text
    assert "n = 150 in all" in text
    assert "1 file or row was left out" in text
    assert "was shown cells of" in text


def test_pictures_say_what_they_show(finished, browser):
    with opened(browser, finished / "report.html") as found:
        texts = found.page.evaluate("[...document.querySelectorAll('ul.grid img')].map(image => image.alt)")
    assert texts
    assert all(re.fullmatch(r"true .+, predicted .+, probability [01]\.\d\d, cell .+", text) for text in texts)


def test_figures_are_also_files(copied, monkeypatch):
    monkeypatch.setattr("cellfeat.run_pictures.notable_count", lambda transfers: 4)  # drawing many takes long
    page, written = write_report(copied, figures_as="svg")
    assert page == copied / "report.html"
    names = {path.name for path in written}
    assert {"grey-levels.svg", "class-counts.svg", "scores.svg", "invariance.svg"} <= names
    for start in ("confusion-", "reliability-", "recall-", "embedding-", "cells-", "mistakes-", "doubts-"):
        assert any(name.startswith(start) for name in names), start
    assert {path.parent for path in written} == {copied / "figures"}
    assert len(written) == len(set(written)) == len(list((copied / "figures").iterdir()))


def test_an_older_run_has_the_report_that_its_folder_allows(copied, browser):
    shutil.rmtree(copied / FOLDER)
    write_report(copied)
    with opened(browser, copied / "report.html") as found:
        (notice,) = found.page.locator(".notice").all_text_contents()
        assert "cellfeat run --recipe run/recipe.yaml --out NEW" in notice
        assert found.page.locator("#figure-recall").count() == 1
        assert "groups are not known" in found.page.locator("#figure-recall figcaption").text_content()
        assert found.page.locator("#data, #features, main img").count() == 0
        assert (found.problems, found.findings()) == ([], [])
    (copied / "predictions.parquet").unlink()
    write_report(copied)
    text = (copied / "report.html").read_text()
    assert "There is no predictions.parquet" in text
    assert "Confusion matrices" in text
    assert "figure-reliability" not in text


def test_what_a_run_could_not_keep_is_said(copied):
    path = copied / FOLDER / SUMMARY
    summary = json.loads(path.read_text())
    path.write_text(json.dumps({**summary, "pictures": False, "missing": {"features of x": "out of <ink>"}}))
    (copied / FOLDER / "pictures.parquet").unlink()
    write_report(copied)
    text = (copied / "report.html").read_text()
    assert "The run kept no pictures of cells (--no-pictures)" in text
    assert "Missing: features of x (out of &lt;ink&gt;)." in text
    assert "<img" not in text


def test_the_digest_is_that_of_inputs_and_programs(copied, monkeypatch):
    before = built_from(copied)
    text = (copied / "report.html").read_text()
    assert f'<meta name="cellfeat-built-from" content="{before}">' in text
    assert built_from(copied) == before != built_from(copied, "umap")
    for name in ("records.jsonl", "skipped.csv", f"{FOLDER}/{SUMMARY}"):
        kept = (copied / name).read_bytes()
        (copied / name).write_bytes(kept + b" ")
        assert built_from(copied) != before
        (copied / name).write_bytes(kept)
    assert built_from(copied) == before
    monkeypatch.setattr(run_report, "DRAWING", ())
    assert built_from(copied) != before


def test_the_same_folder_gives_the_same_page(copied):
    first = (copied / "report.html").read_bytes()
    write_report(copied)
    assert (copied / "report.html").read_bytes() == first


OF_A_LEADERBOARD = (Path(__file__).parent.parent / "docs" / "leaderboard" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["<p>mine. Made by cellfeat report</p>", OF_A_LEADERBOARD])
def test_what_is_not_ours_is_not_replaced(copied, text):
    (copied / "report.html").write_text(text, encoding="utf-8")
    with pytest.raises(CellfeatError, match=r"report\.html exists and was not made by cellfeat report; move it away"):
        write_report(copied)
    assert (copied / "report.html").read_text(encoding="utf-8") == text


def test_a_page_may_be_written_elsewhere(copied, tmp_path):
    page, _ = write_report(copied, tmp_path / "elsewhere" / "page.html")
    assert page.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"out": "report.txt"}, r"--out .*report\.txt: the name must end in \.html"),
        ({"figures_as": "gif"}, "--figures 'gif': possible are svg, pdf, png"),
        ({"embedding": "pca"}, "no embedding named 'pca'"),
    ],
)
def test_wrong_options_are_refused_before_any_work(copied, tmp_path, options, said):
    options = {name: tmp_path / value if name == "out" else value for name, value in options.items()}
    with pytest.raises(CellfeatError, match=said):
        write_report(copied, **options)


def test_a_folder_that_is_no_runs_is_refused(tmp_path):
    with pytest.raises(CellfeatError, match=r"is no run folder: it has no records\.jsonl.*cellfeat report runs/NAME"):
        write_report(tmp_path)
    (tmp_path / "records.jsonl").write_text("")
    with pytest.raises(CellfeatError, match="has no record of a run"):
        write_report(tmp_path)


def test_the_command_says_where_the_page_is(copied):
    from typer.testing import CliRunner

    from cellfeat.cli import app

    done = CliRunner().invoke(app, ["report", str(copied), "--out", str(copied / "page.html")])
    assert done.exit_code == 0, done.output
    assert re.search(r"page\.html: \d+\.\d MB", done.output)


def large_run(finished, folder, cells=50_000):
    """The records of a run, as of two transfers of so many cells in two folds, and many skipped files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    shutil.copy(finished / "recipe.yaml", folder)
    some = records.read(finished / "records.jsonl")
    records.append(folder / "records.jsonl", some)
    classes, rng, tables = some[0]["classes"], np.random.default_rng(0), []
    for record in some:
        label = rng.integers(5, size=cells)
        for fold in range(2):
            proba = rng.dirichlet(np.ones(5), size=cells).astype(np.float32)
            proba[np.arange(cells), label] += 1
            proba /= proba.sum(1, keepdims=True)
            columns = {
                "seed": np.full(cells, 1),
                **{name: np.full(cells, record[name]) for name in ("source", "target")},
                "fold": np.full(cells, fold),
                "id": np.array([f"cell-{i:06d}" for i in range(cells)]),
                "label": np.array(classes)[label],
                "predicted": np.array(classes)[proba.argmax(1)],
                **{f"p_{name}": proba[:, i] for i, name in enumerate(classes)},
            }
            tables.append(pa.table({name: pa.array(values) for name, values in columns.items()}))
    pq.write_table(pa.concat_tables(tables), folder / "predictions.parquet")
    lines = [f"id-{i},/data/{i}.png,truncated\n" for i in range(100_000)]
    (folder / "skipped.csv").write_text("".join(["id,path,reason\n", *lines]))
    return folder


def test_a_hundred_thousand_cells_make_a_page_that_opens_at_once(finished, browser, tmp_path):
    run = large_run(finished, tmp_path / "large")
    assert len(RunFolder.read(run).transfers[0].id) == 50_000
    started = time.process_time()
    page, _ = write_report(run)
    assert time.process_time() - started < 30
    assert page.stat().st_size < 2_000_000
    with opened(browser, page) as found:
        assert found.page.locator("#skipped tbody tr").count() == 200
        said = found.page.locator("#skipped p").first.text_content()
        assert "100,000 files or rows were left out; the first 200 are shown, all are in skipped.csv" in said
        assert found.page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd") < 5_000


def test_figures_of_many_transfers_are_bounded_and_say_so(finished):
    folder = RunFolder.read(finished)
    many = [
        {**record, "source": f"s{i}", "target": f"t{i}", "held_out_folds": False}
        for i, record in enumerate(folder.records * 27)
    ]
    drawn = draw(RunFolder(folder.path, many, [], None, folder.skipped))
    confusion = next(one for one in drawn.figures if one.name == "confusion")
    assert len(confusion.panels) == 36
    assert "Drawn are 36 of 54 transfers" in confusion.caption
    assert len({row[0] for row in confusion.numbers.rows}) == 54
