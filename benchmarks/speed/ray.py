"""The Ray engine against the local one on this machine: images per second, start-up apart, and whether bits agree.

python -m benchmarks.speed.ray --images 256 --weights vit_b-random

It calls `cellfeat.use.extract`, which is not public: the command line does not tell when images were encoded.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import lance
import numpy as np
import typer
from PIL import Image

from benchmarks import common
from benchmarks.speed import measure
from cellfeat import CellfeatError, Workplace, recipe, synthetic, use

RANDOM = "-random"  # after the name of a build: its sizes are what counts, not what it has learned
ENGINES = ("local", "ray")


def main(
    images: Annotated[int, typer.Option(min=64, help="Drawn cells")] = 256,
    weights: Annotated[str, typer.Option(help="Of lora-sam: a name, a file, or vit_b-random")] = "cell-tiny",
    side: Annotated[int, typer.Option(min=32, help="Of a drawn image, px")] = 360,
    threads: Annotated[int, typer.Option(min=1, help="Of torch, in each encoder")] = 2,
    encoders: Annotated[int | None, typer.Option(min=1, help="Of Ray; default: as CPUs or GPUs allow")] = None,
    address: Annotated[str | None, typer.Option(help="A Ray cluster to join; default: started here")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "cpu",
    repeats: Annotated[int, typer.Option(min=1, help="Turns of both engines, of which the median counts")] = 1,
    json: Annotated[Path | None, typer.Option(help="Append a JSON line per engine to this file")] = None,
) -> None:
    """Both engines in turns, each with a fresh cache. The rate is that from the first encoded images to the last."""
    import torch

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = drawn(folder / "cells", images, side)
        plan = recipe.parse(
            {
                "dataset": {"manifest": str(manifest)},
                "backbone": {"name": "lora-sam", "weights": weights_file(weights, folder)},
            }
        )
        turns: dict[str, list[Turn]] = {engine: [] for engine in ENGINES}
        shares = []
        for number in range(repeats):
            for engine in ENGINES:
                choice = {"address": address, "encoders": encoders} if engine == "ray" else {}
                turns[engine].append(turn(plan, engine, folder / f"{engine}-{number}", device, choice))
            shares.append(equal_share(folder / f"local-{number}", folder / f"ray-{number}"))
            for engine in ENGINES:
                shutil.rmtree(folder / f"{engine}-{number}")
    about = {"weights": weights, "images": images, "side": side, "device": device, "equal_values": min(shares)}
    about |= {"encoders": encoders, "repeats": repeats, "load": measure.load(), "settings": measure.settings()}
    records = [{**about, "engine": engine, **figures(taken, turns["local"])} for engine, taken in turns.items()]
    common.append_json(json, "ray", records)
    show(records, f"{weights}, {images} images of {side} px, {threads} threads, median of {repeats}")


class Turn:
    """A reporter that notes when images were encoded."""

    def __init__(self) -> None:
        self.began, self.steps = time.perf_counter(), []
        self.seconds = 0.0

    def note(self, text: str) -> None:
        pass

    @contextmanager
    def progress(self, total: int | None, text: str) -> Iterator[Any]:
        yield self if "encoding" in text else Unseen()

    def advance(self, n: int = 1) -> None:
        self.steps.append((time.perf_counter(), n))

    @property
    def first(self) -> float:
        """Seconds until the first images were encoded."""
        return self.steps[0][0] - self.began

    @property
    def rate(self) -> float:
        """Images a second from then on."""
        return sum(n for _, n in self.steps[1:]) / (self.steps[-1][0] - self.steps[0][0])


class Unseen:
    def advance(self, n: int = 1) -> None:
        pass


def turn(plan: Any, engine: str, cache: Path, device: str, choice: dict[str, Any]) -> Turn:
    """One extraction into a cache of its own."""
    shown = Workplace.on_terminal(device)
    reporter = Turn()
    before = os.environ.get("CELLFEAT_CACHE")
    os.environ["CELLFEAT_CACHE"] = str(cache)
    try:
        work = Workplace(shown.registry, reporter, device)
        use.extract(plan, cache / "features.parquet", work, engine, **choice)
    finally:
        del os.environ["CELLFEAT_CACHE"]
        if before is not None:
            os.environ["CELLFEAT_CACHE"] = before
    reporter.seconds = time.perf_counter() - reporter.began
    if len(reporter.steps) < 2:
        raise CellfeatError("all images were one group: give more --images, or a rate cannot be told from a start")
    return reporter


def weights_file(weights: str, folder: Path) -> str:
    """Weights by name or file as they are; of a random network, a file that is written now."""
    if not weights.endswith(RANDOM):
        return common.lora_sam_params(weights)["weights"]
    import segment_anything
    import torch

    build = weights.removesuffix(RANDOM)
    if build not in segment_anything.sam_model_registry:
        known = ", ".join(f"{name}{RANDOM}" for name in segment_anything.sam_model_registry)
        raise CellfeatError(f"no network {weights!r}; there are {known}")
    torch.manual_seed(common.SEED)
    path = folder / f"{build}.pth"
    torch.save(segment_anything.sam_model_registry[build]().state_dict(), path)
    return str(path)


def drawn(folder: Path, count: int, side: int) -> Path:
    """Drawn cells as PNG files, and their manifest."""
    folder.mkdir()
    rng = np.random.default_rng(common.SEED)
    lines = ["id,path,label,domain"]
    for place in range(count):
        cell = synthetic.draw_cell(synthetic.CLASSES[place % 5], "lab-a", rng, size=side)
        Image.fromarray(cell.image).save(folder / f"{place:06d}.png")
        lines.append(f"{place:06d},{place:06d}.png,,lab-a")
    (folder / "cells.csv").write_text("\n".join(lines) + "\n")
    return folder / "cells.csv"


def equal_share(one: Path, other: Path) -> float:
    """Share of the stored values whose bytes are the same in both caches; the columns must be the same."""
    left, right = rows(one), rows(other)
    if set(left) != set(right):
        raise CellfeatError(f"{len(set(left) ^ set(right))} rows are in one store alone")
    return float(np.mean([right[key] == value for key, value in left.items()]))


def rows(cache: Path) -> dict[tuple[str, str], bytes]:
    """{(column, digest): bytes} of every store in a cache."""
    found = {}
    for path in sorted((cache / "stores").glob("*/*.lance")):
        table = lance.dataset(str(path)).to_table()
        digests = table.column("digest").to_pylist()
        values = table.column("value").combine_chunks().flatten().to_numpy().reshape(len(digests), -1)
        found |= {(path.stem, digest): value.tobytes() for digest, value in zip(digests, values, strict=True)}
    return found


def figures(taken: list[Turn], local: list[Turn]) -> dict[str, float]:
    rate = median(one.rate for one in taken)
    return {
        "images_per_second": rate,
        "of_local": rate / median(one.rate for one in local),
        "seconds_to_first": median(one.first for one in taken),
        "seconds": median(one.seconds for one in taken),
    }


def show(records: list[dict[str, Any]], title: str) -> None:
    table = common.new_table(title, "engine", "images/s", "of local", "to the first, s", "all, s", "equal values")
    for one in records:
        shares = (f"{one['of_local']:.2f}", f"{one['seconds_to_first']:.1f}", f"{one['seconds']:.1f}")
        table.add_row(one["engine"], f"{one['images_per_second']:.2f}", *shares, f"{one['equal_values']:.4f}")
    common.show(table)
    print(f"{common.cpu_model()}, {os.cpu_count()} cores; load {measure.load()}")


if __name__ == "__main__":
    common.start(main)
