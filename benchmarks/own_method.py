"""How `balanced-lda` and `self-trained-lda` were judged: on synthetic laboratories, or on those of a manifest.

Laboratories differ in stain, camera and, strongly, in their shares of the five classes. Every ordered pair is a source
and a target. No labelled cell of a target that is reported elsewhere is needed.

python benchmarks/own_method.py --nuisance 1.2 --json results.jsonl
"""

from __future__ import annotations

import csv
import tempfile
import warnings
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Annotated, Any

import common
import numpy as np
import typer
from PIL import Image

from cellfeat import CellfeatError, Cells, Workplace, encode_cells, metrics, synthetic

ALIGN = ("none", "per-domain-z", "mean-centre", "balanced-lda", "self-trained-lda")
CLASSIFIERS = ("svm-linear", "lr")
BASELINE = "per-domain-z"
LEAST = 10  # target cells of a class that is scored


def main(
    labs: Annotated[int, typer.Option(min=2, help="Synthetic laboratories")] = 8,
    cells: Annotated[int, typer.Option(min=20, help="Mean number of cells of a laboratory")] = 150,
    manifest: Annotated[
        Path | None, typer.Option(help="Cells of these domains instead of drawn ones; labels of `--labels`")
    ] = None,
    labels: Annotated[str | None, typer.Option(help="Label vocabulary of the manifest")] = None,
    align: Annotated[list[str] | None, typer.Option(help=f"Default: {' '.join(ALIGN)}; repeat")] = None,
    backbone: Annotated[str, typer.Option(help="Any backbone; lora-sam with two passes and shapes")] = "lora-sam",
    nuisance: Annotated[float, typer.Option(min=0, help="Strength of further differences, made in the features")] = 1.2,
    pairs: Annotated[int, typer.Option(min=1, help="At most so many pairs of laboratories, drawn by the seed")] = 56,
    seed: Annotated[int, typer.Option(help="Of laboratories, cells, nuisance and pairs")] = common.SEED,
    json: Annotated[Path | None, typer.Option(help="Append a JSON line per method to this file")] = None,
) -> None:
    """Mean balanced accuracy over ordered pairs of laboratories, and the paired difference from per-domain-z."""
    work, names = Workplace.on_terminal(), list(dict.fromkeys([*(align or ALIGN), BASELINE]))
    params = {"passes": 2, "shape": True} if backbone == "lora-sam" else {}
    with tempfile.TemporaryDirectory(prefix="own-method-") as folder:
        source = manifest or drawn(Path(folder), labs, cells, seed)
        known = encode_cells(source, backbone=backbone, params=params, labels=labels, work=work)
    pooled = with_nuisance(known.pooled.astype(np.float64), known.domain, nuisance, seed)
    known = known.with_column("pooled", pooled.astype(np.float32))
    chosen = pairs_of(known, pairs, seed)
    found = []
    for name in names:
        scores = {clf: np.array([judge(name, clf, known, *pair, work) for pair in chosen]) for clf in CLASSIFIERS}
        found.append({"align": name, **scores})
    records = summary(found)
    about = {"nuisance": nuisance, "seed": seed, "pairs": len(chosen), "cells": len(known), "backbone": backbone}
    common.append_json(json, "own_method", [about | record for record in records])
    table = common.new_table(f"{len(chosen)} pairs, nuisance {nuisance}", "align", *CLASSIFIERS, f"over {BASELINE}")
    for record in records:
        margin = f"{record['margin']:+.1f} ± {record['standard_error']:.1f}"
        table.add_row(record["align"], *(f"{record[clf]:.1f}" for clf in CLASSIFIERS), margin)
    common.show(table)


def drawn(folder: Path, labs: int, cells: int, seed: int) -> Path:
    """A manifest of drawn cells; every laboratory's class shares are drawn from all possible ones alike."""
    rng = np.random.default_rng(seed)
    with (folder / "cells.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "label", "domain"])
        for lab in range(labs):
            look, shares = synthetic.random_laboratory(rng), rng.dirichlet(np.ones(len(synthetic.CLASSES)))
            for number in range(int(cells * rng.uniform(0.7, 1.3))):
                cell = synthetic.draw_cell(synthetic.CLASSES[rng.choice(len(shares), p=shares)], look, rng)
                name = f"lab{lab:02}-{number:04}"
                Image.fromarray(cell.image).save(folder / f"{name}.png")
                writer.writerow([name, f"{name}.png", cell.label, f"lab{lab:02}"])
    return folder / "cells.csv"


def with_nuisance(pooled: np.ndarray, domain: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """Standardised features (N, D), each domain mixed, scaled and moved at random, its cells with noise.

    The weights were trained on cells drawn by the same program, so drawn laboratories alone are too easy.
    """
    rng = np.random.default_rng(seed)
    values = (pooled - pooled.mean(axis=0)) / (pooled.std(axis=0) + 1e-9)
    size = values.shape[1]
    for name in sorted(set(domain.tolist())) if strength else ():
        rows = domain == name
        part, few = values[rows], min(8, size)
        into, back = rng.normal(size=(size, few)) / np.sqrt(size), rng.normal(size=(few, size))
        part = (part + strength * 0.5 * (part @ into) @ back) * np.exp(0.4 * strength * rng.normal(size=size))
        part = part + strength * (0.6 * rng.normal(size=size) + 0.33 * rng.normal(size=(1, few)) @ back)
        noise = rng.normal(size=part.shape) + 0.5 * rng.normal(size=(len(part), few)) @ back
        values[rows] = part + strength * noise
    return values


def pairs_of(cells: Cells, most: int, seed: int) -> list[tuple[str, str]]:
    """Ordered pairs (source, target) of domains; the source has at least two classes, the target one to score."""
    counts = {name: np.bincount(cells.label[cells.domain == name]) for name in sorted(set(cells.domain.tolist()))}
    able = [
        (source, target)
        for source, target in permutations(counts, 2)
        if (counts[source] > 0).sum() > 1 and counts[target].max() >= LEAST
    ]
    if not able:
        raise CellfeatError(f"no pair of domains: a source needs 2 classes, a target a class with {LEAST} cells")
    rng = np.random.default_rng(seed)
    return [able[place] for place in sorted(rng.choice(len(able), min(most, len(able)), replace=False))]


def judge(align: str, clf: str, cells: Cells, source: str, target: str, work: Workplace) -> float:
    """Balanced accuracy in percent over the target's classes with at least 10 cells, by the classifier's labels."""
    part = cells[np.isin(cells.domain, [source, target])]
    is_target = part.domain == target
    part = part.with_target(is_target)
    truth, context = part.label, work.context(common.SEED, "benchmarks")
    method = work.registry.create("align", align, {}, context)
    shown = part.hide_labels(np.flatnonzero(is_target))
    method.fit(shown if method.uses_target else shown[~is_target], context)
    vectors = method.transform(part.hide_labels(), context)
    classifier = work.registry.create("classifier", clf, {}, context)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the solver stopped at its limit
        classifier.fit(vectors[~is_target], truth[~is_target])
    predicted, count = classifier.predict(vectors[is_target]), int(cells.label.max()) + 1
    scored = metrics.scored_classes(truth[is_target], count)
    table = metrics.confusion(truth[is_target], predicted, count)
    return 100 * float(metrics.scores_of(table, scored)["balanced_accuracy"])


def summary(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over pairs, and the paired difference of the mean over classifiers from the baseline's."""
    both = {one["align"]: np.mean([one[clf] for clf in CLASSIFIERS], axis=0) for one in found}
    return [_summed(one, both[one["align"]] - both[BASELINE]) for one in found]


def _summed(one: dict[str, Any], margin: np.ndarray) -> dict[str, Any]:
    means = {clf: float(one[clf].mean()) for clf in CLASSIFIERS}
    error = common.spread(margin) / len(margin) ** 0.5
    return {"align": one["align"], **means, "margin": float(margin.mean()), "standard_error": error}


if __name__ == "__main__":
    common.start(main)
