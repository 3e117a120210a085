"""`cellfeat bench` as a user meets it: exit status, what is printed, one line for a mistake."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from cellfeat import bench, cli, results_folder
from cellfeat.results_folder import read_records, with_id


@pytest.fixture
def cellfeat(monkeypatch, capsys, tmp_path, suite_cache):
    """Run `cellfeat bench ARGUMENTS` in a folder of its own; gives (exit status, stdout, stderr)."""
    monkeypatch.setenv("CELLFEAT_CACHE", str(suite_cache))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cellfeat", "bench", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def results(finished_suite, tmp_path) -> Path:
    return Path(shutil.copytree(finished_suite, tmp_path / "results"))


def test_run_list_and_verify_of_a_small_suite(cellfeat, suite_file, laboratories, tmp_path):
    code, out, err = cellfeat("run", suite_file, "--data", laboratories, "--row", "z", "--device", "cpu")
    assert code == 0, err
    assert "2 fits done, 0 found, 0 failed" in out + err
    assert (tmp_path / "results" / "tiny" / results_folder.RECORDS).is_file()
    code, out, err = cellfeat("run", suite_file, "--data", laboratories, "--row", "z", "--device", "cpu")
    assert code == 0
    assert "0 fits done, 2 found, 0 failed" in out + err
    code, out, err = cellfeat(
        "verify", "results/tiny", "--data", laboratories, "--random", 1, "--seed", 3, "--device", "cpu"
    )
    assert code == 0, out + err
    assert "100.00 %" in out
    assert "holds" in out


def test_a_failed_row_is_exit_status_1_and_stands_in_the_list(cellfeat, results, laboratories, tmp_path):
    suite = tmp_path / "bad.yaml"
    suite.write_text(
        "name: tiny\nbackbone: {name: colour, bins: 3}\nclassifiers: [lr]\n"
        "protocols: {transfers: {folds: 40}}\nrows: {bad: {align: none}}\n"
    )
    code, out, err = cellfeat("run", suite, "--data", laboratories, "-o", results, "--device", "cpu")
    assert code == 1
    assert "0 fits done, 0 found, 1 failed" in out + err
    code, out, err = cellfeat("list", results)
    assert code == 0
    assert "failed: bad/transfers/lr/1234: source lab-a has fewer than 2 classes" in out + err


def test_list_shows_every_table_and_markdown(cellfeat, finished_suite):
    code, out, _ = cellfeat("list", finished_suite)
    assert code == 0
    for part in ("transfers · adapt: none", "transfers · adapt: test", "without · adapt: none", "→ lab-c"):
        assert part in out
    code, out, _ = cellfeat("list", finished_suite, "--markdown", "--protocol", "transfers", "--clf", "majority")
    assert code == 0
    table = [line for line in out.splitlines() if line.startswith("| ")]
    assert len(table) == 2 * (2 + 1 + 2), "two tables of one row each, with headings, majority class and ceiling"
    assert "| majority class |" in out
    assert "### without" not in out
    assert "| lr |" not in out
    assert "20.0 [20.0, 20.0]" in out


def test_compare_shows_the_difference(cellfeat, finished_suite):
    code, out, err = cellfeat("compare", finished_suite, "z/lr", "none", "none/majority", "--target", "lab-b")
    assert code == 0, err
    assert "transfers: z/lr (adapt: test) less" in out
    assert "none/majority (adapt: none)" in out
    assert "lab-a → lab-b" in out
    assert "lab-c" not in out


def test_a_record_that_does_not_hold_is_exit_status_1(cellfeat, results, laboratories):
    record = read_records(results)[0]
    record["scores"]["accuracy"]["mean"] = 1.5
    bad = with_id(record)
    bench.records.append(results / results_folder.RECORDS, [bad])
    code, out, err = cellfeat("verify", results, bad["id"][:8], "--data", laboratories, "--device", "cpu")
    assert code == 1, err
    assert "accuracy is 1.5, but its predictions give" in " ".join(out.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["run", "absent.yaml"], ["there is no suite absent.yaml"]),
        (["run", "SUITE", "--row", "nnoe"], ["no row named 'nnoe'", "Did you mean 'none'"]),
        (["run", "SUITE", "--device", "gpu"], ["no device named 'gpu'"]),
        (["list", "absent"], ["absent has no records of transfers", "cellfeat bench run"]),
        (["list", "RESULTS", "--protocol", "transfer"], ["no protocol named 'transfer'", "Did you mean 'transfers'"]),
        (["list", "RESULTS", "--clf", "svm"], ["no classifier named 'svm'. Available: lr, majority"]),
        (["compare", "RESULTS", "z"], ["two rows or more"]),
        (["compare", "RESULTS", "z", "y"], ["no row named 'y'", "none, z"]),
        (["compare", "absent", "z", "y"], ["absent has no records of transfers"]),
        (["verify", "absent"], ["absent has no records.jsonl with records"]),
        (["verify", "RESULTS", "xyz"], ["no record named 'xyz'"]),
        (["verify", "RESULTS", "--random", "0"], ["--random"]),
        (["run", "SUITE", "--data", "absent.csv"], ["absent.csv", "no such manifest"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(cellfeat, finished_suite, suite_file, arguments, parts):
    places = {"SUITE": suite_file, "RESULTS": finished_suite}
    code, out, err = cellfeat(*(places.get(one, one) for one in arguments))
    assert code == 2
    for part in parts:
        assert part in err
    lines = [line for line in err.splitlines() if line.strip() and not line.startswith("note:")]
    assert len(lines) == 1 or "Usage" in err, err
    assert "Traceback" not in err
    assert not out
    assert not Path("results").exists()
    assert not Path("absent").exists()


def test_help_tells_every_command(cellfeat):
    code, out, _ = cellfeat("--help")
    assert code == 0
    for name in ("run", "list", "compare", "verify"):
        assert name in out
