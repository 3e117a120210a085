"""`cellfeat lora-sam`: fine-tune to images with masks, and pre-train a small network from scratch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Adapt LoRA-SAM to your images, or pre-train a small one.", no_args_is_help=True)


def _go_offline(offline: bool) -> bool:
    if offline:
        os.environ["CELLFEAT_OFFLINE"] = "1"
    return offline


Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")]
Seed = Annotated[int, typer.Option(help="Of every random number")]


@app.command()
def finetune(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Manifest CSV; with mask_path for --masks-from truth")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the adapter, which must not exist")],
    weights: Annotated[str, typer.Option(help="A name from `cellfeat weights list`, or a file")] = "cell-tiny",
    masks_from: Annotated[str, typer.Option(help="truth, or what makes them: classical, cell-tiny, otsu")] = "truth",
    domain: Annotated[list[str] | None, typer.Option(help="Only this laboratory; repeat for several")] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 150,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    lr: Annotated[float, typer.Option(help="Learning rate after the warm-up")] = 1e-4,
    warmup: Annotated[int, typer.Option(min=1, help="Epochs of warm-up, at most a tenth of all")] = 10,
    rank: Annotated[int, typer.Option(min=1, help="Of the low-rank updates in the encoder")] = 4,
    accumulate: Annotated[int, typer.Option(min=1, help="Parts that a batch is computed in, for little memory")] = 1,
    stop_after: Annotated[
        int | None, typer.Option(min=1, help="Break the schedule off after so many epochs (DoRL: 85 of 150)")
    ] = None,
    image_size: Annotated[int, typer.Option(help="Side of the network's frame, a multiple of 16")] = 224,
    seed: Seed = 1234,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16 (a GPU alone)")] = "fp32",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave unreadable images out")] = False,
    offline: Annotated[
        bool, typer.Option("--offline", callback=_go_offline, help="Download nothing, as CELLFEAT_OFFLINE=1 does")
    ] = False,
) -> None:
    """Adapt weights to images with masks: LoRA in the encoder, the whole decoder, as published for DoRL.

    Use the result with: cellfeat run --set backbone.weights=WEIGHTS --set backbone.adapter=FOLDER
    """
    from cellfeat import Workplace, distributed, make_adapter
    from cellfeat_lora_sam.finetune import FinetuneSettings

    training = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "warmup": warmup, "rank": rank}
    training |= {"accumulate": accumulate, "stop_after": stop_after}
    FinetuneSettings(weights, image_size, **training)  # refuses what cannot be before any image is read
    section = {"masks": masks_from, "domains": domain or [], **training}
    backbone = {"name": "lora-sam", "weights": weights, "image_size": image_size}
    make_adapter(output, data, backbone, section, seed, Workplace.on_terminal(device, precision, skip_bad))
    if distributed.is_main():
        typer.echo(f"{output}: adapter of {weights}")


@app.command()
def pretrain(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="Settings, such as benchmarks/cell-tiny.yaml")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="New file for the weights; NAME.interim.safetensors until then")
    ],
    data: Annotated[
        str | None, typer.Option(help="Manifest CSV of photographs; no label is read. Without: drawn cells alone")
    ] = None,
    domain: Annotated[list[str] | None, typer.Option(help="Only this laboratory; repeat for several")] = None,
    leave_out: Annotated[
        Path | None, typer.Option(help="Text file of ids, one to a line, of images that must not be seen")
    ] = None,
    device: Device = "auto",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave unreadable images out")] = False,
) -> None:
    """Train a small network from scratch on drawn cells and photographs without labels, as `cell-tiny` was."""
    from cellfeat import Workplace
    from cellfeat_lora_sam.pretrain_config import read_config
    from cellfeat_lora_sam.pretrain_run import pretrain_from

    settings = read_config(config)
    work = Workplace.on_terminal(device, settings.precision, skip_bad)
    found = pretrain_from(settings, output, data, domain or [], leave_out, work)
    figures = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    typer.echo(f"{output}: mean IoU on drawn cells that were held out: {figures}")


@app.command()
def train_detector(
    output: Annotated[Path, typer.Option("--output", "-o", help="New file for the head, NAME.safetensors")],
    data: Annotated[
        str | None,
        typer.Option(help="Manifest CSV of photographs of single cells; no label is read. Without: drawn smears alone"),
    ] = None,
    domain: Annotated[list[str] | None, typer.Option(help="Only this laboratory; repeat for several")] = None,
    leave_out: Annotated[
        Path | None, typer.Option(help="Text file of ids, one to a line, of images that must not be seen")
    ] = None,
    tiles: Annotated[int, typer.Option(help="Training pictures of 224 px that are drawn and assembled")] = 5120,
    photographs: Annotated[int, typer.Option(help="Most photographs that cells are cut from, by chance")] = 3000,
    steps: Annotated[int, typer.Option(help="Of the optimizer")] = 1200,
    batch_size: Annotated[int, typer.Option(help="Tiles of a step")] = 16,
    lr: Annotated[float, typer.Option(help="Learning rate after the warm-up")] = 2e-3,
    width: Annotated[int, typer.Option(help="Of the head's layers")] = 32,
    checked: Annotated[int, typer.Option(help="Drawn photographs for the threshold, and others for the figures")] = 40,
    seed: Seed = 1234,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="fp32 or bf16")] = "fp32",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave unreadable images out")] = False,
) -> None:
    """Train the detector of white cells, `cell-detector`: a head on the frozen tokens of cell-tiny.

    Use the result with: --segmenter cell-detector --set segmenter.weights=NAME.safetensors
    """
    from cellfeat import Workplace
    from cellfeat_lora_sam.detector_tokens import DetectorSettings
    from cellfeat_lora_sam.detector_train import train_detector as train

    settings = DetectorSettings(tiles, photographs, steps, batch_size, lr, width, checked, seed)
    found = train(settings, output, data, domain or [], leave_out, Workplace.on_terminal(device, precision, skip_bad))
    typer.echo(
        f"{output}: {found.found} of {found.cells} cells of fresh drawn smears found (recall {found.recall:.3f}), "
        f"{found.wrong} wrong boxes (precision {found.precision:.3f})"
    )


@app.command()
def check_detector(
    output: Annotated[Path, typer.Option("--output", "-o", help="New file for the head, NAME.safetensors")],
    weights: Annotated[str, typer.Option(help="A name from `cellfeat weights list`, or a file")] = "cell-detector",
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="fp32 or bf16; as in training")] = "fp32",
) -> None:
    """Choose a detector's threshold anew, on fresh drawn smears, as the end of `train-detector` does."""
    from cellfeat import Workplace
    from cellfeat_lora_sam.detector_train import recheck_detector

    threshold, found = recheck_detector(weights, output, Workplace.on_terminal(device, precision))
    typer.echo(
        f"{output}: threshold {threshold:g}; {found.found} of {found.cells} cells of fresh drawn smears found (recall "
        f"{found.recall:.3f}), {found.wrong} wrong boxes (precision {found.precision:.3f})"
    )
