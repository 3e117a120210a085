"""Whether a run tells other laboratories, and photographs that were spoilt, from cells like those that it learnt from.

python benchmarks/novelty.py cells.csv --labels five-class
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import common
import numpy as np
import typer

from cellfeat import CellfeatError, api, encode_cells, images, load

MOST = 1_000  # cells of a laboratory
HELD_OUT = 1 / 3
BATCHES = {5: 10, 20: 10, 50: 5, 200: 2}  # size -> how many are drawn of the laboratory learnt from
FEWER = 2  # at most, of any other
SPOILT = 20  # cells of the batch that each distortion is tried on
BACKBONES = ("lora-sam", "colour")


@dataclass(frozen=True)
class Data:
    """Cells in the order of their ids. held_out: (N,) bool, those that nothing is learnt from."""

    path: tuple[Path, ...]
    domain: np.ndarray
    label: np.ndarray
    held_out: np.ndarray

    def rows(self, domain: str, held_out: bool = True) -> np.ndarray:
        return np.flatnonzero((self.domain == domain) & (self.held_out == held_out))

    def paths(self, rows: Sequence[int]) -> list[Path]:
        return [self.path[row] for row in rows]


def main(
    manifest: Annotated[Path, typer.Argument(help="Manifest CSV of several laboratories, with labels")],
    labels: Annotated[str | None, typer.Option(help="Vocabulary or YAML map of the labels")] = None,
    backbone: Annotated[list[str] | None, typer.Option(help=f"Default: {' '.join(BACKBONES)}; repeat")] = None,
    most: Annotated[int, typer.Option(min=30, help="Cells of a laboratory, drawn by the seed")] = MOST,
    seed: Annotated[int, typer.Option(help="Of every draw")] = common.SEED,
    json: Annotated[Path | None, typer.Option(help="Append a JSON line per backbone and laboratory")] = None,
) -> None:
    """AUROC of the score per image, and what is said of batches, for held-out cells against strange ones."""
    records = []
    for name in backbone or BACKBONES:
        with TemporaryDirectory(prefix="novelty-") as folder:
            data, run = learnt(manifest, labels, name, most, seed, Path(folder))
            for source in sorted(set(data.domain.tolist())):
                about = {"backbone": name, "source": source, "seed": seed}
                records.append(about | judged(data, load(run, source=source), source, seed))
    common.append_json(json, "novelty", records)
    show(records)


def learnt(manifest: Path, labels: str | None, backbone: str, most: int, seed: int, folder: Path) -> tuple[Data, Path]:
    """The cells, and a run on two thirds of each laboratory's."""
    small = sampled(manifest, labels, most, seed, folder)
    cells = encode_cells(small, backbone=backbone, labels=labels)
    with small.open(newline="", encoding="utf-8") as file:
        found = {row["id"]: row for row in csv.DictReader(file)}
    rng = np.random.default_rng(seed)
    held_out = rng.random(len(cells)) < HELD_OUT
    part = folder / "learnt.csv"
    write(part, [found[name] for name in cells.id[~held_out].tolist()])
    method: dict[str, Any] = {"backbone": backbone, "align": "none", "clf": "lr"}
    out = api.run(part, labels=labels, **method, folds=2, seed=seed, out=folder / "run")
    paths = tuple(Path(found[name]["path"]) for name in cells.id.tolist())
    return Data(paths, cells.domain, cells.label, held_out), out[0]


def sampled(manifest: Path, labels: str | None, most: int, seed: int, folder: Path) -> Path:
    """A manifest of at most so many labelled cells of each laboratory, paths absolute."""
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["id"])
    rng = np.random.default_rng(seed)
    kept: list[dict[str, str]] = []
    for name in sorted({row["domain"] for row in rows}):
        own = [row for row in rows if row["domain"] == name and row["label"]]
        kept += [own[place] for place in sorted(rng.permutation(len(own))[:most])]
    if len({row["domain"] for row in kept}) < 2:
        raise CellfeatError(f"{manifest} has cells of fewer than two laboratories; others are needed to be told apart")
    resolved = [{**row, "path": str((manifest.parent / row["path"]).resolve())} for row in kept]
    write(folder / "sampled.csv", resolved)
    return folder / "sampled.csv"


def write(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", "path", "label", "domain"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def judged(data: Data, run: Any, source: str, seed: int) -> dict[str, Any]:
    """Of one laboratory's pipeline: AUROC and share called novel by laboratory, remarks on batches and distortions."""
    own = run.novelty(data.paths(data.rows(source)))
    record: dict[str, Any] = {"held_out": len(own.score), "false_alarms": float(own.novel.mean()), "others": {}}
    batches = {source: data.rows(source)}
    for other in sorted(set(data.domain.tolist()) - {source}):
        rows = np.flatnonzero(data.domain == other)
        found = run.novelty(data.paths(rows))
        auroc = {name: area(own.parts[name], found.parts[name]) for name in own.parts}
        score = {"auroc": area(own.score, found.score), "novel": float(found.novel.mean()), "parts": auroc}
        record["others"][other] = score | {"cells": len(rows), "remarks": list(found.remarks)}
        batches[other] = rows
    sizes = {
        name: BATCHES if name == source else {size: min(count, FEWER) for size, count in BATCHES.items()}
        for name in batches
    }
    record["batches"] = {name: told(run, data, rows, sizes[name], seed) for name, rows in batches.items()}
    record["spoilt"] = dict(spoilt(run, data, data.rows(source), seed))
    return record


def area(own: np.ndarray, strange: np.ndarray) -> float:
    """AUROC: how often a strange cell has the larger score than one of the same laboratory."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(np.repeat([0, 1], [len(own), len(strange)]), np.concatenate([own, strange])))


def told(run: Any, data: Data, rows: np.ndarray, sizes: Mapping[int, int], seed: int) -> dict[int, tuple[int, int]]:
    """{size: (batches with a remark, batches)}; none of a size that there are no cells for."""
    rng = np.random.default_rng(seed)
    found = {}
    for size, count in sizes.items():
        if size <= len(rows):
            drawn = [rng.choice(rows, size, replace=False) for _ in range(count)]
            found[size] = (sum(bool(run.novelty(data.paths(one)).remarks) for one in drawn), count)
    return found


def spoilt(run: Any, data: Data, rows: np.ndarray, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each distortion: the share called novel, and what is said of a batch."""
    drawn = np.random.default_rng(seed).choice(rows, min(SPOILT, len(rows)), replace=False)
    whole = [images.read_rgb(path) for path in data.paths(drawn)]
    for name, change in DISTORTIONS.items():
        found = run.novelty([change(image) for image in whole])
        yield name, {"cells": len(drawn), "novel": float(found.novel.mean()), "remarks": list(found.remarks)}


def blurred(image: np.ndarray) -> np.ndarray:
    """As out of focus by a hundredth of the image's side."""
    import cv2

    return cv2.GaussianBlur(image, (0, 0), 0.01 * max(image.shape))


def coloured(image: np.ndarray) -> np.ndarray:
    """In a yellow light: a fifth less blue."""
    return (image * np.array([1.0, 1.0, 0.8])).round().astype(np.uint8)


def darkened(image: np.ndarray) -> np.ndarray:
    return (image * 0.8).round().astype(np.uint8)


def smaller(image: np.ndarray) -> np.ndarray:
    """The same picture of 0.7 times the pixels along a side."""
    return images.resize(image, tuple(round(0.7 * side) for side in image.shape[:2]), "area")


def larger(image: np.ndarray) -> np.ndarray:
    return images.resize(image, tuple(round(1.4 * side) for side in image.shape[:2]))


def closer(image: np.ndarray) -> np.ndarray:
    """The middle alone, so that cells look 1.4 times as large."""
    height, width = (round(side * 0.5 * (1 - 1 / 1.4)) for side in image.shape[:2])
    return np.ascontiguousarray(image[height : image.shape[0] - height, width : image.shape[1] - width])


def compressed(image: np.ndarray) -> np.ndarray:
    """Through JPEG of quality 20."""
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=20)
    return images.read_rgb(file.getvalue())


DISTORTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda image: image,
    "out of focus": blurred,
    "yellow light": coloured,
    "0.8 of the light": darkened,
    "0.7 of the pixels": smaller,
    "1.4 of the pixels": larger,
    "cropped closer, 1.4": closer,
    "JPEG of quality 20": compressed,
}


def show(records: Sequence[Mapping[str, Any]]) -> None:
    parts = list(next(iter(records[0]["others"].values()))["parts"])
    headings = ("novel, %", "AUROC", *parts, *(f"batches of {size} with remarks" for size in BATCHES))
    table = common.new_table("Unlike cells", "backbone", "learnt from", "cells of", *headings, left=3)
    for one in records:
        for name, batches in one["batches"].items():
            other = one["others"].get(name, {"novel": one["false_alarms"], "auroc": None, "parts": {}})
            scores = [other["auroc"], *(other["parts"].get(part) for part in parts)]
            row = [f"{100 * other['novel']:.1f}", *("" if value is None else f"{value:.3f}" for value in scores)]
            row += [("{} of {}".format(*batches[size]) if size in batches else "") for size in BATCHES]
            table.add_row(one["backbone"], one["source"], name, *row)
    common.show(table)
    for one in records:
        for name, found in one["spoilt"].items():
            said = " | ".join(found["remarks"]) or "no remark"
            print(f"{one['backbone']}, {one['source']}, {name}: {100 * found['novel']:.0f} % novel; {said}")


if __name__ == "__main__":
    common.start(main)
