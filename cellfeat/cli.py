"""The command line: `cellfeat`. Options become a recipe; everything heavy is imported when a command runs."""

from __future__ import annotations

import errno
import inspect
import os
import shutil
import sys
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cellfeat import completion, plugin_choice
from cellfeat.commands import bench, data, hub, plugins, weights
from cellfeat.commands.convert import convert
from cellfeat.commands.doctor import doctor
from cellfeat.commands.info import info
from cellfeat.commands.onnx import onnx
from cellfeat.commands.report import report
from cellfeat.commands.review import review
from cellfeat.commands.run import run
from cellfeat.commands.smear import smear
from cellfeat.commands.use import extract, predict, transform
from cellfeat.distributed import is_main, process_count
from cellfeat.errors import CellfeatError
from cellfeat.interruption import SIGNALS, heeded, how_to_go_on, leave_quietly

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Extract features of single cells and classify them across laboratories.\n\n"
    "`cellfeat run` alone shows the whole method on built-in synthetic data; `cellfeat data index` makes a manifest of "
    "your own images.",
)
for command in (run, extract, transform, predict, smear, review, report, convert, onnx, info, doctor):
    app.command()(command)
app.add_typer(bench.app, name="bench")
app.add_typer(data.app, name="data")
app.add_typer(hub.app, name="hub")
app.add_typer(plugins.app, name="plugins")
app.add_typer(weights.app, name="weights")


def _with_flowing_help(group: typer.Typer) -> typer.Typer:
    """Paragraphs of help without the line breaks that they have in the source, so that any terminal folds them evenly;
    Typer takes those of the first paragraph alone out."""
    for one in group.registered_commands:
        text = inspect.getdoc(one.callback) if one.callback and not one.help else one.help
        one.help = "\n\n".join(" ".join(part.split()) for part in (text or "").split("\n\n"))
    for below in group.registered_groups:
        if below.typer_instance is not None:
            _with_flowing_help(below.typer_instance)
    return group


_with_flowing_help(app)

NARROW = 80  # columns, below which Typer's tables of options cut names; its plain help never does
INTERRUPTED = 130  # what Typer makes of Ctrl-C
CORE = frozenset(
    [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    + [str(group.name) for group in app.registered_groups]
)


def _tell_version(asked: bool) -> None:
    """The version is the installed distribution's, which pyproject.toml alone sets."""
    if asked:
        typer.echo(f"cellfeat {version('cellfeat')}")
        raise typer.Exit


@app.callback()
def _everywhere(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="The version, and nothing else"),
    ] = False,
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

            app.add_typer(_with_flowing_help(load_command(point)), name=point.name)
        else:
            stub = typer.Typer(help=f"Commands of the plugin {point.name}.")
            stub.callback(invoke_without_command=True)(lambda: None)
            app.add_typer(stub, name=point.name)


def main() -> None:
    """Entry point: a user's mistake is one line and exit status 2; an interruption says how to go on, and is 130 after
    Ctrl-C, 143 after SIGTERM, 129 where the terminal was closed."""
    from cellfeat.showing import write_what_it_can

    write_what_it_can()
    asked = arguments = sys.argv[1:]
    # A launcher ends its processes by SIGTERM while they may wait for each other in a library: there it stays final.
    with heeded(SIGNALS if process_count() == 1 else SIGNALS[:1]) as interruption:
        try:
            arguments = plugin_choice.taken_from(asked)
            _check_launch(arguments)
            add_plugin_commands(arguments or completion.typed()[1:])
            if shutil.get_terminal_size().columns < NARROW:
                app.rich_markup_mode = None
            app(arguments, prog_name="cellfeat")
        except CellfeatError as error:
            if completion.is_asked():  # a message would end up in the line that is being typed
                sys.exit(1)
            _fail(str(error))
        except OSError as error:  # no space left, no permission, no such folder to write to
            if error.errno == errno.EPIPE:  # whoever read the output has gone: `cellfeat … | head`
                sys.exit(1)
            _fail(_told(error))
        except KeyboardInterrupt:  # before Typer was there to take it
            _interrupted(asked, arguments, interruption.status)
        except SystemExit as end:
            if end.code == INTERRUPTED:
                _interrupted(asked, arguments, interruption.status)
            raise
        finally:
            leave_quietly()


def _interrupted(asked: list[str], arguments: list[str], status: int) -> NoReturn:
    from cellfeat.console import messages

    if is_main():
        messages.print(how_to_go_on(asked, arguments), markup=False, soft_wrap=True, end="")
    sys.exit(status)


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
