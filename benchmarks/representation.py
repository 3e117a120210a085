"""What a backbone's features tell of real cells: inside acevedo20 and from there to other laboratories.

python benchmarks/representation.py cells.csv --weights cell-tiny --clf svm-linear --clf rf --json results.jsonl
"""

from __future__ import annotations

import json as jsonlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import common
import numpy as np
import typer

from cellfeat import CellfeatError, metrics

SEEDS = (1234, 1235, 1236)
ALIGN = ("none", "per-domain-z")
UNSEEN = "unseen"  # stands for the target in figures of source cells that the weights never saw


class Task(NamedTuple):
    """One question to `cellfeat run`. `targets`: laboratories to test on; `reported`: those whose figure is asked."""

    name: str
    labels: str
    align: str
    targets: tuple[str, ...]
    reported: tuple[str, ...]

    def options(self, source: str) -> list[str]:
        domains = ",".join((source, *self.targets))
        return ["--labels", self.labels, "--align", self.align, "--set", f"dataset.domains=[{domains}]"]


def tasks_of(source: str, targets: tuple[str, ...]) -> list[Task]:
    # A run wants a second laboratory; which one makes no difference to what is measured inside the source.
    inside = Task("ten-class", "dorl-13", "none", targets[:1], (source,))
    across = [Task("five-class", "five-class", align, targets, (source, *targets)) for align in ALIGN]
    return [inside, *across]


def main(
    manifest: Annotated[Path, typer.Argument(help="Manifest CSV with the source and the target domains")],
    weights: Annotated[str | None, typer.Option(help="Weights of the backbone: a name or a file")] = None,
    pooling: Annotated[str | None, typer.Option(help="backbone.pooling, where the backbone has it")] = None,
    passes: Annotated[int | None, typer.Option(min=1, help="backbone.passes, where the backbone has it")] = None,
    shape: Annotated[bool | None, typer.Option(help="backbone.shape, where the backbone has it")] = None,
    clf: Annotated[list[str] | None, typer.Option(help="Classifier; default: svm-linear; repeat for several")] = None,
    backbone: Annotated[str, typer.Option(help="Any backbone; `colour` is the free floor")] = "lora-sam",
    source: Annotated[str, typer.Option(help="Domain that is trained on")] = "acevedo20",
    target: Annotated[
        list[str] | None, typer.Option(help="Domain to transfer to; default: tecom and bccd; repeat for several")
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="Folds inside the source")] = 5,
    unseen: Annotated[
        Path | None, typer.Option(help="Ids of source cells that the weights never saw (fold_ids.py): told apart")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help=f"Default: {' '.join(map(str, SEEDS))}; repeat")] = None,
    out: Annotated[Path | None, typer.Option(help="New folder that keeps the run folders; else they go")] = None,
    json: Annotated[Path | None, typer.Option(help="Append a JSON line per figure to this file")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
) -> None:
    """Balanced accuracy over classes with at least 10 target cells, mean and spread over seeds, by `cellfeat run`."""
    targets, seeds = tuple(target or ("tecom", "bccd")), list(seed or SEEDS)
    if source in targets:
        raise CellfeatError(f"--target {source} is the source; name other domains")
    settings = {"pooling": pooling, "passes": passes, "shape": shape, "weights": None}
    settings |= common.lora_sam_params(weights)
    given = {key: value for key, value in settings.items() if value is not None}
    shared = ["--data", str(manifest), "--backbone", backbone, "--source", source, "--folds", str(folds)]
    shared += ["--adapt", "test", "--device", device, "--set", f"protocol.seeds={seeds}"]
    shared += [word for key, value in given.items() for word in ("--set", f"backbone.{key}={value}")]
    ids = common.read_ids(unseen)
    if out:
        out.mkdir(parents=True)
    found = []
    with tempfile.TemporaryDirectory(prefix="representation-") as temporary:
        for name in clf or ["svm-linear"]:
            for task in tasks_of(source, targets):
                folder = (out or Path(temporary)) / f"{task.labels}-{task.align}-{name}".replace(":", "-")
                written = run([*shared, *task.options(source), "--clf", name], folder)
                if ids and task.reported == (source,):
                    written += only(ids, written, folder / "predictions.parquet", source)
                asked = [record for record in written if record["target"] in (*task.reported, UNSEEN)]
                found += [{"task": task.name, "classifier": name, **one} for one in figures(asked, seeds)]
    about = {"backbone": backbone, "settings": given, "folds": folds, "seeds": seeds}
    common.append_json(json, "representation", [about | one for one in found])
    print("\n".join(markdown(found, source, (UNSEEN, *targets) if ids else targets)))


def run(options: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """The records of one `cellfeat run`; where it fails, its own message is the last line on stderr."""
    command = [sys.executable, "-m", "cellfeat", "run", *options, "--out", str(folder)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(done.returncode)
    return [jsonlib.loads(line) for line in (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()]


def only(
    ids: frozenset[str], written: Sequence[dict[str, Any]], predictions: Path, source: str
) -> list[dict[str, Any]]:
    """The records of the source once more, scored on these cells alone, each by the fold that held it out."""
    import pyarrow.parquet as pq

    table = pq.read_table(predictions, columns=["seed", "target", "id", "label", "predicted"]).to_pandas()
    table = table[(table.target == source) & table.id.isin(ids)]
    if table.id.nunique() < len(ids):
        raise CellfeatError(f"{len(ids)} ids of unseen cells were given, {table.id.nunique()} of them are in {source}")
    found = []
    for record in written:
        if record["target"] == source:
            cells, names = table[table.seed == record["seed"]], record["classes"]
            label, predicted = (np.array([names.index(name) for name in cells[c]]) for c in ("label", "predicted"))
            scored = metrics.scored_classes(label, len(names))
            scores = metrics.scores_of(metrics.confusion(label, predicted, len(names)), scored)
            about = {
                "target": UNSEEN,
                "cells": len(cells),
                "scored_classes": [names[place] for place in scored],
                "majority": metrics.majority(label, len(names)),
                "scores": {"balanced_accuracy": {"mean": float(scores["balanced_accuracy"]) if len(scored) else None}},
            }
            found.append(record | about)
    return found


def figures(written: Sequence[dict[str, Any]], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Records of several seeds as one figure per target, in percent."""
    found = []
    for target in dict.fromkeys(record["target"] for record in written):
        same = [record for record in written if record["target"] == target]
        if sorted(record["seed"] for record in same) != sorted(seeds):
            raise CellfeatError(f"the records of {target} are not one per seed; was the run folder written to?")
        first, scores = same[0], [record["scores"]["balanced_accuracy"]["mean"] for record in same]
        if None in scores:
            raise CellfeatError(f"{target} has no class with 10 cells or more; balanced accuracy says nothing there")
        found.append(
            {
                "target": target,
                "held_out_folds": first["held_out_folds"],
                "align": ",".join(part["name"] for part in first["recipe"]["align"]),
                "adapt": first["adapt"],
                "balanced_accuracy": 100 * sum(scores) / len(scores),
                "spread": 100 * common.spread(scores),
                "by_seed": [100 * score for score in scores],
                "cells": first["cells"],
                "scored_classes": first["scored_classes"],
                "left_out": first["left_out"],
                "majority": 100 * first["majority"]["balanced_accuracy"],
                "dataset": first["dataset"]["digest"],
                "weights_saw": first["weights_saw"],
                "weights_sha256": first["backbone"]["weights_sha256"],
            }
        )
    return found


def markdown(found: Sequence[dict[str, Any]], source: str, targets: Sequence[str]) -> list[str]:
    """A row per classifier and align method; adaptation is told, as such rows are no rivals of those without."""
    inside = f"{source}, held-out folds"
    lines = [f"| task | classifier | align | adapt | {inside} | {' | '.join(map(_headed, targets))} |"]
    lines.append("|---" * (5 + len(targets)) + "|")
    for key in dict.fromkeys((one["task"], one["classifier"], one["align"]) for one in found):
        row = [one for one in found if (one["task"], one["classifier"], one["align"]) == key]
        cells = {one["target"]: f"{one['balanced_accuracy']:.1f} ± {one['spread']:.1f}" for one in row}
        values = [cells.get(name, "") for name in (source, *targets)]
        adapt = next((one["adapt"] for one in row if not one["held_out_folds"]), row[0]["adapt"])
        lines.append(f"| {' | '.join([*key, adapt, *values])} |")
    scored = {one["target"]: f"{len(one['scored_classes'])} classes" for one in found if not one["held_out_folds"]}
    lines.append(f"\nBalanced accuracy in percent over classes with at least 10 target cells ({_listed(scored)}),")
    lines.append(f"mean ± standard deviation over {len(found[0]['by_seed'])} seeds; predictions unrestricted.")
    for saw in dict.fromkeys(str(one["weights_saw"]) for one in found):
        lines.append(f"The weights saw: {saw}")
    return lines


def _headed(target: str) -> str:
    return "of these, never seen by the weights" if target == UNSEEN else f"→ {target}"


def _listed(scored: dict[str, str]) -> str:
    return ", ".join(f"{name}: {text}" for name, text in scored.items())


if __name__ == "__main__":
    common.start(main)
