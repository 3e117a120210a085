"""IoU before and after `cellfeat lora-sam finetune` on a few true masks, over seeded draws of those masks.

python benchmarks/few_masks.py cells.csv --weights cell-tiny --out adapters
"""

from __future__ import annotations

import csv
import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import common
import numpy as np
import typer

from cellfeat import CellfeatError, Workplace, make_adapter

LAST_YELLOW = 200  # ids of tecom up to this one have a yellow background, later ones a white one


def main(
    manifest: Annotated[Path, typer.Argument(help="Manifest CSV with true masks")],
    out: Annotated[Path, typer.Option(help="New folder that keeps the adapters and the manifests of the draws")],
    weights: Annotated[str, typer.Option(help="Weights to start from: a name or a file")] = "cell-tiny",
    domain: Annotated[str, typer.Option(help="The domain that masks are drawn from")] = "tecom",
    masks: Annotated[int, typer.Option(min=2, help="Masks of one draw; the rest is judged")] = 50,
    draws: Annotated[int, typer.Option(min=1, help="Seeded draws")] = 5,
    epochs: Annotated[int, typer.Option(min=1, help="Of the fine-tuning")] = 150,
    batch_size: Annotated[int, typer.Option(min=1, help="Of the fine-tuning")] = 32,
    lr: Annotated[float, typer.Option(help="Learning rate of the fine-tuning")] = 1e-4,
    json: Annotated[Path | None, typer.Option(help="Append a JSON line per draw to this file")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
) -> None:
    """Whole-cell IoU at 224 px on the cells that were not drawn; identical images stay on one side."""
    work, start = Workplace.on_terminal(device), common.lora_sam_params(weights)
    rows = common.read_rows(manifest, [domain])
    twins, seeds = twins_of(rows), range(common.SEED, common.SEED + draws)
    chosen = {seed: draw(rows, twins, masks, np.random.default_rng(seed)) for seed in seeds}
    untuned = common.make_segmenter("lora-sam", start, work)
    out.mkdir(parents=True)
    cells = [common.read_cell(row) for row in rows]
    before = np.array(common.cell_ious(untuned, cells))
    training = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
    records = []
    for seed, drawn in chosen.items():
        folder = out / f"seed-{seed}"
        write_manifest(folder.with_suffix(".csv"), [rows[place] for place in drawn])
        seconds = tune(folder, start, training, seed, work)
        method = common.make_segmenter("lora-sam", {**start, "adapter": str(folder)}, work)
        rest = np.setdiff1d(np.arange(len(rows)), drawn)
        after = np.array(common.cell_ious(method, [cells[place] for place in rest]))
        records.append({"seed": seed, "drawn": [rows[place].id for place in drawn], "seconds": seconds})
        records[-1] |= {"cells": len(rest), "before": common.figures(before[rest]), "after": common.figures(after)}
        records[-1] |= {"weights": weights, "domain": domain, "masks": len(drawn), **training}
        records[-1] |= {"weights_sha256": method.weights_sha256}
    common.append_json(json, "few-masks", records)
    show(records)


def background(row: common.Row) -> str:
    """Which of a domain's backgrounds an image has: tecom has two, told by the number; others are taken as of one."""
    number = re.fullmatch(r"tecom_(\d+)", row.id)
    return "" if number is None else "yellow" if int(number[1]) <= LAST_YELLOW else "white"


def twins_of(rows: Sequence[common.Row]) -> list[str]:
    """The digest of every image's decoded pixels: equal ones are one image under several names."""
    pixels = [common.read_cell(row, None).image for row in rows]
    return [hashlib.sha256(str(image.shape).encode() + image.tobytes()).hexdigest() for image in pixels]


def draw(rows: Sequence[common.Row], twins: Sequence[str], count: int, rng: np.random.Generator) -> np.ndarray:
    """Places (count,) of the masks to train on: of each background its share, and identical images all or none."""
    groups: dict[str, list[int]] = {}
    for place, twin in enumerate(twins):
        groups.setdefault(twin, []).append(place)
    if count >= len(rows):
        raise CellfeatError(f"{count} masks are to be drawn, but there are {len(rows)}; nothing would be left to judge")
    names = [background(row) for row in rows]
    chosen: list[int] = []
    for name, wanted in shares({name: names.count(name) for name in sorted(set(names))}, count).items():
        own = [group for group in groups.values() if names[group[0]] == name]
        taken: list[int] = []
        for pick in rng.permutation(len(own)):
            if len(taken) + len(own[pick]) <= wanted:
                taken += own[pick]
        chosen += taken
    return np.sort(np.array(chosen))


def shares(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """`count` divided as the sizes are; the largest remainders get what rounding down leaves."""
    exact = {name: count * size / sum(sizes.values()) for name, size in sizes.items()}
    found = {name: int(value) for name, value in exact.items()}
    for name in sorted(exact, key=lambda name: found[name] - exact[name])[: count - sum(found.values())]:
        found[name] += 1
    return found


def write_manifest(path: Path, rows: Sequence[common.Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "label", "domain", "mask_path"])
        for row in rows:  # no class is needed to learn masks, and none is handed on
            writer.writerow([row.id, row.path.resolve(), "cell", row.domain, row.mask_path and row.mask_path.resolve()])


def tune(
    folder: Path, start: Mapping[str, str], training: Mapping[str, Any], seed: int, work: Workplace
) -> float | None:
    """What `cellfeat lora-sam finetune` does; its seconds, or None where the adapter was in the cache."""
    notes = len(work.reporter.notes)
    started = time.perf_counter()
    section = {"masks": "truth", **training}
    make_adapter(folder, str(folder.with_suffix(".csv")), {"name": "lora-sam", **start}, section, seed, work)
    if any(text.startswith("fine-tuned before") for text in work.reporter.notes[notes:]):
        return None
    return round(time.perf_counter() - started, 1)


def show(records: Sequence[Mapping[str, Any]]) -> None:
    first = records[0]
    title = f"{first['domain']}: IoU on the cells that {first['masks']} masks leave, {first['epochs']} epochs"
    table = common.new_table(title, "draw", "cells", "before", "after", "95 %", "median", "below 0.5", "seconds")
    for one in records:
        before, after = one["before"], one["after"]
        row = [str(one["cells"]), f"{before['mean']:.3f}", f"{after['mean']:.3f}"]
        row += [
            f"{after['low']:.3f}–{after['high']:.3f}",
            f"{after['median']:.3f}",
            f"{100 * after['below_half']:.1f} %",
        ]
        table.add_row(str(one["seed"]), *row, "cached" if one["seconds"] is None else f"{one['seconds']:.0f}")
    means = {key: [one[key]["mean"] for one in records] for key in ("before", "after")}
    both = [f"{np.mean(values):.3f} ± {common.spread(values):.3f}" for values in means.values()]
    table.add_section()
    table.add_row("all draws", "", *both, "", "", "", "")
    common.show(table)


if __name__ == "__main__":
    common.start(main)
