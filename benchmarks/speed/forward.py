"""Images per second of `lora-sam`, against the same network run image by image with the `segment-anything` package.

python -m benchmarks.speed.forward --weights cell-tiny
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import common
from benchmarks.speed import measure
from cellfeat import CellfeatError, Workplace, find_weights, images, synthetic

PLAIN = "segment-anything, image by image"
ALIKE = 0.999  # share of pixels that both ways must call the same; rounding moves a few at the rim


def main(
    weights: Annotated[str, typer.Option(help="Weights of lora-sam: a name or a file")] = "cell-tiny",
    threads: Annotated[int, typer.Option(min=1, help="Of torch")] = 2,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time")] = common.BATCH,
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved runs, of which the median counts")] = 15,
    json: Annotated[Path | None, typer.Option(help="Append a JSON line per way to this file")] = None,
) -> None:
    """Float32 on the CPU, frames in memory; one pass and two passes, all of `encode` and the encoder's blocks alone."""
    import torch

    torch.set_num_threads(threads)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    work, params = Workplace.on_terminal("cpu"), common.lora_sam_params(weights)
    context = work.context(common.SEED, "benchmarks")
    one, two = (work.registry.create("backbone", "lora-sam", {**params, "passes": n}, context) for n in (1, 2))
    frames, larger = drawn(batch, one.image_size), drawn(batch, two.image_size)
    plain = plain_network(work, params["weights"], one, frames)
    ways: dict[str, Callable[[], Any]] = {
        PLAIN: lambda: [plain(image) for image in frames],
        f"{PLAIN}, by the same library": lambda: by_the_same_library(plain, frames),
        "lora-sam, one pass": lambda: one.encode(frames),
        "lora-sam, two passes": lambda: two.encode(larger),
    }
    with torch.inference_mode():
        seconds = measured(ways, repeats)
    records = [
        {"way": name, "part": part, "images_per_second": batch / value, "ratio": seconds[PLAIN, part] / value}
        for (name, part), value in seconds.items()
    ]
    about = {"weights": weights, "weights_sha256": one.weights_sha256, "batch": batch, "repeats": repeats}
    about |= {"load_before": load, "settings": measure.settings()}
    common.append_json(json, "speed", [about | record for record in records])
    title = f"{weights}, {one.image_size} px, float32, batch {batch}, {threads} threads, median of {repeats}"
    show(records, title, load)


def drawn(count: int, size: int) -> Any:
    """(count, 3, size, size) uint8 frames of drawn cells; what is on them makes no difference to the time."""
    rng = np.random.default_rng(common.SEED)
    cells = [synthetic.draw_cell(synthetic.CLASSES[place % 5], "lab-a", rng) for place in range(count)]
    return common.tensor([images.resize(cell.image, size) for cell in cells])


def plain_network(work: Workplace, weights: str, backbone: Any, frames: Any) -> Any:
    """The package's network, once it is seen to give the backbone's masks."""
    import torch

    from benchmarks.speed.plain_sam import PlainSam

    named = work.registry.find("backbone", "lora-sam").factory.named_weights
    plain = PlainSam(find_weights(weights, named), backbone.image_size)
    with torch.inference_mode():
        wanted = backbone.encode(frames).mask
        shares = []
        for plain.own_colours in (False, True):
            masks = torch.stack([plain(image)[0] for image in frames])
            shares.append(float((masks == wanted).float().mean()))
            if shares[-1] >= ALIKE:
                return plain
    raise CellfeatError(
        f"the network of {weights}, built from the segment-anything package, agrees with lora-sam in "
        f"{100 * max(shares):.1f} % of the pixels alone: it is not the same one, and no measure of its speed"
    )


def by_the_same_library(plain: Any, frames: Any) -> None:
    """With float32 products as lora-sam has them computed: what is left of the ratio is not the library's."""
    import torch

    from cellfeat.training import autocast

    with autocast(torch.device("cpu"), torch.float32):
        for image in frames:
            plain(image)


def measured(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[tuple[str, str], float]:
    """{(way, part): median seconds}; the ways take turns, so that a busy moment of the machine meets all of them."""
    found: dict[tuple[str, str], list[float]] = {}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            whole = time.perf_counter() - began
            with encoder_time() as blocks:
                way()
            if turn:  # the first warms caches and threads
                found.setdefault((name, "all"), []).append(whole)
                found.setdefault((name, "encoder alone"), []).append(blocks[0])
    return {key: median(values) for key, values in found.items()}


@contextmanager
def encoder_time() -> Iterator[list[float]]:
    """Seconds spent inside patch embedding and blocks of any SAM encoder, in the one place of the list."""
    from segment_anything.modeling.image_encoder import Block, PatchEmbed
    from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

    spent, began = [0.0], [0.0]

    def enter(module: Any, _: Any) -> None:
        if isinstance(module, (Block, PatchEmbed)):
            began[0] = time.perf_counter()

    def leave(module: Any, _: Any, __: Any) -> None:
        if isinstance(module, (Block, PatchEmbed)):
            spent[0] += time.perf_counter() - began[0]

    hooks = register_module_forward_pre_hook(enter), register_module_forward_hook(leave)
    try:
        yield spent
    finally:
        for hook in hooks:
            hook.remove()


def show(records: list[dict[str, Any]], title: str, load: float | None) -> None:
    table = common.new_table(title, "way", "part", "images/s", "× segment-anything", left=2)
    for one in records:
        table.add_row(one["way"], one["part"], f"{one['images_per_second']:.1f}", f"{one['ratio']:.2f}")
    common.show(table)
    told = {"processor": f"{common.cpu_model()}, {os.cpu_count()} cores", **measure.settings()}
    if load is not None:
        told["load before this run"] = f"{load:.1f}: other work makes every figure smaller"
    print("\n".join(f"{name}: {value}" for name, value in told.items()))


if __name__ == "__main__":
    common.start(main)
