"""The command line that uses a finished run, one of its pipelines, or what was shared of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from cellfeat import records
from cellfeat.newcomers import FACT
from cellfeat.pipeline import read_about
from cellfeat.run import RECORDS, read_run

OUT = "-o predictions.csv"


def of_run(run: Path, options: str = "") -> str:
    """`cellfeat predict` with a run folder; options: more of them, each after a space."""
    found = records.read(run / RECORDS) if (run / RECORDS).is_file() else []
    sources = list(dict.fromkeys(record["source"] for record in found)) or sorted(read_run(run))
    choice = f" --source {quote(sources[0])}" if len(sources) > 1 else ""
    return f"cellfeat predict {quote(str(run))} IMAGES{choice}{' --refit' * _adapted(found)}{options} {OUT}"


def of_pipeline(folder: Path) -> str:
    """`cellfeat predict` with the folder of one pipeline, of a run or from elsewhere."""
    about = read_about(folder)
    facts, beside = about["facts"], folder.resolve().parent.parent / RECORDS
    if facts.get("shared"):
        return _of_shared_pipeline({FACT: facts.get(FACT), "laboratories": about["domains"]}, folder)
    found = [one for one in records.read(beside) if one["source"] == folder.name] if beside.is_file() else []
    again = "dataset" in facts and (_adapted(found) or facts.get(FACT) is False)
    return f"cellfeat predict {quote(str(folder))} IMAGES{' --refit' * again} {OUT}"


def of_shared(about: Mapping[str, Any], folder: Path | str) -> str:
    """The command line for a shared folder of any kind; about: its cellfeat.json."""
    if about["kind"] == "pipeline":
        return _of_shared_pipeline(about, folder)
    if about["kind"] == "adapter":
        weights = (about.get("needs") or {}).get("weights")
        named = f" --set {quote(f'backbone.weights={weights}')}" if weights else ""
        return f"cellfeat run --data cells.csv{named} --set {quote(f'backbone.adapter={folder}')}"
    method = about.get("method") or ["NAME"]
    return f"cellfeat run --data cells.csv --align {quote(method[0])} --set {quote(f'align.weights={folder}')}"


def _of_shared_pipeline(about: Mapping[str, Any], folder: Path | str) -> str:
    """It cannot be fitted again, so that it may know its laboratories alone."""
    known = about.get("laboratories") or ["NAME"]
    own = f" --domain {quote(known[0])}" if about.get(FACT) is False else ""
    return f"cellfeat predict {quote(str(folder))} IMAGES{own} {OUT}"


def _adapted(found: Sequence[Mapping[str, Any]]) -> bool:
    """What adapted to the targets cannot place images of yet another laboratory, before it has adapted to them."""
    return any(record["adapt"] != "none" for record in found)
