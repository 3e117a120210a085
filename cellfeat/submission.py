"""A results folder on its way to a leaderboard: what is missing for others to check it, and the folder to hand in.

A submission is records, their predictions, the cells that these are about, and `requirements.txt` with every plugin
that is not cellfeat's own. It is compared with the results that it is to stand beside.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from cellfeat import records as record_files
from cellfeat.artifacts import atomic_folder
from cellfeat.boards import boards
from cellfeat.errors import CellfeatError, unknown
from cellfeat.results_folder import CELLS, RECORDS, read_failures
from cellfeat.suite_results import Record, Results, transfer_of
from cellfeat.verification import check_content

REQUIREMENTS = "requirements.txt"
OWN = "cellfeat"
MOST_BYTES = 50 * 2**20  # of all files; what is larger does not belong into a repository
PINNED = re.compile(r"^\s*([A-Za-z0-9._-]+)(\[[^\]]*\])?\s*(==\s*[^\s;#*]+|@\s*\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. passed: None is a remark that keeps nobody from handing in."""

    what: str
    passed: bool | None
    text: str


def check(folder: Path, against: Path | None, rows: Sequence[str] = ()) -> list[Finding]:
    """Everything that is looked at before a submission is accepted; fits are done again by `bench verify` alone.

    Args:
        folder: the results folder.
        against: results that it is to stand beside, on the same data and protocols; None: not compared.
        rows: these rows only.

    Raises: CellfeatError where it is no results folder, or has no such row.
    """
    found = _records(folder, rows)
    results = [*_contents(folder, found), _failures(folder, found), *_completeness(folder, rows)]
    results += [_requirements(folder, found), _privacy(found), _weights(found), _size(folder, found)]
    return results + ([_comparable(folder, against, rows)] if against is not None else [])


def pack(folder: Path, out: Path, rows: Sequence[str] = ()) -> Path:
    """Write what is to be handed in into a new folder: the newest records of these rows, and all that they need."""
    found = _records(folder, rows)
    with atomic_folder(out) as partial:
        record_files.append(partial / RECORDS, found)
        shutil.copyfile(folder / CELLS, partial / CELLS)
        for name in sorted({record["predictions"]["file"] for record in found}):
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, partial / name)
        given = folder / REQUIREMENTS
        text = given.read_text(encoding="utf-8") if given.is_file() else _suggested(found)
        (partial / REQUIREMENTS).write_text(text, encoding="utf-8")
    return out


def _records(folder: Path, rows: Sequence[str]) -> list[Record]:
    """The newest records, those of the source itself included."""
    known = list(Results(folder).folder_records)
    names = {record["row"] for record in known}
    for row in rows:
        if row not in names:
            raise CellfeatError(unknown("row", row, names))
    return [record for record in known if not rows or record["row"] in rows]


def _contents(folder: Path, found: Sequence[Record]) -> Iterator[Finding]:
    """Ids, predictions and scores of every record."""
    faults: dict[str, list[str]] = {}
    for record in found:
        try:
            told = check_content(record, folder)
        except (CellfeatError, KeyError) as error:
            told = [f"{type(error).__name__} {error}" if isinstance(error, KeyError) else str(error)]
        for fault in told:
            faults.setdefault(fault, []).append(record["id"])
    text = "; ".join(f"{_some(ids)}: {fault}" for fault, ids in faults.items())
    yield Finding("records", not faults, text or f"{len(found)} agree with their ids and their predictions")


def _some(ids: Sequence[str]) -> str:
    return f"{ids[0]} and {len(ids) - 1} more" if len(ids) > 1 else ids[0]


def _failures(folder: Path, found: Sequence[Record]) -> Finding:
    rows = {record["row"] for record in found}
    failed = sorted({line["address"] for line in read_failures(folder) if line["address"].split("/")[0] in rows})
    text = f"{', '.join(failed[:5])} failed; start the suite again, or leave the row out (--row)" if failed else "none"
    return Finding("failed fits", not failed, text)


def _completeness(folder: Path, rows: Sequence[str]) -> Iterator[Finding]:
    """Whether every row has every transfer of its protocol with every seed."""
    gaps, own = [], boards([folder])
    transfers: dict[str, set[str]] = {}
    for board in own:
        transfers.setdefault(board.protocol, set()).update(board.transfers)
    for board in own:
        for method in board.methods:
            if rows and method.row not in rows:
                continue
            done = {(record["seed"], transfer_of(record)) for record in method.records}
            missing = [name for seed in method.seeds for name in transfers[board.protocol] if (seed, name) not in done]
            if missing:
                gaps.append(f"{method.name} in {board.protocol} lacks {', '.join(sorted(set(missing)))}")
    yield Finding("transfers", not gaps, "; ".join(gaps) or "every row has all of its protocol's, with every seed")


def _foreign(found: Sequence[Record]) -> dict[str, set[str]]:
    """{distribution: versions} of the plugins that are not cellfeat's own."""
    versions: dict[str, set[str]] = {}
    for record in found:
        for distribution in record["plugins"].values():
            name, _, version = distribution.partition(" ")
            if name != OWN:
                versions.setdefault(name, set()).add(version)
    return versions


def _suggested(found: Sequence[Record]) -> str:
    lines = [f"{name}=={max(versions)}\n" for name, versions in sorted(_foreign(found).items())]
    return "".join(lines) or "# every plugin is cellfeat's own\n"


def _requirements(folder: Path, found: Sequence[Record]) -> Finding:
    """Plugins of others must be named with a version, or an address with a commit."""
    path, foreign = folder / REQUIREMENTS, _foreign(found)
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    pins = {_plain(match[1]): match[3].replace(" ", "") for match in PINNED.finditer(text)}
    faults = []
    for name, versions in sorted(foreign.items()):
        pin = pins.get(_plain(name))
        if len(versions) > 1:
            faults.append(f"records were made with {len(versions)} versions of {name} ({', '.join(sorted(versions))})")
        elif pin is None:
            faults.append(
                f"{REQUIREMENTS} does not say where {name} is from; add a line such as {name}=={min(versions)} or "
                f"{name} @ git+https://…@COMMIT"
            )
        elif pin.startswith("==") and pin[2:] not in versions:
            faults.append(f"{REQUIREMENTS} has {name}{pin}, but the records were made with {min(versions)}")
    return Finding("plugins", not faults, "; ".join(faults) or (", ".join(sorted(foreign)) or "all are cellfeat's own"))


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _privacy(found: Sequence[Record]) -> Finding:
    """Names of folders of the machine that made the records."""
    texts = {text for record in found for text in _texts({key: record[key] for key in ("recipe", "dataset")})}
    paths = sorted(text for text in texts if _is_path(text))
    text = f"records name files of your machine: {', '.join(paths[:3])}" if paths else "no record names a folder"
    return Finding("privacy", not paths, text)


def _is_path(text: str) -> bool:
    return PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute() or text.startswith("~")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def _weights(found: Sequence[Record]) -> Finding:
    """What nobody knows of weights, and what they have seen, is no fault: the tables say it."""
    unsure = sorted({record["row"] for record in found if record["weights_saw"] is None})
    seen = sorted({f"{record['row']} ({record['target']})" for record in found if record["weights_saw_target"]})
    told = [f"not known for {', '.join(unsure[:5])}: no rank under adapt: none"] if unsure else []
    told += [f"targets are marked as seen: {', '.join(seen[:5])}"] if seen else []
    return Finding("weights", None if told else True, "; ".join(told) or "they have seen no target")


def _size(folder: Path, found: Sequence[Record]) -> Finding:
    files = [folder / RECORDS, folder / CELLS, *{folder / record["predictions"]["file"] for record in found}]
    total = sum(path.stat().st_size for path in files if path.is_file())
    text = f"{total / 2**20:.1f} MB"
    return Finding("size", total <= MOST_BYTES, text if total <= MOST_BYTES else f"{text}; at most 50 MB (use --row)")


def _comparable(folder: Path, against: Path, rows: Sequence[str]) -> Finding:
    """Whether there is a table in which these rows would stand beside the others'."""
    theirs, own, missing = boards([against]), boards([folder]), []
    for board in own:
        names = [method.name for method in board.methods if not rows or method.row in rows]
        if not names:
            continue
        same = next((one for one in theirs if one.kind == board.kind), None)
        if same is None:
            missing.append(f"{board.protocol} ({board.adapt}): no table of these data and settings")
        elif lacking := sorted(set(same.transfers) - set(board.transfers)):
            missing.append(f"{board.protocol} ({board.adapt}) lacks {', '.join(lacking)}")
    text = "; ".join(missing) or f"every table has its counterpart in {against.name}"
    return Finding("beside the others", not missing, text)
