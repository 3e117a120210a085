"""`cellfeat plugins`: what is installed, what is broken and why, and what each method can be told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cellfeat import completion
from cellfeat.commands.check_plugin import check
from cellfeat.commands.new_plugin import new

if TYPE_CHECKING:
    from cellfeat.registry import Broken, Offer, Registry

app = typer.Typer(help="List, describe, check and begin methods for the four slots.", no_args_is_help=True)
app.command("new")(new)
app.command("check")(check)


@app.command("list")
def list_plugins(
    as_json: Annotated[bool, typer.Option("--json", help="Methods, facts and what is broken, as JSON")] = False,
    requirements: Annotated[
        bool, typer.Option("--requirements", help="The distributions of others as lines for pip")
    ] = False,
) -> None:
    """Every method of every slot, and every plugin that did not load."""
    import json

    from cellfeat import plugin_pages
    from cellfeat.errors import CellfeatError
    from cellfeat.registry import installed

    if as_json and requirements:
        raise CellfeatError("--json and --requirements are two lists; ask for one of them")
    if as_json:
        print(json.dumps(plugin_pages.listing(installed()), indent=1))
    elif requirements:
        print(plugin_pages.requirements(installed()), end="")
    else:
        _show_all(installed())


def _show_all(registry: Registry) -> None:
    from rich.table import Table

    from cellfeat.console import console
    from cellfeat.showing import show
    from cellfeat.slots import SLOTS

    table = Table()
    for heading in ("slot", "name", "from", "what it is"):
        table.add_column(heading, overflow="fold")
    for slot in SLOTS:
        for offer in sorted((item for item in registry.offers if item.slot == slot), key=lambda item: item.name):
            table.add_row(slot, offer.name, f"{offer.distribution} {offer.version}", offer.summary)
        table.add_section()
    show(table)
    for item in registry.broken:
        _show_broken(item)
    if registry.left_out:
        console.print(f"left out (CELLFEAT_PLUGINS or -p): {', '.join(registry.left_out)}", markup=False)


@app.command()
def info(
    name: Annotated[
        str,
        typer.Argument(
            autocompletion=completion.methods,
            help="A method's name, or distribution:name; or a plugin that did not load",
        ),
    ],
    markdown: Annotated[bool, typer.Option("--markdown", help="The whole page of the method as Markdown")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON")] = False,
) -> None:
    """What a method is and declares, and the parameters that --set can change."""
    from cellfeat import plugin_pages
    from cellfeat.errors import CellfeatError
    from cellfeat.registry import installed
    from cellfeat.showing import show_json

    if as_json and markdown:
        raise CellfeatError("--json and --markdown are two forms; ask for one of them")
    offers, broken = installed().called(name)
    if as_json:
        show_json(plugin_pages.details(offers, broken))
        return
    if markdown and offers:
        print("\n".join(map(plugin_pages.page, offers)), end="")
        return
    for offer in offers:
        _show(offer)
    for item in broken:
        _show_broken(item)


def _show(offer: Offer) -> None:
    """A method's documentation, facts and parameters."""
    import inspect

    from rich.table import Table

    from cellfeat.console import console
    from cellfeat.plugin_pages import fact_rows, parameter_rows
    from cellfeat.showing import show

    console.print(f"{offer.slot} {offer.name}, {offer.distribution} {offer.version}", style="bold", markup=False)
    console.print(inspect.getdoc(offer.factory) or "", markup=False)
    for fact, value in fact_rows(offer.slot, offer.facts()):
        console.print(f"{fact}: {value}", markup=False)
    table = Table()
    for heading in ("--set", "type", "default"):
        table.add_column(heading)
    for row in parameter_rows(offer):
        table.add_row(*row)
    show(table)


def _show_broken(item: Broken) -> None:
    from cellfeat.console import console

    console.print(f"broken: {item.plugin} of {item.distribution}: {item.reason}", markup=False)
    if item.remedy:
        console.print(f"  what to do: {item.remedy}", markup=False)
