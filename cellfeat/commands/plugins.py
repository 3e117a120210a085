"""`cellfeat plugins`: what is installed, what is broken and why, and what each method can be told."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer

from cellfeat.commands.new_plugin import new

app = typer.Typer(help="List the installed methods and their parameters.", no_args_is_help=True)
app.command("new")(new)


@app.command("list")
def list_plugins() -> None:
    """Every method of every slot, and every plugin that did not load."""
    from rich.table import Table

    from cellfeat.console import console
    from cellfeat.registry import installed
    from cellfeat.slots import SLOTS

    registry = installed()
    table = Table()
    for heading in ("slot", "name", "from", "what it is"):
        table.add_column(heading, overflow="fold")
    for slot in SLOTS:
        for offer in sorted((item for item in registry.offers if item.slot == slot), key=lambda item: item.name):
            table.add_row(slot, offer.name, f"{offer.distribution} {offer.version}", offer.summary)
        table.add_section()
    console.print(table)
    for broken in registry.broken:
        console.print(f"broken: {broken.plugin} of {broken.distribution}: {broken.reason}", markup=False)


@app.command()
def info(name: Annotated[str, typer.Argument(help="A method's name, or distribution:name")]) -> None:
    """What a method is, and the parameters that --set can change."""
    from rich.table import Table

    from cellfeat.console import console
    from cellfeat.errors import CellfeatError, unknown
    from cellfeat.registry import installed
    from cellfeat.slots import SLOTS

    registry = installed()
    slots = [slot for slot in SLOTS if name.rpartition(":")[2] in registry.names(slot)]
    if not slots:
        everything = {item for slot in SLOTS for item in registry.names(slot)}
        raise CellfeatError(unknown("method", name, everything))
    for slot in slots:
        offer = registry.find(slot, name)
        console.print(f"{slot} {offer.name}, {offer.distribution} {offer.version}", style="bold", markup=False)
        console.print(inspect.getdoc(offer.factory) or "", markup=False)
        facts = [f"{fact}={getattr(offer.factory, fact)}" for fact in FACTS if hasattr(offer.factory, fact)]
        if facts:
            console.print(" · ".join(facts), markup=False)
        table = Table()
        for heading in ("--set", "type", "default"):
            table.add_column(heading)
        for key, field in offer.parameters().model_fields.items():
            kind = inspect.formatannotation(field.annotation).replace("typing.", "")
            default = "required" if field.is_required() else repr(field.get_default(call_default_factory=True))
            table.add_row(f"{slot}.{key}", kind, default)
        console.print(table)


FACTS = ("reads", "writes", "uses_target", "uses_labels")
