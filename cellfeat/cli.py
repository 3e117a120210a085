"""The command line: `cellfeat`. Options become a recipe; everything heavy is imported when a command runs."""

from __future__ import annotations

import errno
import os
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cellfeat import plugin_choice
from cellfeat.commands import bench, data, plugins, weights
from cellfeat.distributed import is_main, process_count
from cellfeat.errors import CellfeatError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Extract features of single cells and classify them across laboratories.\n\n"
    "[bold]cellfeat run[/bold] alone shows the whole method on built-in synthetic data; "
    "[bold]cellfeat data index[/bold] makes a manifest of your own images.",
)
app.add_typer(bench.app, name="bench")
app.add_typer(data.app, name="data")
app.add_typer(plugins.app, name="plugins")
app.add_typer(weights.app, name="weights")


def _go_offline(offline: bool) -> bool:
    if offline:
        os.environ["CELLFEAT_OFFLINE"] = "1"
    return offline


INTERRUPTED = 130  # what Typer makes of Ctrl-C

Data = Annotated[str | None, typer.Option("--data", help="Manifest CSV (see `cellfeat data index`); default: the demo")]
Labels = Annotated[str | None, typer.Option(help="five-class, dorl-13 or a YAML map; default: the manifest's labels")]
BackboneName = Annotated[str | None, typer.Option("--backbone", help="Backbone; default: lora-sam")]
SegmenterName = Annotated[str | None, typer.Option("--segmenter", help="Replaces the backbone's own mask")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="As in align.epochs=50")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")]
Precision = Annotated[str, typer.Option(help="fp32, bf16 or fp16")]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile networks first: minutes, then quicker; rounds otherwise")
]
Batch = Annotated[
    int | None, typer.Option(min=1, help="Images encoded at once; default: chosen, halved if memory lacks")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave bad images and rows out and list them in skipped.csv")]
Offline = Annotated[
    bool, typer.Option("--offline", callback=_go_offline, help="Download nothing, as CELLFEAT_OFFLINE=1 does")
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Run folder; default: runs/<time>-<method>")]
Source = Annotated[str | None, typer.Option(help="Which source's pipeline, where the run has several")]
Refit = Annotated[bool, typer.Option("--refit", help="Fit again with the new images among those adapted to")]


@app.command()
def run(
    data: Data = None,
    labels: Labels = None,
    backbone: BackboneName = None,
    segmenter: SegmenterName = None,
    align: Annotated[str | None, typer.Option(help="One method or a chain: per-domain-z,coral")] = None,
    clf: Annotated[
        str | None, typer.Option("--clf", help="Classifier; default: the method's own head, or svm-linear")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="A recipe's name or YAML file; the other options change it")
    ] = None,
    sets: Sets = None,
    source: Annotated[list[str] | None, typer.Option(help="Train on this domain only; repeat for several")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Test on this domain only; repeat for several")] = None,
    adapt: Annotated[
        str | None, typer.Option(help="Target cells shown without labels: none, test or heldout; default: test")
    ] = None,
    folds: Annotated[int | None, typer.Option(help="Folds inside the source; default: 5")] = None,
    seed: Annotated[int | None, typer.Option(help="Of folds and fits; default: 1234")] = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    compile: Compile = False,
    batch: Batch = None,
    half_maps: Annotated[bool, typer.Option("--half-maps", help="Keep token maps as float16: half the disk")] = False,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Keep small pictures of cells in the run folder")
    ] = True,
    skip_bad: SkipBad = False,
    offline: Offline = False,
    out: Out = None,
) -> None:
    """Fit on each source laboratory, test on every other, and save the pipelines.

    With nothing given: LoRA-SAM, the cross-domain autoencoder and a linear SVM on the built-in demo set.
    """
    from cellfeat import compose
    from cellfeat.console import console, say
    from cellfeat.report import result_table
    from cellfeat.run import default_out
    from cellfeat.run import run as run_recipe
    from cellfeat.workplace import Workplace

    work = Workplace.on_terminal(device, precision, skip_bad, batch, half_maps, compile)
    protocol = {
        "source": source,
        "target": target,
        "adapt": adapt,
        "folds": folds,
        "seeds": None if seed is None else [seed],
    }
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
    folder, records = run_recipe(composed, out or default_out(composed), work, pictures)
    if not is_main():
        return
    console.print(result_table(records))
    sources = list(dict.fromkeys(record["source"] for record in records))
    choice = f" --source {sources[0]}" if len(sources) > 1 else ""
    choice += plugin_choice.Choice.of_environment().options()
    say(f"Run folder: {folder}\nNext: cellfeat predict {folder} IMAGES{choice} -o predictions.csv")
    say(f"Its report: cellfeat report {folder}")


@app.command()
def extract(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Manifest CSV, a file or a URL")],
    out: Annotated[Path, typer.Option("--out", "-o", help="features.parquet or features.h5ad")],
    labels: Labels = None,
    backbone: BackboneName = None,
    segmenter: SegmenterName = None,
    sets: Sets = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    compile: Compile = False,
    batch: Batch = None,
    skip_bad: SkipBad = False,
    offline: Offline = False,
    engine: Annotated[str, typer.Option(help="local, or ray: Ray Data, on this machine or many")] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster to join: auto or HOST:PORT; default: start Ray here"),
    ] = None,
    encoders: Annotated[
        int | None, typer.Option(help="Encoder processes of --engine ray; default: one per GPU, or as CPUs allow")
    ] = None,
) -> None:
    """Pooled features of every cell, before any alignment, with their provenance."""
    from cellfeat import compose, use
    from cellfeat.console import say
    from cellfeat.workplace import Workplace

    work = Workplace.on_terminal(device, precision, skip_bad, batch, compile=compile)
    composed = compose.recipe(data=data, labels=labels, backbone=backbone, segmenter=segmenter, sets=sets or [])
    count, width = use.extract(composed, out, work, engine, address, encoders)
    say(f"{out}: {count:,} cells × {width} features")


@app.command()
def transform(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="Manifest CSV")],
    out: Annotated[Path, typer.Option("--out", "-o", help="features.parquet or features.h5ad")],
    source: Source = None,
    refit: Refit = False,
    device: Device = "auto",
    precision: Precision = "fp32",
    skip_bad: SkipBad = False,
    offline: Offline = False,
) -> None:
    """Aligned features of the cells of a manifest, by a finished run's pipeline."""
    from cellfeat import use
    from cellfeat.console import say
    from cellfeat.workplace import Workplace

    work = Workplace.on_terminal(device, precision, skip_bad)
    count, width = use.transform(run, data, out, source, refit, work)
    say(f"{out}: {count:,} cells × {width} features")


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES", help="Image files, folders of them, or a manifest")],
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV to write")] = Path("predictions.csv"),
    domain: Annotated[str, typer.Option(help="Name of the laboratory that the images come from")] = "new",
    source: Source = None,
    refit: Refit = False,
    device: Device = "auto",
    precision: Precision = "fp32",
    skip_bad: SkipBad = False,
    offline: Offline = False,
) -> None:
    """Labels and probabilities of new images, which are one new domain."""
    from cellfeat import use
    from cellfeat.console import console, say
    from cellfeat.workplace import Workplace

    work = Workplace.on_terminal(device, precision, skip_bad)
    table, count = use.predict(run, images, out, domain, source, refit, work)
    console.print(table)
    say(f"{out}: {count:,} images")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Page to write; default: RUN/report.html")] = None,
    figures: Annotated[
        str | None, typer.Option(help="Also each figure as a file in RUN/figures: svg, pdf, png")
    ] = None,
    embedding: Annotated[str, typer.Option(help="Maps of features: tsne, or umap (needs umap-learn)")] = "tsne",
) -> None:
    """One page about a finished run, which opens from a disk: results, figures, mistakes, what was run with what.

    Built from what the run folder holds; no model is loaded, no image outside of it is opened.
    """
    from cellfeat.console import progress, say
    from cellfeat.run_report import write_report

    page, written = write_report(run, out, figures, embedding, progress)
    say(f"{page}: {page.stat().st_size / 1e6:.1f} MB")
    if written:
        say(f"{written[0].parent}: {len(written)} figures")


CORE = frozenset(
    [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    + [str(group.name) for group in app.registered_groups]
)


@app.callback()
def _everywhere(
    places: Annotated[
        list[str] | None,
        typer.Option(
            plugin_choice.PLACE_OPTION,
            metavar="PATH",
            help="Also the plugins in a folder of *.py files and packages, or in one .py file; repeat for several. "
            f"As {plugin_choice.PLACES}",
        ),
    ] = None,
    left_out: Annotated[
        list[str] | None,
        typer.Option(
            plugin_choice.LEAVE_OPTION,
            metavar="no:NAME",
            help=f"Without a plugin or distribution. {plugin_choice.ONLY}=NAME,… loads these alone",
        ),
    ] = None,
) -> None:
    # They may stand anywhere on the command line, so `main` has taken them out; what is left here is a mistake.
    for value in left_out or ():
        raise CellfeatError(f"{plugin_choice.LEAVE_OPTION} {value}: it leaves a plugin out, as in -p no:NAME")


def add_plugin_commands(arguments: list[str]) -> None:
    """Offer the commands of plugins; only the one that is asked for is imported, so that help stays quick."""
    points, choice = list(entry_points(group="cellfeat.commands")), plugin_choice.Choice.of_environment()
    if not choice.is_all:
        from cellfeat.plugin_sources import commands

        points = commands(choice, points)
    for point in sorted(points, key=lambda point: point.name):
        owner = point.dist.name if point.dist else "an unknown distribution"
        if point.name in CORE:
            from cellfeat.console import note

            note(f"command {point.name!r} of {owner} is left out: cellfeat has a command of that name")
            continue
        app.registered_groups[:] = [group for group in app.registered_groups if group.name != point.name]
        if arguments[:1] == [point.name]:
            from cellfeat.plugin_sources import load_command

            app.add_typer(load_command(point), name=point.name)
        else:
            stub = typer.Typer(help=f"Commands of the plugin {point.name}.")
            stub.callback(invoke_without_command=True)(lambda: None)
            app.add_typer(stub, name=point.name)


def main() -> None:
    """Entry point: a user's mistake is one line and exit status 2, an interruption says how to go on and is 130."""
    from cellfeat.console import messages

    try:
        arguments = plugin_choice.taken_from(sys.argv[1:])
        _check_launch(arguments)
        add_plugin_commands(arguments)
        app(arguments)
    except CellfeatError as error:
        _fail(str(error))
    except OSError as error:  # no space left, no permission, no such folder to write to
        if error.errno == errno.EPIPE:  # whoever read the output has gone: `cellfeat … | head`
            sys.exit(1)
        _fail(_told(error))
    except SystemExit as end:
        if end.code == INTERRUPTED:
            messages.print(
                "\nInterrupted. Encoded images and training checkpoints are kept: the same command goes on from them.",
                soft_wrap=True,
            )
        raise


def _check_launch(arguments: list[str]) -> None:
    """Refuse a launcher's several processes where each would only do and write the same."""
    if (
        process_count() > 1
        and "--help" not in arguments
        and arguments[:1] != ["run"]
        and arguments[:2] != ["lora-sam", "finetune"]
    ):
        raise CellfeatError(
            f"several processes were started for `cellfeat {' '.join(arguments[:2])}`; run and lora-sam finetune "
            "train together on several GPUs, everything else is started once"
        )


def _fail(text: str) -> NoReturn:
    from rich.markup import escape

    from cellfeat.console import messages

    messages.print(f"[bold red]error:[/] {escape(' '.join(text.split()))}", soft_wrap=True)
    sys.exit(2)


def _told(error: OSError) -> str:
    """The path, where the error knows it, and the reason."""
    paths = [os.fsdecode(path) for path in (error.filename, error.filename2) if isinstance(path, (str, bytes, Path))]
    reason = error.strerror or str(error) or type(error).__name__
    return f"{' -> '.join(paths)}: {reason}" if paths else reason


if __name__ == "__main__":
    main()
