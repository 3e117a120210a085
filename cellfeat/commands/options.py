"""Options that several commands have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cellfeat import completion


def go_offline(offline: bool) -> bool:
    if offline:
        os.environ["CELLFEAT_OFFLINE"] = "1"
    return offline


Data = Annotated[str | None, typer.Option("--data", help="Manifest CSV (see `cellfeat data index`); default: the demo")]
Labels = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.vocabularies,
        help="five-class, dorl-13 or a YAML map; default: the manifest's labels",
    ),
]
BackboneName = Annotated[
    str | None, typer.Option("--backbone", autocompletion=completion.backbones, help="Backbone; default: lora-sam")
]
SegmenterName = Annotated[
    str | None,
    typer.Option("--segmenter", autocompletion=completion.segmenters, help="Replaces the backbone's own mask"),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.KEY=VALUE", autocompletion=completion.parameters, help="As in align.epochs=50"
    ),
]
Device = Annotated[str, typer.Option(autocompletion=completion.devices, help="auto, cpu, cuda, cuda:N or mps")]
Precision = Annotated[str, typer.Option(autocompletion=completion.precisions, help="fp32, bf16 or fp16")]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile networks first: minutes, then quicker; rounds otherwise")
]
Batch = Annotated[
    int | None, typer.Option(min=1, help="Images encoded at once; default: chosen, halved if memory lacks")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave bad images and rows out and list them in skipped.csv")]
Offline = Annotated[
    bool, typer.Option("--offline", callback=go_offline, help="Download nothing, as CELLFEAT_OFFLINE=1 does")
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Run folder; default: runs/<time>-<method>")]
Source = Annotated[str | None, typer.Option(help="Which source's pipeline, where the run has several")]
Refit = Annotated[bool, typer.Option("--refit", help="Fit again with the new images among those adapted to")]
Abstain = Annotated[
    float | None,
    typer.Option("--abstain", help="No label below this probability, 0..1; the best one is in the column best_label"),
]
Coverage = Annotated[
    float | None,
    typer.Option("--coverage", help="Also sets of classes that hold the true one so often, such as 0.9: column set"),
]
Raw = Annotated[bool, typer.Option("--raw", help="Probabilities as the method gave them, not calibrated")]
Labelled = Annotated[
    Path | None,
    typer.Option(help="Manifest of labelled cells of this laboratory (cellfeat data correct): fit again with them"),
]
Before = Annotated[Path | None, typer.Option(help="Table of earlier answers to the same images: say what changed")]
