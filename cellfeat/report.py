"""Records to tables. Reads records only, never a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from cellfeat.metrics import MINIMUM_CELLS, SCORES

ADAPT_WORDS = {
    "none": "no method was shown a target cell; what weights and adapters have seen is said below",
    "test": "the target cells themselves were seen without labels (transductive, as published)",
    "heldout": "each half of the target was scored by a fit that saw the other half without labels",
}


def result_table(records: Sequence[dict[str, Any]]) -> Table:
    """Source → target with accuracy, balanced accuracy and macro-F1 in percent, 95 % intervals, majority beside."""
    first = records[0]
    table = Table(title=method_of(first), title_justify="left", caption=caption(records), caption_justify="left")
    for heading in ("source → target", "cells", "accuracy", "balanced accuracy", "macro-F1"):
        table.add_column(heading, justify="left" if "→" in heading else "right", no_wrap=True)
    seeds = {record["seed"] for record in records}
    for source in dict.fromkeys(record["source"] for record in records):
        rows = [record for record in records if record["source"] == source]
        for record in rows:
            where = f"{source} → {record['target']}" if not record["held_out_folds"] else f"{source} (held-out folds)"
            where += f" · seed {record['seed']}" if len(seeds) > 1 else ""
            table.add_row(where, f"{record['cells']:,}", *(_with_interval(record, name) for name in SCORES))
        table.add_section()
    for record in one_per_target(records):
        values = [percent(record["majority"][name]) for name in SCORES]
        where = f"majority class → {record['target']}"
        table.add_row(where, f"{record['cells']:,}", *(f"{value}{' ' * 14}" for value in values), style="dim")
    return table


def percent(value: float | None) -> str:
    """A share in percent with one decimal; – where there is none."""
    return "–" if value is None or value != value else f"{100 * value:.1f}"


def interval(low: float | None, high: float | None) -> str:
    """The bounds of shares in percent."""
    return f"[{percent(low)}, {percent(high)}]"


def _with_interval(record: dict[str, Any], name: str) -> str:
    score = record["scores"][name]
    return f"{percent(score['mean']):>5} {interval(score['low'], score['high']):<14}"


def one_per_target(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A record of each target, by name: what is the same whatever the source."""
    chosen: dict[str, dict[str, Any]] = {}
    for record in records:
        # The whole target, where some source has it; the source's own folds may lack rare classes.
        if record["target"] not in chosen or (
            chosen[record["target"]]["held_out_folds"] and not record["held_out_folds"]
        ):
            chosen[record["target"]] = record
    return [chosen[name] for name in sorted(chosen)]


def method_of(record: dict[str, Any]) -> str:
    """The method in one line: backbone, aligners, classifier."""
    recipe = record["recipe"]
    parts = ["+".join(part["name"] for part in recipe["align"])]
    if record["backbone"]["used"]:
        segmenter = [f"masks of {recipe['segmenter']['name']}"] if recipe["segmenter"] else []
        parts = [recipe["backbone"]["name"], *segmenter, *parts]
    parts.append(recipe["classifier"]["name"] if recipe["classifier"] else "own head")
    return " · ".join(parts)


def caption(records: Sequence[dict[str, Any]]) -> str:
    """What a reader must know beside the figures."""
    first = records[0]
    lines = [
        f"Percent, with 95 % bootstrap intervals over cells; adapt: {first['adapt']} – {ADAPT_WORDS[first['adapt']]}."
    ]
    by_classes: dict[tuple[str, ...], list[str]] = {}
    for record in one_per_target(records):
        by_classes.setdefault(tuple(record["scored_classes"]), []).append(record["target"])
    averaged = "; ".join(f"{', '.join(targets)}: {', '.join(names) or 'none'}" for names, targets in by_classes.items())
    lines.append(
        f"Balanced accuracy and macro-F1 average over the classes with at least {MINIMUM_CELLS} cells ({averaged})."
    )
    lines += [
        f"Left out of the source {record['source']}: "
        + ", ".join(f"{name} (n = {n})" for name, n in record["left_out"].items())
        + ", with fewer cells than folds."
        for record in records
        if record["held_out_folds"] and record["left_out"]
    ]
    if first.get("doubtful_masks"):  # absent where the backbone cannot tell, and from records before it could
        counts = ", ".join(f"{name} {count}" for name, count in first["doubtful_masks"].items())
        lines.append(f"Masks that look doubtful, by their predicted quality: {counts}.")
    if first["weights_saw"] is None:
        lines.append("What the pretrained weights have seen is not known.")
    elif first["weights_saw"]:
        lines.append(f"Weights and adapters have seen: {', '.join(first['weights_saw'])}.")
    return "\n".join(dict.fromkeys(lines))
