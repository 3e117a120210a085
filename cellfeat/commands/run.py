"""`cellfeat run`: options become a recipe, which is run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cellfeat import completion, plugin_choice
from cellfeat.commands.options import (
    BackboneName,
    Batch,
    Compile,
    Data,
    Device,
    Labels,
    Offline,
    Out,
    Precision,
    SegmenterName,
    Sets,
    SkipBad,
)
from cellfeat.distributed import is_main

if TYPE_CHECKING:
    from pathlib import Path

    from cellfeat.recipe import Recipe
    from cellfeat.workplace import Workplace

Align = Annotated[
    str | None, typer.Option(autocompletion=completion.aligners, help="One method or a chain: per-domain-z,coral")
]
ClassifierName = Annotated[
    str | None,
    typer.Option(
        "--clf",
        autocompletion=completion.classifiers,
        help="Classifier; default: the method's own head, or svm-linear",
    ),
]
RecipeName = Annotated[
    str | None,
    typer.Option(autocompletion=completion.recipes, help="A recipe's name or YAML file; the other options change it"),
]
Sources = Annotated[list[str] | None, typer.Option(help="Train on this domain only; repeat for several")]
Targets = Annotated[list[str] | None, typer.Option(help="Test on this domain only; repeat for several")]
Adapt = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.adaptations,
        help="Target cells shown without labels: none, test or heldout; default: test",
    ),
]
Folds = Annotated[int | None, typer.Option(help="Folds inside the source; default: 5")]
Seed = Annotated[int | None, typer.Option(help="Of folds and fits; default: 1234")]
HalfMaps = Annotated[bool, typer.Option("--half-maps", help="Keep token maps as float16: half the disk")]
Pictures = Annotated[
    bool, typer.Option("--pictures/--no-pictures", help="Keep small pictures of cells in the run folder")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only say what would run, how long encoding takes, and memory and disk")
]


def run(
    data: Data = None,
    labels: Labels = None,
    backbone: BackboneName = None,
    segmenter: SegmenterName = None,
    align: Align = None,
    clf: ClassifierName = None,
    recipe: RecipeName = None,
    sets: Sets = None,
    source: Sources = None,
    target: Targets = None,
    adapt: Adapt = None,
    folds: Folds = None,
    seed: Seed = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    compile: Compile = False,
    batch: Batch = None,
    half_maps: HalfMaps = False,
    pictures: Pictures = True,
    skip_bad: SkipBad = False,
    offline: Offline = False,
    dry_run: DryRun = False,
    out: Out = None,
) -> None:
    """Fit on each source laboratory, test on every other, and save the pipelines.

    With nothing given: LoRA-SAM, the cross-domain autoencoder and a linear SVM on the built-in demo set.
    """
    from cellfeat import compose, next_use
    from cellfeat.console import say
    from cellfeat.report import result_table
    from cellfeat.run import default_out
    from cellfeat.run import run as run_recipe
    from cellfeat.showing import show
    from cellfeat.workplace import Workplace

    work = Workplace.on_terminal(device, precision, skip_bad, batch, half_maps, compile)
    seeds = None if seed is None else [seed]
    protocol = {"source": source, "target": target, "adapt": adapt, "folds": folds, "seeds": seeds}
    composed = compose.recipe(
        recipe=recipe,
        data=data,
        labels=labels,
        backbone=backbone,
        segmenter=segmenter,
        align=align,
        classifier=clf,
        protocol=protocol,
        sets=sets or [],
    )
    if dry_run:
        _show_plan(composed, out, work)
        return
    folder, records = run_recipe(composed, out or default_out(composed), work, pictures)
    if not is_main():
        return
    show(result_table(records))
    say(f"Run folder: {folder}\nIts report: cellfeat report {folder}")
    say(f"Next: {next_use.of_run(folder, plugin_choice.Choice.of_environment().options())}")


def _show_plan(recipe: Recipe, out: Path | None, work: Workplace) -> None:
    """The plan of a run, and nothing else."""
    from cellfeat.console import console, say
    from cellfeat.plan import Planner
    from cellfeat.plan_text import data_table, lines
    from cellfeat.run import refuse_run_folder
    from cellfeat.showing import show

    if out is not None:
        refuse_run_folder(out)
    plan = Planner(work)(recipe)
    show(data_table(plan.dataset))
    for line in lines(plan):
        console.print(line, markup=False, soft_wrap=True)
    say("Nothing was run (--dry-run).")
