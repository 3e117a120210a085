"""Results folders to one leaderboard page. Reads records and predictions, never a model.

Everything that the page shows is worked out here: every table by source, target and metric, its intervals and its
groups of rows that the paired test cannot tell apart. The page only chooses, sorts and draws.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from cellfeat import page
from cellfeat.boards import Board, Method, boards
from cellfeat.errors import CellfeatError
from cellfeat.metrics import MINIMUM_CELLS, SCORES
from cellfeat.results_folder import CELLS, FAILURES, PREDICTIONS, RECORDS, read_failures
from cellfeat.suite_results import Record, transfer_of

TEMPLATE, STYLES = "leaderboard.html", ("leaderboard.css",)
SCRIPTS = (
    "dom.js",
    "leaderboard_state.js",
    "leaderboard_table.js",
    "leaderboard_details.js",
    "leaderboard_charts.js",
    "leaderboard.js",
)
INDEX = "index.html"
MADE_BY = ("page", "leaderboard", "boards", "standings", "comparison", "metrics", "answers", "suite_results")
MOST_PAIRS = 400  # sources times targets of a board, above which single transfers have no table of their own
DIGITS = 4


def write_site(found: Sequence[Path], out: Path, title: str = "Leaderboard") -> tuple[Path, int, int]:
    """Write the page into a folder; gives its path, and how many records and tables it has."""
    folders = [_folder_of(path) for path in found]
    data = content(folders)
    text = page.render(
        TEMPLATE,
        STYLES,
        SCRIPTS,
        data,
        title=title,
        summary=data["summary"],
        failures=data["failures"],
        minimum=MINIMUM_CELLS,
        version=_version(),
        built_from=built_from(folders),
    )
    page.write(out / INDEX, text)
    return out / INDEX, data["summary"]["records"], len(data["boards"])


def built_from(folders: Sequence[Path]) -> str:
    """A digest of all that a page is made of: results, and the files that make it."""
    digest = hashlib.sha256(page.sources_digest([TEMPLATE, *STYLES, *SCRIPTS]).encode())
    for name in MADE_BY:
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    for folder in folders:
        predictions = sorted((folder / PREDICTIONS).glob("*.parquet"))
        for path in [folder / RECORDS, folder / CELLS, folder / FAILURES, *predictions]:
            if path.is_file():
                digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def content(folders: Sequence[Path]) -> dict[str, Any]:
    """What the page's scripts are handed, as JSON; scores are whole numbers of 1/10,000."""
    recipes, found, submissions = _Shared(), boards(folders), _submissions(folders)
    made = [
        {"name": name, **_board(board, recipes, submissions)} for name, board in zip(_names(found), found, strict=True)
    ]
    # A fit that failed is named; what its error said may name paths of the machine it ran on.
    failures = sorted({line["address"] for folder in folders for line in read_failures(folder)})
    return {"summary": _summary(made), "boards": made, "recipes": recipes.values, "failures": failures}


def _submissions(folders: Sequence[Path]) -> dict[Path, str]:
    """What the rows of each folder are called by: those of the first by themselves, so that their addresses stay."""
    names = {folders[0]: ""}
    for folder in folders[1:]:
        name = folder.resolve().name
        same = sum(one.resolve().name == name for one in names)
        names[folder] = f"{name}-{same + 1}" if same else name
    return names


def _names(found: Sequence[Board]) -> list[str]:
    """The boards' protocols; a second one of the same name says by what data, or by a number, it is another."""
    names: list[str] = []
    taken: set[tuple[str, str]] = set()
    for board in found:
        digest = next(board.records())["dataset"]["digest"][:8]
        choices = [board.protocol, f"{board.protocol} ({digest})"]
        choices += [f"{board.protocol} ({digest}) · {number}" for number in range(2, len(found) + 2)]
        # Those of other protocols' boards with the same data are named alike, so that one choice leads to both.
        name = next(one for one in choices if (one, board.adapt) not in taken)
        taken.add((name, board.adapt))
        names.append(name)
    return names


class _Shared:
    """Texts that many rows have in common, each kept once."""

    def __init__(self) -> None:
        self.values: list[str] = []
        self._place: dict[str, int] = {}

    def place(self, text: str) -> int:
        if text not in self._place:
            self._place[text] = len(self.values)
            self.values.append(text)
        return self._place[text]


def _summary(made: Sequence[dict[str, Any]]) -> dict[str, Any]:
    domains = {name for board in made for transfer in board["transfers"] for name in transfer["domains"]}
    rows = {(method["submission"], method["row"]) for board in made for method in board["methods"]}
    return {
        "records": sum(board["records"] for board in made),
        "rows": len(rows),
        "laboratories": len(domains),
        "cells": max(board["dataset"]["cells"] for board in made),
        "newest": max(board["newest"] for board in made)[:10],
    }


def _board(board: Board, recipes: _Shared, submissions: Mapping[Path, str]) -> dict[str, Any]:
    records = list(board.records())
    dataset = records[0]["dataset"]
    classes = list(dict.fromkeys(name for record in records for name in record["classes"]))
    views = [_view(board, *chosen) for chosen in _choices(board)]
    return {
        "protocol": board.protocol,
        "adapt": board.adapt,
        "shots": board.shots,
        "title": board.title,
        "dataset": {"digest": dataset["digest"], "manifest": dataset["manifest"], "cells": dataset["cells"]},
        "records": len(records),
        "newest": max(record["created"] for record in records),
        "classes": classes,
        "transfers": [_transfer(board, name) for name in board.transfers],
        "methods": [_method(board, i, recipes, classes, submissions) for i in range(len(board.methods))],
        "views": views,
    }


def _choices(board: Board) -> Iterator[tuple[str | None, str | None, list[str]]]:
    """Every source and target to choose, None for all, and the transfers that this leaves; each choice once."""
    pairs = {transfer_of(record): (record["source"], record["target"]) for record in board.records()}
    sources = [None, *sorted({source for source, _ in pairs.values()})]
    targets = [None, *sorted({target for _, target in pairs.values()})]
    for source, target in product(sources, targets):
        if source and target and (len(sources) * len(targets) > MOST_PAIRS):
            continue
        left = [name for name in board.transfers if pairs[name][0] in (source or pairs[name][0],)]
        left = [name for name in left if target in (None, pairs[name][1])]
        if left:
            yield source, target, left


def _view(board: Board, source: str | None, target: str | None, transfers: list[str]) -> dict[str, Any]:
    tables = {}
    for metric in SCORES:
        found = board.table(transfers, metric)
        tables[metric] = {
            "method": [one.method for one in found],
            "group": [one.group or 0 for one in found],
            **{key: [_whole(getattr(one, key)) for one in found] for key in ("mean", "low", "high")},
        }
    return {
        "source": source,
        "target": target,
        "transfers": [board.transfers.index(name) for name in transfers],
        "counted": [board.transfers.index(name) for name in board.counted(transfers)],
        "tables": tables,
    }


def _transfer(board: Board, name: str) -> dict[str, Any]:
    own = [record for record in board.records() if transfer_of(record) == name]
    first = max(own, key=lambda record: record["cells"])
    return {
        "source": first["source"],
        "target": first["target"],
        "domains": sorted({*first["source"].split("+"), first["target"]}),
        "cells": first["cells"],
        "class_counts": first["class_counts"],
        "scored_classes": first["scored_classes"],
        "majority": {metric: _whole(first["majority"].get(metric)) for metric in SCORES},
        "ceiling": {metric: _whole(first["ceiling"].get(metric)) for metric in SCORES},
    }


def _method(
    board: Board, number: int, recipes: _Shared, classes: list[str], submissions: Mapping[Path, str]
) -> dict[str, Any]:
    method = board.methods[number]
    newest = max(method.records, key=lambda record: record["created"])
    saw, manifest = newest["weights_saw"], newest["dataset"]["manifest"]
    return {
        "row": method.row,
        "classifier": method.classifier,
        "submission": submissions[method.folder],
        "uses_target": newest["uses_target"],
        "uses_labels": newest["uses_labels"],
        "weights_saw": saw if saw is None else list(saw),
        "marks": [method.marks.get(name, "") for name in board.transfers],
        "remarks": board.remarks.get(number, {}),
        "seeds": method.seeds,
        "seconds": round(method.seconds, 1),
        "seconds_of_fit": {source: round(value, 2) for source, value in method.seconds_of_fit.items()},
        "memory": max((record["peak_memory_mb"] or 0 for record in method.records), default=0) or None,
        "scores": {
            metric: [_whole(float(board.standings.mean(name, metric)[number])) for name in board.transfers]
            for metric in SCORES
        },
        "recipe": recipes.place(_recipe(method)),
        "digest": newest["recipe_digest"][:16],
        "weights": newest["backbone"]["weights_sha256"] if newest["backbone"]["used"] else None,
        "plugins": newest["plugins"],
        "versions": recipes.place(", ".join(f"{name} {value}" for name, value in newest["versions"].items())),
        "hardware": recipes.place(", ".join(f"{key} {value}" for key, value in newest["hardware"].items())),
        "verify": _command("bench", "verify", _shown_path(method.folder), newest["id"], "--data", manifest),
        "run": _command("run", "--recipe", "recipe.yaml", "--data", manifest),
        "details": [_details(method, name, classes) for name in board.transfers],
    }


def _recipe(method: Method) -> str:
    """The recipe as YAML with the seeds of all its fits, as `cellfeat run --recipe` takes it."""
    import yaml

    recipe = method.records[0]["recipe"]
    recipe = {**recipe, "protocol": {**recipe["protocol"], "seeds": method.seeds}}
    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100)


def _details(method: Method, transfer: str, classes: list[str]) -> dict[str, Any] | None:
    """Recall, confusion, calibration and single seeds on one transfer, mean over the seeds; None: not run."""
    own = sorted((one for one in method.records if transfer_of(one) == transfer), key=lambda one: one["seed"])
    if not own:
        return None
    return {
        "ids": [record["id"] for record in own],
        "seeds": [_whole(record["scores"]["balanced_accuracy"]["mean"]) for record in own],
        "recall": [_whole(_mean([record["recall"].get(name) for record in own])) for name in classes],
        "confusion": np.round(_confusion(own, classes), 1).tolist(),
        "calibration": {
            key: _rounded(_mean([record["calibration"][key] for record in own])) for key in own[0]["calibration"]
        },
    }


def _confusion(own: Sequence[Record], classes: list[str]) -> np.ndarray:
    """(K, K) mean over the records, in the board's order of classes."""
    total = np.zeros((len(classes), len(classes)))
    for record in own:
        place = [classes.index(name) for name in record["classes"]]
        total[np.ix_(place, place)] += np.array(record["confusion"], float)
    return total / len(own)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def _whole(value: float | None) -> int | None:
    return None if value is None or value != value else round(value * 10**DIGITS)


def _folder_of(path: Path) -> Path:
    """A results folder, given as such or by its records' file."""
    folder = path.parent if path.name == RECORDS else path
    if not folder.exists():
        raise CellfeatError(f"there is no {path}; name results folders, with {RECORDS} in them")
    if not folder.is_dir():
        raise CellfeatError(f"{path} is no results folder and no {RECORDS}; name the folder that `bench run` wrote")
    return folder


def _shown_path(folder: Path) -> str:
    """As it was given, but of an absolute path the name alone: where a machine keeps it is nobody's business."""
    return folder.name if folder.is_absolute() else folder.as_posix()


def _command(*words: str) -> str:
    """A line that a shell reads as these words, whatever the names in it are."""
    return shlex.join(["cellfeat", *words])


def _version() -> str:
    from importlib.metadata import version

    return version("cellfeat")
