"""Suites and their results: the commands `bench run`, `list`, `leaderboard`, `submit`, `compare` and `verify`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellfeat.api.working import workplace

if TYPE_CHECKING:
    from cellfeat.bench import Outcome
    from cellfeat.ranking import Ranking
    from cellfeat.row_comparison import Compared
    from cellfeat.submission import Finding
    from cellfeat.verification import Verdict


def bench_run(
    suite: str | Path,
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    row: Sequence[str] = (),
    device: str = "auto",
    precision: str = "fp32",
    verbose: bool = False,
) -> Outcome:
    """Fit every row of a suite (or only `row`) that the results folder does not have yet; gives how many there were.

    suite: a YAML file. data: a manifest in place of the suite's. out: results folder; None is results/<suite>.

    Raises: CellfeatError for a suite that is none; a row that fails is written down and counted.
    """
    from cellfeat.bench import SuiteRun
    from cellfeat.suite import read_suite

    content = read_suite(Path(suite))
    folder = Path("results") / content.name if out is None else Path(out)
    work = workplace(verbose, device, precision)
    return SuiteRun(content, folder, work, None if data is None else str(data))(list(row))


def bench_list(
    folder: str | Path, *, protocol: str | None = None, clf: str | None = None
) -> tuple[list[Ranking], list[dict[str, Any]]]:
    """Every table of a results folder, rows by mean balanced accuracy, and the fits that failed.

    protocol, clf: this one only.

    Raises: CellfeatError where it is no results folder.
    """
    from cellfeat.ranking import read_rankings

    return read_rankings(Path(folder), protocol, clf)


def bench_leaderboard(
    records: Sequence[str | Path], out: str | Path = "site", *, title: str = "Leaderboard"
) -> tuple[Path, int, int]:
    """Write one page of results folders, or of their records.jsonl; gives its path and its numbers of records, tables.

    Raises: CellfeatError where there are no records.
    """
    from cellfeat.leaderboard import write_site

    return write_site([Path(one) for one in records], Path(out), title)


def bench_submit(
    folder: str | Path,
    *,
    check: bool = False,
    row: Sequence[str] = (),
    against: str | Path | None = None,
    out: str | Path | None = None,
) -> list[Finding]:
    """Check a results folder as a leaderboard does and, where nothing fails, write the folder `out` to hand in.

    check: only tell. row: these rows only. against: results that it is to stand beside. A finding whose `passed` is
    False keeps `out` from being written.

    Raises: CellfeatError where it is no results folder, and where `out` exists.
    """
    from cellfeat import submission

    found = submission.check(Path(folder), None if against is None else Path(against), list(row))
    if out is not None and not check and not any(one.passed is False for one in found):
        submission.pack(Path(folder), Path(out), list(row))
    return found


def bench_compare(
    folder: str | Path,
    rows: Sequence[str],
    *,
    protocol: str | None = None,
    clf: str | None = None,
    target: Sequence[str] = (),
) -> Compared:
    """The first of `rows` (ROW, or ROW/CLASSIFIER) less each other one, on the same cells, with corrected p-values.

    protocol: None is the only one, or the first. target: transfers to these only.

    Raises: CellfeatError for fewer than two rows, and for rows that share no transfer.
    """
    from cellfeat.row_comparison import compared

    return compared(Path(folder), list(rows), protocol, clf, list(target))


def bench_verify(
    folder: str | Path,
    ids: Sequence[str] = (),
    *,
    data: str | Path | None = None,
    random: int | None = None,
    seed: int = 0,
    enough: float = 0.99,
    device: str = "auto",
    precision: str = "fp32",
    verbose: bool = False,
) -> list[Verdict]:
    """Check records against their predictions, and do their fits again; a verdict each, in `passed`.

    ids: records by id, or its beginning. random, seed: so many drawn. data: a manifest in place of the record's.
    enough: share of predictions, 0..1, that must come out again.

    Raises: CellfeatError where it is no results folder, or has no such record.
    """
    from cellfeat import verification

    picked = verification.chosen(Path(folder), list(ids), random, seed)
    work = workplace(verbose, device, precision)
    return verification.verify(picked, Path(folder), work, None if data is None else str(data), enough)
