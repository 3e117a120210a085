"""A results folder on its way to a leaderboard: what is missing for others to check it, and the folder to hand in.

A submission is records, their predictions, the cells that these are about, and `requirements.txt` with every plugin
that is not cellfeat's own. It is compared with the results that it is to stand beside.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellfeat import records as record_files
from cellfeat import requirements
from cellfeat.answers import FIT
from cellfeat.artifacts import atomic_folder
from cellfeat.boards import Board, Method, boards
from cellfeat.errors import CellfeatError, unknown
from cellfeat.requirements import OWN, REQUIREMENTS
from cellfeat.results_folder import CELLS, FAILURES, RECORDS, read_failures, read_records, refuse_link
from cellfeat.single_files import is_single_file
from cellfeat.suite import OWN_HEAD
from cellfeat.suite_results import Record, Results, transfer_of
from cellfeat.verification import Content

Setting = tuple[str, str, str]  # digest of the data, protocol, its settings
MOST_BYTES = 50 * 2**20  # of all files; what is larger does not belong into a repository
# The start of an absolute path, wherever it stands in a text: /home, ~/data, C:\data, \\server, file:…
PATH = re.compile(r"(?<![\w.:/~-])(/[\w.]|~[\w]*[/\\]|[A-Za-z]:[\\/]|\\\\\w|file:)|^~$")


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
    results += [_requirements(folder, found), _privacy(folder, found), _weights(found), _size(folder, found)]
    return results + (list(_comparable(folder, against, rows)) if against is not None else [])


def pack(folder: Path, out: Path, rows: Sequence[str] = ()) -> Path:
    """Write what is to be handed in into a new folder: the newest records of these rows, and all that they need."""
    found = _records(folder, rows)
    with atomic_folder(out) as partial:
        record_files.append(partial / RECORDS, found)
        shutil.copyfile(folder / CELLS, partial / CELLS)
        for name in sorted({record["predictions"]["file"] for record in found}):
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, partial / name)
        given, foreign = folder / REQUIREMENTS, _foreign(found)
        own = requirements.only(given.read_text(encoding="utf-8"), foreign) if given.is_file() else ""
        text = own or requirements.suggested(
            {name: found for name, found in foreign.items() if not _single(name, found)}
        )
        (partial / REQUIREMENTS).write_text(text, encoding="utf-8")
    return out


def _records(folder: Path, rows: Sequence[str]) -> list[Record]:
    """The newest records, those of the source itself included.

    Raises: CellfeatError where a file of the folder is a link: what it leads to would be handed in.
    """
    for name in (RECORDS, FAILURES, CELLS, REQUIREMENTS):
        refuse_link(folder / name)
    try:
        known = list(Results(folder).folder_records)
    except (ArithmeticError, LookupError, ValueError, TypeError, OSError) as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise CellfeatError(f"{folder}: {RECORDS} or {CELLS} cannot be read ({why}); run the suite again") from error
    names = {record["row"] for record in known}
    for row in rows:
        if row not in names:
            raise CellfeatError(unknown("row", row, names))
    return [record for record in known if not rows or record["row"] in rows]


def _contents(folder: Path, found: Sequence[Record]) -> Iterator[Finding]:
    """Ids, predictions and scores of every record."""
    faults: dict[str, list[str]] = {}
    content = Content(folder)
    for record in sorted(found, key=lambda one: (one["predictions"]["file"], *(str(one[key]) for key in FIT))):
        try:
            told = content.faults(record)
        except Exception as error:  # a stranger's table may be anything, and must not hide what the others are
            told = [str(error) if isinstance(error, CellfeatError) else f"{type(error).__name__}: {error}"]
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
            if requirements.plain(name) != OWN:
                versions.setdefault(name, set()).add(version)
    return versions


def _single(name: str, versions: Iterable[str]) -> bool:
    """Whether records were made with a file that is no distribution."""
    return any(is_single_file(name, version) for version in versions)


def _requirements(folder: Path, found: Sequence[Record]) -> Finding:
    """Plugins of others must be named with a version, or an address with a commit; nothing else may be."""
    path, foreign = folder / REQUIREMENTS, _foreign(found)
    everybodys = _foreign(read_records(folder))
    single = [name for name, versions in foreign.items() if _single(name, versions)]
    faults = [
        f"{name} is a single file, which nobody else can install: make it a package (`cellfeat plugins new`), publish "
        "that, and run the suite again with it installed"
        for name in sorted(single)
    ]
    named = {name: versions for name, versions in foreign.items() if name not in single}
    faults += requirements.faults(path.read_bytes() if path.is_file() else b"", named, everybodys)
    return Finding("plugins", not faults, "; ".join(faults) or (", ".join(sorted(foreign)) or "all are cellfeat's own"))


def _privacy(folder: Path, found: Sequence[Record]) -> Finding:
    """Names of folders of the machine that made the records."""
    texts = {text for record in found for text in _texts(record)}
    path = folder / REQUIREMENTS
    texts |= set(path.read_text(encoding="utf-8", errors="replace").splitlines()) if path.is_file() else set()
    paths = sorted(text for text in texts if PATH.search(text))
    text = f"records or {REQUIREMENTS} name files of your machine: {', '.join(paths[:3])}"
    return Finding("privacy", not paths, text if paths else "nothing names a folder")


def _texts(value: Any) -> Iterator[str]:
    """Every text in a record, names of fields included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
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
    names = {RECORDS, CELLS, REQUIREMENTS, *(record["predictions"]["file"] for record in found)}
    total = sum((folder / name).stat().st_size for name in names if (folder / name).is_file())
    text = f"{total / 2**20:.1f} MB"
    return Finding("size", total <= MOST_BYTES, text if total <= MOST_BYTES else f"{text}; at most 50 MB (use --row)")


def _comparable(folder: Path, against: Path, rows: Sequence[str]) -> Iterator[Finding]:
    """Whether these rows would stand beside the others', run as those were: no transfer, seed or classifier chosen."""
    theirs, own = boards([against]), boards([folder])
    chosen = {id(board): [one for one in board.methods if not rows or one.row in rows] for board in own}
    faults = []
    for board in (board for board in own if chosen[id(board)]):
        same = next((one for one in theirs if one.kind == board.kind), None)
        if same is None:
            faults.append(f"{board.protocol} ({board.adapt}): no table of these data and settings")
        elif lacking := sorted(set(same.transfers) - set(board.transfers)):
            faults.append(f"{board.protocol} ({board.adapt}) lacks {', '.join(lacking)}")
    methods = [(board, method) for board in own for method in chosen[id(board)]]
    faults += [*_chosen_seeds(methods, theirs), *_chosen_classifiers(methods, theirs)]
    text = "; ".join(faults) or f"every table has its counterpart in {against.name}"
    yield Finding("beside the others", not faults, text)
    absent = _absent_protocols(methods, theirs)
    text = f"{'; '.join(absent)}: no place in these tables" if absent else "every row has those of the others"
    yield Finding("protocols", None if absent else True, text)


def _chosen_seeds(methods: Sequence[tuple[Board, Method]], theirs: Sequence[Board]) -> Iterator[str]:
    """Who may choose seeds takes the best of many."""
    usual = sorted({tuple(method.seeds) for board in theirs for method in board.methods})
    shown = " or ".join(map(_listed, usual))
    of_row: dict[str, set[tuple[int, ...]]] = {}
    for board, method in methods:
        of_row.setdefault(method.row, set()).add(tuple(method.seeds))
        if tuple(method.seeds) not in usual:
            where = f"{method.name} in {board.protocol}"
            yield f"{where} has the seeds {_listed(method.seeds)}, but must have {shown}, as the others"
    for row, sets in of_row.items():
        if len(sets) > 1:
            yield f"{row} has other seeds in one table than in another: {' and '.join(map(_listed, sorted(sets)))}"


def _chosen_classifiers(methods: Sequence[tuple[Board, Method]], theirs: Sequence[Board]) -> Iterator[str]:
    """A row has the classifiers of another row, or all that most rows have and more; its own head stands for itself."""
    usual = _classifiers((board, method) for board in theirs for method in board.methods)
    for (row, setting), names in _classifiers(methods).items():
        counts = Counter(tuple(sorted(found)) for (_, other), found in usual.items() if other == setting)
        most = set(max(((count, len(one), one) for one, count in counts.items()), default=(0, 0, ()))[2])
        if names - {OWN_HEAD} and tuple(sorted(names)) not in counts and not most <= names:
            yield f"{row} in {setting[1]} lacks the classifiers {', '.join(sorted(most - names))}"


def _classifiers(methods: Iterable[tuple[Board, Method]]) -> dict[tuple[str, Setting], set[str]]:
    found: dict[tuple[str, Setting], set[str]] = {}
    for board, method in methods:
        found.setdefault((method.row, _setting(board)), set()).add(method.classifier)
    return found


def _absent_protocols(methods: Sequence[tuple[Board, Method]], theirs: Sequence[Board]) -> list[str]:
    """By row, the protocols of the others that it was not run in."""
    everywhere = {_setting(board) for board in theirs}
    of_row: dict[str, set[Setting]] = {}
    for board, method in methods:
        of_row.setdefault(method.row, set()).add(_setting(board))
    absent = {row: sorted(setting[1] for setting in everywhere - done) for row, done in of_row.items()}
    return [f"{row} was not run in {', '.join(names)}" for row, names in absent.items() if names]


def _setting(board: Board) -> Setting:
    """Data, protocol and settings, whatever was shown of the target."""
    digest, protocol, _, settings = board.kind
    return digest, protocol, settings


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
