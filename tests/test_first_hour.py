"""The page "A first hour with your own cells": every command of it, typed by a newcomer on a ward's own folders."""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from browsing import opened
from first_hour import write_ward

from cellfeat.records import read
from cellfeat.run import read_run

pytestmark = pytest.mark.real
PAGE = Path(__file__).resolve().parent.parent / "docs" / "first-hour.md"
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>\w+)(?:: (?P<file>\S+))? -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
CLASSES = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")


class Typed(NamedTuple):
    """One command of the page: how it ended, what it said (tables included), and how long it took in seconds."""

    code: int
    said: str
    seconds: float


class Hour(NamedTuple):
    folder: Path
    truth: dict[str, str]
    typed: dict[str, Typed]


def squeezed(text: str) -> str:
    """Text without the lines of tables, and with single spaces."""
    return " ".join(re.sub(r"[│┃━─┏┓┗┛┡┩└┘├┤┬┴┼╇╈╋┳┻]", " ", text).split())


def type_in(line: str, folder: Path) -> Typed:
    arguments = [sys.executable, "-m", "cellfeat", *shlex.split(line)[1:]]
    environment = {**os.environ, "CELLFEAT_CACHE": str(folder / "cache"), "CELLFEAT_OFFLINE": "1"}
    start = time.monotonic()
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    return Typed(done.returncode, squeezed(done.stdout + " " + done.stderr), time.monotonic() - start)


def edit(path: Path, lines: str) -> None:
    """Put each line of the page in the place of the file's line of the same label."""
    written = path.read_text(encoding="utf-8").splitlines()
    for line in lines.splitlines():
        (place,) = [number for number, old in enumerate(written) if old.split(":")[0] == line.split(":")[0]]
        written[place] = line
    path.write_text("\n".join(written) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def hour(tmp_path_factory, real_data) -> Hour:
    """The whole page done, block by block; `-s` shows what each command took."""
    folder = tmp_path_factory.mktemp("Klinik Süd")
    truth, typed = write_ward(folder, real_data), dict[str, Typed]()
    for block in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        if block["mark"] == "edit":
            edit(folder / block["file"], block["text"])
        elif block["language"] == "sh" and block["mark"] != "elsewhere":
            for line in filter(None, block["text"].splitlines()):
                typed[line] = type_in(line, folder)
                print(f"{typed[line].seconds:5.1f} s  {line}")
                wanted = 2 if block["mark"] == "refused" else 0
                assert typed[line].code == wanted, f"{line}\n{typed[line].said}"
        elif block["mark"] == "said":
            said = [*typed.values()][-1].said
            for line in block["text"].splitlines():
                assert squeezed(line) in said, f"the page shows {line!r}, but it says: {said}"
    return Hour(folder, truth, typed)


def test_the_hour_has_its_steps(hour):
    steps = [" ".join(shlex.split(line)[1:3]) for line in hour.typed]
    assert [step for step in dict.fromkeys(steps) if step.startswith("data")] == [
        "data index", "data merge", "data labels", "data info",
    ]  # fmt: skip
    assert [step.split()[0] for step in steps][-3:] == ["run", "report", "predict"]


def test_each_step_was_named_by_the_one_before_it(hour):
    """The report and the predictions both by the run; nobody has to know what comes next."""
    lines = [*hour.typed]
    for number, line in enumerate(lines[1:], 1):
        words = shlex.split(line)[: 3 if " data " in line else 2]
        said = hour.typed[lines[number - 1]].said + (hour.typed[lines[-3]].said if line == lines[-1] else "")
        assert " ".join(words) in said, line
    assert "--source labor-b --refit -o predictions.csv" in hour.typed[lines[-3]].said


def test_a_split_divides_no_patient_and_no_word_is_lost(hour):
    with (hour.folder / "cells.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["domain"]: len({one["group"] for one in rows if one["domain"] == row["domain"]}) for row in rows} == {
        "station-7": 5,
        "labor-b": 5,
    }
    assert all(row["group"].startswith(row["domain"]) for row in rows)
    drafted = yaml.safe_load((hour.folder / "labels.yaml").read_text(encoding="utf-8"))
    assert set(drafted["map"]) == {row["label"] for row in rows}
    assert [label for label, place in drafted["map"].items() if place is None] == ["unklar"]


def test_what_was_broken_is_listed(hour):
    text = (hour.folder / "station-7-skipped.csv").read_text(encoding="utf-8")
    assert "abgebrochen.PNG" in text
    assert "truncated" in text
    assert len(text.splitlines()) == 2


def test_the_run_is_better_than_the_largest_class_and_the_page_shows_its_figures(hour):
    records = read(hour.folder / "first-run" / "records.jsonl")
    assert len(records) == 4
    text = PAGE.read_text(encoding="utf-8")
    for record in records:
        source, target, accuracy = record["source"], record["target"], record["scores"]["accuracy"]["mean"]
        assert accuracy > record["majority"]["accuracy"] + 0.2
        name = f"{source} (held-out folds)" if source == target else f"{source} → {target}"
        (shown,) = re.findall(rf"^\| {re.escape(name)} \| ([\d.]+) % \|", text, re.MULTILINE)
        assert abs(float(shown) / 100 - accuracy) < 0.06, (
            f"{name}: the page shows {shown} %, it is {100 * accuracy:.1f} %"
        )


def test_predictions_of_a_third_laboratory(hour):
    with (hour.folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["id"] for row in rows} == set(hour.truth)
    classes = [name.removeprefix("p_") for name in rows[0] if name.startswith("p_")]
    assert set(classes) <= set(CLASSES)
    for row in rows:
        proba = {name: float(row[f"p_{name}"]) for name in classes}
        assert sum(proba.values()) == pytest.approx(1, abs=1e-3)
        assert row["label"] == max(proba, key=lambda name: proba[name])
    right = sum(row["label"] == hour.truth[row["id"]] for row in rows)
    ((shown, number),) = re.findall(r"(\d+) of the (\d+) new images", PAGE.read_text(encoding="utf-8"))
    assert (abs(int(shown) - right) <= 2, int(number)) == (True, len(rows)), f"{right} of {len(rows)} are right"
    said = hour.typed[[*hour.typed][-1]].said
    for name in {row["label"] for row in rows}:
        count = sum(row["label"] == name for row in rows)
        assert f"{name} {count} {100 * count / len(rows):.1f} %" in said


def test_the_report_opens(hour, browser):
    assert len(read_run(hour.folder / "first-run")) == 2
    with opened(browser, hour.folder / "first-run" / "report.html") as found:
        assert found.problems == []
        assert found.requests == []
        text = found.page.inner_text("body")
    assert "station-7" in text
    assert "labor-b" in text


def test_the_hour_is_far_less_than_one(hour):
    assert sum(typed.seconds for typed in hour.typed.values()) < 600
