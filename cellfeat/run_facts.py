"""What a report says of a run in words and tables: scores, what was run with what, what is missing."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellfeat import observation_files
from cellfeat.errors import CellfeatError
from cellfeat.metrics import SCORES
from cellfeat.recipe import parse
from cellfeat.report import interval, method_of, one_per_target, percent
from cellfeat.results_folder import published
from cellfeat.run import PREDICTIONS, RECIPE
from cellfeat.run_folder import RunFolder, name_of, title
from cellfeat.without_folders import without_folders

FILES = ("manifest", "labels", "adapter")  # what recipes name files by


def lead(folder: RunFolder) -> str:
    first = folder.records[0]
    domains = sorted({record["target"] for record in folder.records})
    cells = first["dataset"]["cells"]
    return f"{cells:,} cells of {', '.join(domains)}; {_date(first)}"


def _date(record: dict[str, Any]) -> str:
    """Day and minute, as written down."""
    text = str(record.get("created", ""))
    return f"{text[:10]} {text[11:16]} UTC" if text.endswith("+00:00") else text or "no date recorded"


def results(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The result table's rows: transfers by source, then what always answering the commonest class scores."""
    several = len({record["seed"] for record in found}) > 1
    rows = []
    for record in found:
        seed = f" · seed {record['seed']}" if several else ""
        scores = [record["scores"][name] for name in SCORES]
        values = [(percent(score["mean"]), interval(score["low"], score["high"])) for score in scores]
        ceiling = percent((record.get("ceiling") or {}).get("balanced_accuracy"))
        majority = percent(record["majority"]["balanced_accuracy"])
        rows.append((f"{title(record)}{seed}", f"{record['cells']:,}", values, majority, ceiling, record["source"]))
    floors = [
        (record["target"], f"{record['cells']:,}", [percent(record["majority"][name]) for name in SCORES])
        for record in one_per_target(found)
    ]
    return {"rows": rows, "floors": floors}


def facts(found: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """What was run with what, by name."""
    first, data = found[0], found[0]["dataset"]
    hardware = first.get("hardware", {})
    fits = {(record["source"], record["seed"]): record["seconds"] for record in found}
    saw = first["weights_saw"]
    counts = f"{data['cells']:,} cells"
    if data.get("skipped"):
        counts += f", {data['skipped']:,} files or rows skipped"
    if data.get("dropped"):
        dropped = ", ".join(f"{name} {n:,}" for name, n in data["dropped"].items())
        counts += f", {sum(data['dropped'].values()):,} whose label has no class ({dropped})"
    facts = [
        ("Method", method_of(first)),
        ("Data", f"{Path(str(data['manifest'])).name}: {counts}"),
        ("Digest of the data", str(data["digest"])),
        ("Digest of the recipe", str(first.get("recipe_digest", "not recorded"))),
        ("Protocol", f"{first['recipe']['protocol'].get('name')}, adapt: {first['adapt']}"),
        ("Seeds", ", ".join(str(seed) for seed in dict.fromkeys(record["seed"] for record in found))),
        ("Weights", str(first["backbone"].get("weights_sha256") or "none, or without a digest")),
        ("Weights saw", "not known" if saw is None else ", ".join(saw) or "no data named"),
        ("Time of fits and answers", f"{sum(fits.values()):,.0f} s, encoding not counted"),
        ("Hardware", _hardware(hardware)),
        ("Made", _date(first)),
    ]
    memory = [record["peak_memory_mb"] for record in found if record.get("peak_memory_mb")]
    if memory:
        facts.insert(-1, ("Most memory", f"{max(memory):,} MB"))
    return facts


def _hardware(found: dict[str, Any]) -> str:
    if not found:
        return "not recorded"
    parts = [found.get("gpu"), found.get("cpu"), f"{found.get('threads')} threads on {found.get('cores')} cores"]
    return ", ".join(str(part) for part in [*parts, found.get("system")] if part)


def was_shown(found: Sequence[dict[str, Any]], source: str, adaptable: Sequence[str] = ()) -> str:
    """Which cells the alignment that gave the features was fitted on, as a sentence.

    adaptable: laboratories whose cells were at hand without labels, also those that are not scored.
    """
    some = [record for record in found if record["source"] == source]
    first, adapted = some[0], {name for record in some for name in record["adapted_to"]}
    if first["adapt"] != "none":
        adapted |= set(adaptable)
    own, labels = f"cells of {source}", "without their labels"  # a method may then be shown unlabelled ones too
    if first.get("uses_labels", True):
        own, labels = f"the labelled cells of {source}", "with their labels"
        left_out = {name: n for record in some for name, n in record["left_out"].items()}
        if left_out:
            own += f" (but {', '.join(f'{name}, n = {n}' for name, n in left_out.items())}: fewer cells than folds)"
    shots = [f"{record['shots']} cells of {record['target']}" for record in some if record.get("shots")]
    few = f", {' and '.join(dict.fromkeys(shots))} (few-shot) likewise" if shots else ""
    text = f"The alignment of this pipeline was shown {own} {labels}{few}"
    if adapted:
        other = "all other cells" if shots else "all cells"
        return f"{text}, and {other} of {', '.join(sorted(adapted))} without labels (adapt: {first['adapt']})."
    return f"{text}, and no {'further ' if shots else ''}cell of another laboratory."


def recipe_text(record: dict[str, Any]) -> str:
    """The recipe as YAML, files by their names alone."""
    import yaml

    try:
        return published(parse(record["recipe"])).as_yaml()
    except CellfeatError:  # of another version, with sections that this one does not know
        return yaml.safe_dump(_names_only(record["recipe"]), sort_keys=False, allow_unicode=True)


def _names_only(value: Any, key: str = "") -> Any:
    """Files by their names alone, in whatever section they stand; a name such as timm/resnet18 is none."""
    if isinstance(value, dict):
        return {name: _names_only(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [_names_only(one) for one in value]
    somewhere = isinstance(value, str) and (key in FILES or re.match(r"[/~\\]|\.\.?[/\\]|[A-Za-z]:[/\\]|file:", value))
    return name_of(value.partition("?")[0]) if somewhere else value


def notices(folder: RunFolder) -> list[str]:
    """What the page lacks, why, and which command makes it."""
    where = shlex.quote(f"{folder.path.resolve().name}/{RECIPE}")
    again = f"cellfeat run --recipe {where} --out NEW (in the folder that has the run's)"
    found = []
    if not folder.transfers:
        found.append(
            f"There is no {PREDICTIONS} in this folder, so that reliability, mistakes and uncertain cells are missing. "
            f"Copy it too, or run again: {again}"
        )
    if folder.observed is None:
        return [
            *found,
            "This run was made before runs kept grey levels, features and pictures for a report, or its folder was "
            f"copied without {observation_files.FOLDER}/: the sections on data and features are missing. To have them, "
            f"run again: {again}",
        ]
    summary = folder.observed.summary
    if not summary["pictures"]:
        found.append(f"The run kept no pictures of cells (--no-pictures). To have them, run again: {again}")
    return [*found, *(f"Missing: {what} ({without_folders(reason)})." for what, reason in summary["missing"].items())]
