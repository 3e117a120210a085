"""`cellfeat bench`: run suites of methods, list and compare what came out, and check records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cellfeat import completion

if TYPE_CHECKING:
    from rich.table import Table

    from cellfeat.verification import Verdict

app = typer.Typer(help="Run suites of methods; list, compare and verify their records.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="RESULTS", help="Results folder, with records.jsonl in it")]
Data = Annotated[str | None, typer.Option("--data", help="Manifest CSV; default: the suite's or record's own")]
Device = Annotated[str, typer.Option(autocompletion=completion.devices, help="auto, cpu, cuda, cuda:N or mps")]
Precision = Annotated[str, typer.Option(autocompletion=completion.precisions, help="fp32, bf16 or fp16")]
AsJson = Annotated[bool, typer.Option("--json", help="The same as JSON")]
Clf = Annotated[
    str | None,
    typer.Option("--clf", autocompletion=completion.classifiers, help="This classifier, and rows without it"),
]


@app.command()
def run(
    suite: Annotated[Path, typer.Argument(metavar="SUITE.yaml", help="Rows, protocols, classifiers and seeds")],
    data: Data = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Results folder; default: results/<suite>")] = None,
    row: Annotated[list[str] | None, typer.Option(help="This row only; repeat for several")] = None,
    device: Device = "auto",
    precision: Precision = "fp32",
) -> None:
    """Fit every row of a suite that the results folder does not have yet.

    Stop it and start it again at will; start it once per core, and the starts share the rows. A row that fails is
    written down and passed over.
    """
    from cellfeat.bench import SuiteRun
    from cellfeat.console import say
    from cellfeat.suite import read_suite
    from cellfeat.workplace import Workplace

    content = read_suite(suite)
    folder = out or Path("results") / content.name
    outcome = SuiteRun(content, folder, Workplace.on_terminal(device, precision), data)(row or [])
    say(f"{folder}: {outcome.done} fits done, {outcome.found} found, {outcome.failed} failed")
    if outcome.elsewhere:
        say(f"another process is at: {', '.join(outcome.elsewhere)}")
    say(f"Next: cellfeat bench list {folder}")
    if outcome.failed:
        raise typer.Exit(1)


@app.command("list")
def list_records(
    folder: Folder,
    protocol: Annotated[str | None, typer.Option(help="This protocol only")] = None,
    clf: Clf = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Tables for a document")] = False,
    as_json: AsJson = False,
) -> None:
    """Every row by mean balanced accuracy; rows that saw different things of the target stand in different tables."""
    from cellfeat.console import console, say
    from cellfeat.errors import CellfeatError
    from cellfeat.ranking import read_rankings
    from cellfeat.showing import show, show_json

    if as_json and markdown:
        raise CellfeatError("--json and --markdown are two forms; ask for one of them")
    rankings, failures = read_rankings(folder, protocol, clf)
    if as_json:
        show_json({"tables": [one.as_dict() for one in rankings], "failed": failures})
        return
    for ranking in rankings:
        if markdown:
            console.print(ranking.markdown(), markup=False, soft_wrap=True)
        else:
            show(ranking.table())
    for line in failures:
        say(f"failed: {line['address']}: {line['error']}")


@app.command()
def leaderboard(
    records: Annotated[list[Path], typer.Argument(metavar="RECORDS…", help="Results folders, or their records.jsonl")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the page")] = Path("site"),
    title: Annotated[str, typer.Option(help="Of the page")] = "Leaderboard",
) -> None:
    """One page to sort, filter and unfold, that opens from a disk without any network."""
    from cellfeat.console import say
    from cellfeat.leaderboard import write_site

    path, count, boards = write_site(records, out, title)
    say(f"{path}: {count:,} records in {boards} tables")


@app.command()
def submit(
    folder: Folder,
    check: Annotated[bool, typer.Option("--check", help="Only tell what is missing")] = False,
    row: Annotated[list[str] | None, typer.Option(help="This row only; repeat for several")] = None,
    against: Annotated[Path | None, typer.Option(help="Results folder that it is to stand beside")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="New folder to hand in")] = None,
    as_json: AsJson = False,
) -> None:
    """Check a results folder as a leaderboard does, and write the folder to hand in.

    Exit status 1 if something is missing. Fits are not done again; that is `bench verify`.
    """
    from dataclasses import asdict

    from rich.table import Table

    from cellfeat import submission
    from cellfeat.console import say
    from cellfeat.errors import CellfeatError
    from cellfeat.showing import show, show_json

    if not check and out is None:
        raise CellfeatError("name the folder to hand in (--out), or ask what is missing (--check)")
    found = submission.check(folder, against, row or [])
    if as_json:
        show_json({"findings": [asdict(one) for one in found]})
    else:
        table = Table("", "", "what was found")
        for one in found:
            table.add_row({True: "✓", False: "✗", None: "!"}[one.passed], one.what, one.text)
        show(table)
    if any(one.passed is False for one in found):
        raise typer.Exit(1)
    if out is not None and not check:
        say(f"{submission.pack(folder, out, row or [])}: to be handed in")


@app.command()
def compare(
    folder: Folder,
    rows: Annotated[
        list[str], typer.Argument(metavar="A B [C …]", help="ROW, or ROW/CLASSIFIER; A against each other")
    ],
    protocol: Annotated[str | None, typer.Option(help="Protocol; default: the only one, or the first")] = None,
    clf: Clf = None,
    target: Annotated[list[str] | None, typer.Option(help="Transfers to this target only; repeat for several")] = None,
    as_json: AsJson = False,
) -> None:
    """Difference of the mean balanced accuracies on the same cells, with interval and corrected p-value."""
    from cellfeat.row_comparison import compared
    from cellfeat.showing import show, show_json

    found = compared(folder, rows, protocol, clf, target or [])
    if as_json:
        show_json(found.as_dict())
    else:
        show(found.table())


@app.command()
def verify(
    folder: Folder,
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID …]", help="Records by id, or its beginning")] = None,
    data: Data = None,
    random: Annotated[int | None, typer.Option(min=1, help="So many records, drawn at random")] = None,
    seed: Annotated[int, typer.Option(help="Of that draw")] = 0,
    enough: Annotated[float, typer.Option(min=0, max=1, help="Share of predictions that must come out again")] = 0.99,
    device: Device = "auto",
    precision: Precision = "fp32",
    as_json: AsJson = False,
) -> None:
    """Check records against their predictions, and do their fits again; exit status 1 if one does not hold."""
    from dataclasses import asdict

    from cellfeat import verification
    from cellfeat.showing import show, show_json
    from cellfeat.workplace import Workplace

    picked = verification.chosen(folder, ids or [], random, seed)
    verdicts = verification.verify(picked, folder, Workplace.on_terminal(device, precision), data, enough)
    if as_json:
        show_json({"records": [{**asdict(one), "passed": one.passed} for one in verdicts]})
    else:
        show(_verdicts(verdicts))
    if not all(one.passed for one in verdicts):
        raise typer.Exit(1)


def _verdicts(verdicts: Sequence[Verdict]) -> Table:
    """A line for each record."""
    from rich.table import Table

    table = Table("record", "fit", "source → target", "equal", "verdict")
    for one in verdicts:
        equal = "–" if one.equal is None else f"{100 * one.equal:.2f} %"
        verdict = "holds" if one.passed else "; ".join(one.faults)
        table.add_row(one.id, one.address, one.transfer, equal, ". ".join(filter(None, (verdict, one.remark))))
    return table
