"""Images per second of `lora-sam` with frames in memory, against the same network run image by image by the packages
segment-anything and peft.

python -m benchmarks.speed.forward --weights vit_b-random
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import common
from benchmarks.speed import measure
from cellfeat import CellfeatError, Workplace, find_weights, images, synthetic

RANDOM = "vit_b-random"  # stands for weights of ViT-B, drawn from a seed
PLAIN = "segment-anything + peft, image by image"
ERRORS = ("tokens_rms_error", "tokens_max_error", "mask_pixels_differ")
ALIKE = 0.999  # share of pixels that both ways must call the same; rounding moves a few at the rim


def main(
    weights: Annotated[str, typer.Option(help=f"Weights of lora-sam: a name, a file, or {RANDOM}")] = RANDOM,
    threads: Annotated[int, typer.Option(min=1, help="Of torch")] = 2,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time")] = common.BATCH,
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved runs, of which the median counts")] = 7,
    compile: Annotated[bool, typer.Option("--compile", help="Also the compiled network: minutes more")] = False,
    json: Annotated[Path | None, typer.Option(help="Append a JSON line per way to this file")] = None,
) -> None:
    """The forward pass, encoder and decoder, on the CPU: ratio to the plain way, and share of the processor's peak."""
    import torch

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        params = chosen_weights(weights, Path(folder))
        backbones = {f"lora-sam, {name}": made for name, made in prepared(params, compile).items()}
        first = next(iter(backbones.values()))
        frames = drawn(batch, first.image_size)
        plain = plain_network(params["weights"], first, frames)
        exact = plain_answers(plain, frames)
        ways: dict[str, Callable[[], Any]] = {PLAIN: lambda: [plain(image) for image in frames]}
        ways["segment-anything + peft, the encoder on the batch"] = lambda: plain.logits(frames)
        ways["image by image, with lora-sam's float32 library"] = lambda: by_the_same_library(plain, frames)
        for name, backbone in backbones.items():
            larger = drawn(batch, backbone.image_size)
            ways[name] = lambda backbone=backbone, larger=larger: backbone.encode(larger)
        work_per_image = measure.counted_flops(lambda: plain(frames[0]))
        before = measure.gemm_peaks()
        seconds = measure.interleaved(ways, repeats)
    peaks = {dtype: max(value, before[dtype]) for dtype, value in measure.gemm_peaks().items()}
    about = {"weights": weights, "batch": batch, "gflop_per_image": work_per_image, "gemm_peak_gflops": peaks}
    rows = measure.records("forward", seconds, PLAIN, batch, about)
    for row in rows:
        if "two passes" in row["way"]:  # another amount of work
            continue
        peak = peaks["bfloat16" if "bf16" in row["way"] else "float32"]
        row["of_peak"] = row["items_per_second"] * work_per_image / peak
        if row["way"] in backbones:
            row |= errors(exact, backbones[row["way"]].encode(frames))
            told = ", ".join(f"{name.replace('_', ' ')} {row[name]:.2g}" for name in ERRORS)
            print(f"{row['way']}: {told}")
    title = (
        f"{weights}, {first.image_size} px, batch {batch}, {threads} threads, {repeats} repeats; {peaks_told(peaks)}"
    )
    measure.finish(title, rows, json, "forward")


def peaks_told(peaks: dict[str, float]) -> str:
    return ", ".join(f"GEMM {name} {value:.0f} GFLOP/s" for name, value in peaks.items())


def chosen_weights(weights: str, folder: Path) -> dict[str, str]:
    """Parameters of `lora-sam`; random weights are written into the folder."""
    from benchmarks.speed.plain_sam import write_random_vit_b

    if weights == RANDOM:
        weights = str(write_random_vit_b(folder / "vit_b-random.pth"))
    return {**common.lora_sam_params(weights), "pooling": "auto"}


def prepared(params: dict[str, str], compile: bool) -> dict[str, Any]:
    """Backbones by what sets them apart."""
    ways = {"float32": ("fp32", 1, False), "float32, two passes": ("fp32", 2, False), "bf16": ("bf16", 1, False)}
    if compile:
        ways |= {"float32, compiled": ("fp32", 1, True), "bf16, compiled": ("bf16", 1, True)}
    made = {}
    for name, (precision, passes, compiled) in ways.items():
        work = Workplace.on_terminal("cpu", precision)
        context = replace(work.context(common.SEED, "benchmarks"), compile=compiled)
        made[name] = work.registry.create("backbone", "lora-sam", {**params, "passes": passes}, context)
    return made


def plain_answers(plain: Any, frames: Any) -> Any:
    """Tokens and masks of the plain way, as float32 by torch's default library."""
    import torch

    from cellfeat import Features

    masks, tokens = [], []
    for image in frames:
        masks.append(plain(image)[0])
        tokens.append(plain.tokens[0].clone())
    return Features(torch.stack(tokens), torch.stack(masks))


def errors(exact: Any, found: Any) -> dict[str, float]:
    """Against the plain way: root mean square and largest error of tokens, relative; share of other mask pixels."""
    difference = found.embedding - exact.embedding
    values = (
        difference.square().mean().sqrt() / exact.embedding.square().mean().sqrt(),
        difference.abs().max() / exact.embedding.abs().max(),
        (found.mask != exact.mask).float().mean(),
    )
    return dict(zip(ERRORS, map(float, values), strict=True))


def drawn(count: int, size: int) -> Any:
    """(count, 3, size, size) uint8 frames of drawn cells; what is on them makes no difference to the time."""
    rng = np.random.default_rng(common.SEED)
    cells = [synthetic.draw_cell(synthetic.CLASSES[place % 5], "lab-a", rng) for place in range(count)]
    return common.tensor([images.resize(cell.image, size) for cell in cells])


def plain_network(weights: str, backbone: Any, frames: Any) -> Any:
    """The packages' network, once it is seen to give the backbone's masks."""
    import torch

    from benchmarks.speed.plain_sam import PlainSam, with_lora

    registry = Workplace.on_terminal("cpu").registry
    named = registry.find("backbone", "lora-sam").factory.named_weights
    plain = PlainSam(find_weights(weights, named), backbone.image_size)
    with torch.inference_mode():
        wanted = backbone.encode(frames).mask
        shares = []
        for plain.own_colours in (False, True):
            masks = torch.stack([plain(image)[0] for image in frames])
            shares.append(float((masks == wanted).float().mean()))
            if shares[-1] >= ALIKE:
                return with_lora(plain)
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


if __name__ == "__main__":
    common.start(main)
