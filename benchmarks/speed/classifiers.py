"""Seconds of cellfeat's classifiers against scikit-learn's as the published notebooks call them, on the same folds.

python -m benchmarks.speed.classifiers

Features are drawn, as many and as wide as those of the two published data sets together, in their thirteen classes. A
way fits on each fold's training rows and answers the fold; where the two ways' answers differ, the exit status is 1.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import common
from benchmarks.speed import measure
from cellfeat import CellfeatError, Workplace

CELLS, WIDTH, FOLDS = 33_215, 768, 5
SEED = common.SEED
PLAIN, OURS = "scikit-learn", "cellfeat"
DEFAULT = ("lr", "svm-linear", "svm-poly", "ann", "rf")
GROUPS = {"lr and SVMs": ("lr", "svm-linear", "svm-poly"), "all without xgboost": DEFAULT}
# Cells of each class per thousand: a few common classes, several rare ones, as in differential counts.
SHARES = (355, 155, 107, 100, 97, 47, 41, 40, 20, 18, 10, 6, 4)
# Distance of classes in deviations of a direction, and that of two neighbours relative to it. Of 3,200 rows x 768, 54 %
# become support vectors of a linear machine and 94 % of a cubic one; 98 and 89 % of 800 others are answered rightly.
APART, NEAR = 0.8, 0.3
DECAY = 8  # directions until the variance is halved: features of a network are far from independent


def main(
    cells: Annotated[int, typer.Option(min=200, help="Rows to draw")] = CELLS,
    width: Annotated[int, typer.Option(min=2, help="Features of a row")] = WIDTH,
    folds_run: Annotated[int, typer.Option(min=1, max=FOLDS, help="Only the first so many of the five folds")] = FOLDS,
    classifier: Annotated[list[str] | None, typer.Option(help="Only this one; may be repeated")] = None,
    share: Annotated[bool, typer.Option("--share", help="cellfeat's SVMs share a fold's inner products")] = False,
    json: Annotated[Path | None, typer.Option(help="Append a JSON line per classifier and way to this file")] = None,
) -> None:
    """The ways take turns, also in who is first. As in a `cellfeat run`, nothing is shared unless asked for."""
    from sklearn.model_selection import StratifiedKFold

    names = tuple(dict.fromkeys(classifier or DEFAULT))
    plain = plain_ways()
    for name in names:
        if name not in plain:
            raise CellfeatError(f"no classifier named {name!r} is compared here; there are: {', '.join(plain)}")
    work = Workplace.on_terminal("cpu")
    context = work.context(SEED, "benchmarks")
    features, labels = drawn(cells, width)
    turns = Turns(features, labels)
    splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED)
    with context.progress(folds_run * len(names) * 2, "fits") as bar:
        for fold, (train, test) in enumerate(list(splitter.split(features, labels))[:folds_run]):
            with shared(work, names) if share else nullcontext():
                for place, name in enumerate(names):
                    made = {PLAIN: plain[name], OURS: partial(work.registry.create, "classifier", name, {}, context)}
                    for way in (PLAIN, OURS) if (fold + place) % 2 else (OURS, PLAIN):
                        turns.take(name, way, made[way], train, test)
                        bar.advance()
    finish(turns, names, {"cells": cells, "width": width, "folds": folds_run, "shared": share}, json)


def plain_ways() -> dict[str, Callable[[], Any]]:
    """The notebooks' calls; the forest has a thread per core, and not the 64 of the authors' machine."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    def scaled(kind: Callable[..., Any], **params: Any) -> Callable[[], Any]:
        return lambda: make_pipeline(StandardScaler(), kind(**params, random_state=SEED))

    def boosted() -> Any:
        from xgboost import XGBClassifier

        return XGBClassifier(tree_method="hist", random_state=SEED)

    return {
        "lr": scaled(LogisticRegression, max_iter=500),
        "svm-linear": scaled(SVC, kernel="linear"),
        "svm-poly": scaled(SVC, kernel="poly"),
        "svm-rbf": scaled(SVC, kernel="rbf"),
        "ann": scaled(MLPClassifier, hidden_layer_sizes=(100,), max_iter=1000, early_stopping=True),
        "rf": lambda: RandomForestClassifier(n_estimators=200, max_depth=16, n_jobs=-1, random_state=SEED),
        "xgboost": boosted,
    }


def drawn(cells: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(cells, width) float32 features and (cells,) labels: Gaussian classes, of which every second is near the last."""
    rng = np.random.default_rng(SEED)
    counts = np.maximum(np.array(SHARES) * cells // sum(SHARES), 2 * FOLDS)
    counts[0] = cells - counts[1:].sum()
    labels = rng.permutation(np.repeat(np.arange(len(SHARES)), counts))
    centres = APART * rng.normal(size=(len(SHARES), width))
    centres[1::2] = centres[0:-1:2] + NEAR * centres[1::2]
    scale = 1 / np.sqrt(1 + np.arange(width) / DECAY)
    rotation = np.linalg.qr(rng.normal(size=(width, width)))[0]
    noise = rng.normal(size=(cells, width))
    return (((noise + centres[labels]) * scale) @ rotation).astype(np.float32), labels


def shared(work: Workplace, names: Sequence[str]) -> Any:
    """Inside, cellfeat's support vector machines share the inner products of their rows."""
    machines = [name for name in names if name.startswith("svm-")]
    if not machines:
        return nullcontext()
    return work.registry.find("classifier", machines[0]).factory.sharing()


class Turns:
    """Seconds, answers and memory of every classifier and way, fold by fold."""

    def __init__(self, features: np.ndarray, labels: np.ndarray) -> None:
        self.features, self.labels = features, labels
        self.seconds: dict[tuple[str, str], list[float]] = {}
        self.memory: dict[tuple[str, str], float] = {}
        self.answers: dict[tuple[str, str], list[np.ndarray]] = {}
        self.truth: dict[tuple[str, str], list[np.ndarray]] = {}
        self.vectors: dict[tuple[str, str], list[int]] = {}

    def take(self, name: str, way: str, make: Callable[[], Any], train: np.ndarray, test: np.ndarray) -> None:
        rows, answers, scored = self.features[train], self.labels[train], self.features[test]
        key = name, way
        with peak_memory() as peak:
            began = time.perf_counter()
            model = make().fit(rows, answers)
            predicted = model.predict(scored)
            self.seconds.setdefault(key, []).append(time.perf_counter() - began)
        self.memory[key] = max(self.memory.get(key, 0.0), peak[0])
        self.answers.setdefault(key, []).append(np.asarray(predicted))
        self.truth.setdefault(key, []).append(self.labels[test])
        last = model.steps[-1][1] if hasattr(model, "steps") else model
        if hasattr(last, "support_"):
            self.vectors.setdefault(key, []).append(len(last.support_))

    def equal(self, name: str) -> float:
        """Share of equal predictions of both ways."""
        plain, ours = (np.concatenate(self.answers[name, way]) for way in (PLAIN, OURS))
        return float(np.mean(plain == ours))

    def accuracy(self, name: str) -> float:
        return float(np.mean(np.concatenate(self.answers[name, OURS]) == np.concatenate(self.truth[name, OURS])))


@contextmanager
def peak_memory(every: float = 0.02) -> Iterator[list[float]]:
    """Most bytes that the process held inside the block, in the one place of the list; 0 where no system tells."""
    peak, done = [_resident()], threading.Event()

    def watch() -> None:
        while not done.wait(every):
            peak[0] = max(peak[0], _resident())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
        peak[0] = max(peak[0], _resident())


def _resident() -> float:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0.0
    return next((1024.0 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0.0)


def finish(turns: Turns, names: Sequence[str], said: dict[str, Any], json: Path | None) -> None:
    """Tables, JSON lines, and exit status 1 with a line where predictions differ."""
    rows, about, cells = [], {**said, "classes": len(SHARES)}, said["cells"]
    table = common.new_table("predictions and memory", "classifier", "equal", "accuracy", "vectors", "plain", "ours")
    for name in names:
        ways = {way: turns.seconds[name, way] for way in (PLAIN, OURS)}
        vectors = turns.vectors.get((name, OURS))
        facts = {"equal": turns.equal(name), "accuracy": turns.accuracy(name)}
        facts |= {"support_vectors": float(np.mean(vectors)) if vectors else None}
        for row in measure.records(name, ways, PLAIN, cells, about | facts):
            rows.append({**row, "total_seconds": sum(ways[row["way"]]), "peak_bytes": turns.memory[name, row["way"]]})
        gib = [f"{turns.memory[name, way] / 2**30:.1f} GiB" for way in (PLAIN, OURS)]
        few = f"{facts['support_vectors']:.0f}" if vectors else ""
        table.add_row(name, f"{100 * facts['equal']:.3f} %", f"{100 * facts['accuracy']:.1f} %", few, *gib)
    for group, members in GROUPS.items():
        if set(members) <= set(names):
            ways = {
                way: np.sum([turns.seconds[name, way] for name in members], axis=0).tolist() for way in (PLAIN, OURS)
            }
            found = measure.records(group, ways, PLAIN, cells, about)
            rows += [{**row, "total_seconds": sum(ways[row["way"]])} for row in found]
    title = f"{cells} x {said['width']}, {said['folds']} folds, a fold's fit and predictions"
    measure.finish(title, rows, json, "speed-classifiers")
    common.show(table)
    for row in rows:
        print(f"{row['stage']}, {row['way']}: {row['total_seconds']:.1f} s in all folds")
    differing = [name for name in names if turns.equal(name) < 1]
    if differing:
        typer.echo(f"predictions differ from scikit-learn's: {', '.join(differing)}", err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    common.start(main)
