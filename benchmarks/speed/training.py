"""Seconds of a training step of `cae` and of `lora-sam`, and of a crop, against the way one would write them.

python -m benchmarks.speed.training

A step of cellfeat is what lies between two of its own reports of progress: reading, augmenting, loss, optimiser.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import common
from benchmarks.speed import measure
from benchmarks.speed.forward import chosen_weights
from cellfeat import CellfeatError, Cells, Workplace, images, synthetic

BATCH = 8
STEPS = 3  # of cellfeat in a turn; the first of them is not counted
PLAIN = {"crops": "scipy zoom", "cae": "timm, AdamW", "lora": "segment-anything + peft"}
OURS = {"cellfeat, float32": "fp32", "cellfeat, bf16": "bf16"}


class Clock:
    """A reporter that remembers when the steps of a training, whose progress begins with `title`, were done."""

    def __init__(self, title: str) -> None:
        self.title, self.times = title, []

    @contextmanager
    def progress(self, total: int | None, text: str) -> Iterator[Bar]:
        yield Bar(self.times if text.startswith(self.title) else [])

    def note(self, text: str) -> None:
        """Nothing is told."""

    def steps(self) -> list[float]:
        """When each step was done."""
        if len(self.times) != STEPS:
            raise CellfeatError(f"{len(self.times)} steps of {self.title!r} were seen, not {STEPS}: was it resumed?")
        return self.times


class Bar:
    """One progress of a clock."""

    def __init__(self, times: list[float]) -> None:
        self.times = times

    def advance(self, n: int = 1) -> None:
        self.times.append(time.perf_counter())


def main(
    stage: Annotated[list[str] | None, typer.Option(help="crops, cae or lora; may be repeated; default: all")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of torch")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Turns")] = 4,
    json: Annotated[Path | None, typer.Option(help="Append a JSON line per way to this file")] = None,
) -> None:
    """Batches of 8; crops of drawn cells at 224 px in one thread; ViT-B for LoRA, 768 channels for the autoencoder."""
    import torch

    torch.set_num_threads(threads)
    rows: list[dict[str, Any]] = []
    for name in stage or list(PLAIN):
        with tempfile.TemporaryDirectory() as folder:
            seconds, about = {"crops": crops, "cae": cae, "lora": lora}[name](repeats, Path(folder))
        rows += measure.records(name, seconds, PLAIN[name], BATCH, about)
    measure.finish(f"a batch of {BATCH}, {threads} threads, {repeats} turns", rows, json, "training")


def crops(repeats: int, folder: Path) -> tuple[dict[str, list[float]], dict[str, Any]]:
    from benchmarks.speed.plain_cae import plain_crop

    cells = drawn(BATCH)
    frames = np.stack([cell.image.transpose(2, 0, 1) for cell in cells])
    masks = np.stack([cell.mask > 0 for cell in cells])
    made: dict[str, np.ndarray] = {}

    def plain() -> None:
        made["plain"] = np.stack([plain_crop(cell.image, cell.mask > 0).transpose(2, 0, 1) for cell in cells])

    def ours() -> None:
        made["ours"] = images.masked_crops(frames, masks)

    seconds = measure.interleaved({PLAIN["crops"]: plain, "cellfeat": ours}, 5 * repeats)
    return seconds, {"pixels_differ": float((made["plain"] != made["ours"]).mean())}


def drawn(count: int) -> list[Any]:
    rng = np.random.default_rng(common.SEED)
    kinds = [synthetic.CLASSES[place % len(synthetic.CLASSES)] for place in range(count)]
    return [synthetic.draw_cell(kind, "lab-a", rng, size=common.SIZE) for kind in kinds]


def turns(plain: Callable[[], float], ours: dict[str, Callable[[], list[float]]], name: str, repeats: int) -> Any:
    """{way: seconds of a step in every turn}, after a turn that only warms."""
    found: dict[str, list[float]] = {PLAIN[name]: [], **{way: [] for way in ours}}
    for turn in range(repeats + 1):
        timed = {PLAIN[name]: plain(), **{way: median(np.diff(run())) for way, run in ours.items()}}
        if turn:
            for way, value in timed.items():
                found[way].append(float(value))
    return found


def cae(repeats: int, folder: Path) -> tuple[dict[str, list[float]], dict[str, Any]]:
    import torch

    from benchmarks.speed.plain_cae import PlainTraining

    rng = np.random.default_rng(common.SEED)
    count = BATCH * STEPS
    cells = Cells.from_arrays(
        np.full(count, -1),
        domain=[f"lab-{number % 3}" for number in range(count)],
        is_target=[number % 3 > 0 for number in range(count)],
        map=rng.normal(size=(count, 768, 14, 14)).astype(np.float32),
        crop=rng.integers(0, 256, (count, 3, 128, 128), dtype=np.uint8),
        mask=np.ones((count, common.SIZE, common.SIZE), dtype=bool),
    )
    training = PlainTraining()
    maps, crop = torch.from_numpy(cells.map[:BATCH]), torch.from_numpy(cells.crop[:BATCH]).float() / 255
    domain = torch.arange(BATCH) % 3

    def plain() -> float:
        began = time.perf_counter()
        training.step(maps, crop, domain)
        return time.perf_counter() - began

    def fitted(precision: str) -> list[float]:
        work, clock = Workplace.on_terminal("cpu", precision), Clock("cae · 1 epochs")
        context = replace(work.context(common.SEED, "benchmarks"), reporter=clock, scratch=folder)
        work.registry.create("align", "cae", {"epochs": 1, "batch_size": BATCH}, context).fit(cells, context)
        for path in folder.iterdir():
            path.unlink()  # or the next fit would find this one finished
        return clock.steps()

    seconds = turns(plain, {way: lambda p=p: fitted(p) for way, p in OURS.items()}, "cae", repeats)
    return seconds, {"parameters": sum(value.numel() for value in training.network.parameters())}


def lora(repeats: int, folder: Path) -> tuple[dict[str, list[float]], dict[str, Any]]:
    import torch
    from torch.nn import functional

    from benchmarks.speed.plain_sam import PlainSam, with_lora

    weights = chosen_weights("vit_b-random", folder)["weights"]
    cells = drawn(BATCH)
    pairs = [(cell.image, cell.mask > 0) for cell in cells] * STEPS
    network = with_lora(PlainSam(Path(weights), common.SIZE)).train()
    network.mask_decoder.requires_grad_(True)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.1)
    frames = common.tensor([cell.image for cell in cells])
    masks = torch.from_numpy(np.stack([cell.mask[2::4, 2::4] > 0 for cell in cells])).long()

    def plain() -> float:
        began = time.perf_counter()
        logits = network.logits(frames)
        chance = logits.softmax(1)
        truth = functional.one_hot(masks, 2).movedim(-1, 1).float()
        dice = 1 - 2 * (chance * truth).sum((0, 2, 3)) / ((chance**2).sum((0, 2, 3)) + truth.sum((0, 2, 3)))
        loss = 0.2 * functional.cross_entropy(logits, masks) + 0.8 * dice.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        return time.perf_counter() - began

    registry = Workplace.on_terminal("cpu").registry
    finetune = registry.find("backbone", "lora-sam").factory.finetune

    def tuned(precision: str) -> list[float]:
        clock = Clock("fine-tuning · 1 epochs")
        with tempfile.TemporaryDirectory() as out:
            work = Workplace.on_terminal("cpu", precision)
            context = replace(work.context(common.SEED, "benchmarks"), reporter=clock, scratch=Path(out) / "scratch")
            context.scratch.mkdir()
            made = Path(out) / "adapter"
            made.mkdir()
            finetune(pairs, made, context=context, weights=weights, epochs=1, batch_size=BATCH)
        return clock.steps()

    seconds = turns(plain, {way: lambda p=p: tuned(p) for way, p in OURS.items()}, "lora", repeats)
    return seconds, {"trained_parameters": sum(parameter.numel() for parameter in trained)}


if __name__ == "__main__":
    common.start(main)
