"""Whatever a command lists, it also gives as JSON; and that is the same as what the table says."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

import pytest
import typer
from test_cli import cellfeat  # noqa: F401  a fixture

from cellfeat import cli

# Commands that print a table and need no --json: what they make is a file for other programs.
WITHOUT = {
    "run": "records.jsonl in the run folder",
    "data index": "the manifest, and NAME-skipped.csv",
    "data merge": "the manifest",
    "review": "reviewed-differential.json beside the reviewed table",
}


def commands(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """(words, command) of every command below a group."""
    for name, command in getattr(group, "commands", {}).items():
        words = f"{above} {name}".strip()
        if hasattr(command, "commands"):
            yield from commands(command, words)
        else:
            yield words, command


def names_in(code: CodeType, functions: dict[str, FunctionType], seen: set[str]) -> set[str]:
    """Every name that a function uses, and those that the functions of its own file which it calls use."""
    found = set(code.co_names) | set(code.co_varnames)
    for inner in code.co_consts:
        found |= names_in(inner, functions, seen) if isinstance(inner, CodeType) else set()
    for name in sorted((found & set(functions)) - seen):
        found |= names_in(functions[name].__code__, functions, seen | found)
    return found


def prints_a_table(command: Any) -> bool:
    function = getattr(command.callback, "__wrapped__", command.callback)
    own = {name: one for name, one in function.__globals__.items() if isinstance(one, FunctionType)}
    used = names_in(function.__code__, own, {function.__name__})
    return bool(used & {"show", "Table", "result_table"})


@pytest.fixture(scope="module")
def every() -> dict[str, Any]:
    return dict(commands(typer.main.get_command(cli.app)))


def test_every_command_that_prints_a_table_has_json_or_a_reason(every):
    listing = {name for name, command in every.items() if prints_a_table(command)}
    assert {"bench list", "bench compare", "plugins list", "data info", "predict"} <= listing, "the search finds them"
    with_json = {name for name, command in every.items() if any("--json" in one.opts for one in command.params)}
    assert listing - with_json - set(WITHOUT) == set()
    assert {"doctor", "bench verify", "bench submit", "plugins check"} <= with_json


def as_json(cellfeat, *arguments) -> Any:  # noqa: F811
    code, out, err = cellfeat(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_bench_list(cellfeat, finished_suite):  # noqa: F811
    found = as_json(cellfeat, "bench", "list", finished_suite)
    text = " ".join(cellfeat("bench", "list", finished_suite)[1].split())
    assert [one["protocol"] for one in found["tables"]] == ["transfers", "transfers", "without"]
    assert found["failed"] == []
    for table in found["tables"]:
        assert table["title"] in text
        for row in table["rows"]:
            assert f"{row['row']}/{row['classifier']}" in text
            assert f"{100 * row['mean']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]" in text
            assert row["low"] <= row["mean"] <= row["high"]
    assert cellfeat("bench", "list", finished_suite, "--json", "--markdown")[0] == 2


def test_bench_compare(cellfeat, finished_suite):  # noqa: F811
    arguments = ("bench", "compare", finished_suite, "none/lr", "none/majority", "--protocol", "transfers")
    [found] = as_json(cellfeat, *arguments)["comparisons"]
    text = cellfeat(*arguments)[1]
    assert f"{100 * found['difference']:+.1f} [{100 * found['low']:+.1f}, {100 * found['high']:+.1f}]" in text
    assert found["difference"] == pytest.approx(sum(found["transfers"].values()) / len(found["transfers"]))
    assert f"{found['corrected_p']:.4f}" in text


def test_bench_submit_and_verify(cellfeat, finished_suite, laboratories, monkeypatch, suite_cache):  # noqa: F811
    monkeypatch.setattr(sys, "argv", [])
    code, out, _ = cellfeat("bench", "submit", finished_suite, "--check", "--json")
    found = json.loads(out)["findings"]
    assert code == (1 if any(one["passed"] is False for one in found) else 0)
    monkeypatch.setenv("CELLFEAT_CACHE", str(suite_cache))
    first = json.loads((finished_suite / "records.jsonl").read_text().splitlines()[0])["id"]
    [record] = as_json(cellfeat, "bench", "verify", finished_suite, first, "--data", laboratories)["records"]
    assert (record["id"], record["passed"], record["equal"]) == (first, True, 1.0)


def test_data_info(cellfeat, laboratories):  # noqa: F811
    found = as_json(cellfeat, "data", "info", laboratories)
    assert found["cells"] == 150
    assert found["domains"]["lab-b"]["classes"]["monocyte"] == 10
    assert found["domains"]["lab-b"]["size"] == "32 x 32"


def test_a_draft_of_labels_and_a_method_as_json(cellfeat, tmp_path):  # noqa: F811
    (tmp_path / "cells.csv").write_text("id,path,label,domain\na,a.png,Mono,one\nb,b.png,Quux,one\nc,c.png,Quux,one\n")
    found = as_json(cellfeat, "data", "labels", tmp_path / "cells.csv", "-o", tmp_path / "labels.yaml")
    assert (found["vocabulary"], found["undecided"], len(found["empty_classes"])) == ("five-class", 1, 4)
    first, second = found["labels"]
    assert (first["label"], first["class"], first["undecided"]) == ("Mono", "monocyte", False)
    assert (second["cells"], second["class"], second["undecided"]) == (2, None, True)
    assert (tmp_path / "labels.yaml").is_file()
    found = as_json(cellfeat, "plugins", "info", "per-domain-z")
    [offer] = found["offers"]
    assert (offer["slot"], offer["name"], found["broken"]) == ("align", "per-domain-z", [])
    [listed] = [one for one in as_json(cellfeat, "plugins", "list")["offers"] if one["name"] == "per-domain-z"]
    assert {key: offer[key] for key in listed} == listed
    [offer] = as_json(cellfeat, "plugins", "info", "cae")["offers"]
    assert "align.epochs" in [one["set"] for one in offer["parameters"]]
    assert cellfeat("plugins", "info", "cae", "--json", "--markdown")[0] == 2
