"""What text files of ours are: manifests and other tables as CSV, YAML, JSON lines, pages, plugins. No code is run."""

from __future__ import annotations

import ast
import csv
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cellfeat import labels, records, suite
from cellfeat import recipe as recipes
from cellfeat.errors import CellfeatError
from cellfeat.label_drafts import MARK
from cellfeat.manifest import REQUIRED
from cellfeat.predicted import GROUP_COLUMNS as SHARES
from cellfeat.slots import SLOTS

PREDICTED = "predicted"  # the column by which a manifest of `data correct` is known
PAGE_HEAD = 4096  # bytes of a page that its first <meta> tags stand in
BUILT_FROM = re.compile(r'<meta name="cellfeat-built-from" content="([^"]*)">')
UNDECIDED = re.compile(rf":\s*(?:null|~)?\s*#\s*{re.escape(MARK)}")  # a line of a draft as `data labels` left it
HOOKS = tuple(f"cellfeat_{slot}" for slot in SLOTS)


class Artifact(NamedTuple):
    """kind: what it is, in a few words. facts: JSON values worth knowing. next: commands that do something with it."""

    kind: str
    facts: dict[str, Any]
    next: tuple[str, ...] = ()


def quoted(path: Path | str) -> str:
    """A path as it is written in a shell."""
    return shlex.quote(str(path))


def read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """(header, lines) of a .csv; a line that is too short lacks its last columns, an empty one is none.

    Raises: CellfeatError for what is no CSV in UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            return header, [dict(zip(header, row, strict=False)) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise CellfeatError(f"{path} cannot be read as a UTF-8 CSV: {error}") from None


def table(path: Path, header: list[str], rows: list[dict[str, str]]) -> Artifact | None:
    """A .csv: a manifest, shares of classes, or the list of what was skipped."""
    if set(REQUIRED) <= set(header):
        return _corrected(path, rows) if PREDICTED in header else _manifest(path, header, rows)
    if header == ["id", "path", "reason"]:
        return Artifact("list of images that --skip-bad left out", {"images": len(rows)})
    if header[:3] == SHARES:
        classes = [name.removeprefix("share_") for name in header if name.startswith("share_")]
        cells = sum(int(row["cells"]) for row in rows if row.get("cells", "").isdecimal())
        return Artifact(
            "class shares of `cellfeat predict --per-group`", {"groups": len(rows), "cells": cells, "classes": classes}
        )
    return None


def _corrected(path: Path, rows: list[dict[str, str]]) -> Artifact:
    """What `data correct` makes of a review."""
    domains = counted(rows, "domain")
    changed = sum(row.get("label", "") != row.get(PREDICTED, "") for row in rows)
    facts = {"images": len(rows), "laboratories": domains, "labels": counted(rows, "label"), "corrected": changed}
    named = "".join(f" --domain {quoted(name)}" for name in list(domains)[:1] if name != "new")
    again = f"{named} --labelled {quoted(path)}"
    commands = (f"cellfeat predict RUN IMAGES{again} -o again.csv", f"cellfeat smear IMAGES --run RUN{again} -o again")
    return Artifact("labelled cells of `cellfeat data correct`", facts, commands)


def _manifest(path: Path, header: list[str], rows: list[dict[str, str]]) -> Artifact:
    facts = {"images": len(rows), "laboratories": counted(rows, "domain"), "labels": counted(rows, "label")}
    facts["optional columns"] = [name for name in header if name in ("mask_path", "group", "sha256")]
    words = {row.get("label", "").strip() for row in rows} - {""}
    name, vocabulary = quoted(path), labels.vocabulary_of(words)
    commands: tuple[str, ...]
    if not words:
        commands = (f"cellfeat predict RUN {name}",)
    elif vocabulary is None:
        draft = f"cellfeat data labels {name} --to five-class -o labels.yaml"
        commands = (draft, f"cellfeat run --data {name} --labels labels.yaml")
    else:
        commands = tuple(f"cellfeat {one} {name} --labels {vocabulary}" for one in ("data info", "run --data"))
    return Artifact("manifest", facts, commands)


def counted(rows: Sequence[Mapping[str, str]], name: str) -> dict[str, int]:
    """How often each value of a column is there."""
    return dict(sorted(Counter(row.get(name, "").strip() or "(none)" for row in rows).items()))


def yaml_file(path: Path) -> Artifact | None:
    """A .yaml: a suite, a recipe or a map of labels, read as the commands read it."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CellfeatError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not content:
        return None
    if {"rows", "protocols"} <= content.keys():
        return _suite(path)
    if content.keys() <= set(recipes.Recipe.model_fields):
        found = recipes.parse(recipes.read(str(path)), str(path))
        return Artifact("recipe of a run", of_recipe(found), (f"cellfeat run --recipe {quoted(path)}",))
    if content.keys() <= {"classes", "map"} or all(isinstance(v, (str, type(None))) for v in content.values()):
        return _label_map(path, content)
    return None


def _label_map(path: Path, content: dict[str, Any]) -> Artifact:
    """What is mapped to what, and how much of a draft nobody has decided yet."""
    known = labels.load_vocabulary(path)
    full = content.keys() <= {"classes", "map"} and not isinstance(content.get("map"), str)
    entries = (content.get("map") or {}) if full else content
    undecided = len(UNDECIDED.findall(path.read_text(encoding="utf-8")))
    facts: dict[str, Any] = {"classes": list(known.classes), "labels": len(entries)}
    facts["left out"] = max(0, sum(place is None for place in entries.values()) - undecided)
    facts["undecided"] = undecided
    if undecided:
        facts["to do"] = f"write a class in place of null on the lines marked {MARK} or leave null to drop the cells"
    return Artifact("label vocabulary", facts, (f"cellfeat data info cells.csv --labels {quoted(path)}",))


def _suite(path: Path) -> Artifact:
    found = suite.read_suite(path)
    facts: dict[str, Any] = {"name": found.name, "rows": list(found.rows), "protocols": list(found.protocols)}
    facts |= {"seeds": list(found.seeds), "fits": sum(1 for _ in suite.planned(found))}
    return Artifact("benchmark suite", facts, (f"cellfeat bench run {quoted(path)}",))


def of_recipe(recipe: recipes.Recipe) -> dict[str, Any]:
    """What a recipe does, in a line each."""
    parts = {"backbone": recipe.backbone, "segmenter": recipe.segmenter, "classifier": recipe.classifier}
    named = {key: part.name for key, part in parts.items() if part is not None}
    return {
        "data": recipe.dataset.manifest,
        **named,
        "align": [part.name for part in recipe.align],
        "protocol": f"{recipe.protocol.name}, adapt {recipe.protocol.adapt}",
        "seeds": recipe.protocol.seeds,
    }


def lines(path: Path) -> Artifact | None:
    """A .jsonl: records of a run or of a suite."""
    found = [line for _, line in records.read_lines(path)]
    if not found or not all(isinstance(line, dict) for line in found):
        return None
    if all("source" in line and "error" in line for line in found):
        return Artifact("failures of a suite", {"fits": len(found)})
    if not all(line.get("schema") == records.SCHEMA for line in found):
        return None
    command = "bench list" if "row" in found[0] else "report"
    return Artifact("records", of_records(found), (f"cellfeat {command} {quoted(path.parent)}",))


def of_records(found: list[dict[str, Any]]) -> dict[str, Any]:
    """From where to where, and of a run how well: the accuracy of every transfer, the mean over seeds."""
    scores: dict[str, list[float]] = {}
    for record in found:
        accuracy = record.get("scores", {}).get("accuracy", {}).get("mean")
        some = scores.setdefault(f"{record.get('source')} → {record.get('target')}", [])
        some += [] if accuracy is None else [accuracy]
    facts: dict[str, Any] = {"records": len(found)}
    if "row" in found[0]:
        return {**facts, "rows": sorted({record["row"] for record in found}), "transfers": list(scores)}
    facts["accuracy, mean"] = {name: round(sum(some) / len(some), 3) for name, some in scores.items() if some}
    return facts


def web_page(path: Path) -> Artifact | None:
    """An .html: a report or a leaderboard, by the digest in its head."""
    with path.open("rb") as file:
        found = BUILT_FROM.search(file.read(PAGE_HEAD).decode("utf-8", "replace"))
    if found is None:
        return None
    is_report = found[1].startswith("report-")
    kind, how = ("report of a run", "report RUN") if is_report else ("leaderboard", "bench leaderboard RESULTS -o SITE")
    return Artifact(f"{kind}, to be opened in a browser", {"built from": found[1]}, (f"cellfeat {how}",))


def plugin_file(path: Path) -> Artifact | None:
    """A .py with hooks of ours, by its source alone."""
    offered = hooks(path)
    if not offered:
        return None
    listing = f"cellfeat plugins list --plugins-dir {quoted(path)}"
    return Artifact("plugin as a single file", {"name": path.stem, "offers": offered}, (listing,))


def hooks(source: Path) -> list[str]:
    """The slots that a module's source has hooks for; none where it cannot be read."""
    try:
        names = {node.name for node in ast.walk(ast.parse(source.read_bytes())) if isinstance(node, ast.FunctionDef)}
    except (OSError, SyntaxError, ValueError):
        return []
    return [hook.removeprefix("cellfeat_") for hook in HOOKS if hook in names]
