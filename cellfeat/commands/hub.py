"""`cellfeat hub`: adapters, pipelines and methods to and from the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cellfeat.commands.options import Offline

app = typer.Typer(
    help="Share adapters, pipelines and saved methods by the Hugging Face hub, or a server that speaks like it "
    "(HF_ENDPOINT).",
    no_args_is_help=True,
)

Repo = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the hub")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit; default: main")]


@app.command()
def push(
    what: Annotated[Path, typer.Argument(metavar="SOURCE", help="Adapter, run, pipeline, or folder of a saved method")],
    repo: Repo,
    source: Annotated[str | None, typer.Option(help="Which source's pipeline, where SOURCE is a run")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository a private one")] = False,
    revision: Revision = None,
    licence: Annotated[str | None, typer.Option("--licence", "--license", help="SPDX, as in Apache-2.0")] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(help="A data set on the hub that the card may link; repeat for several")
    ] = None,
    base_model: Annotated[str | None, typer.Option(help="The model on the hub that this is made from")] = None,
    with_weights: Annotated[
        bool, typer.Option("--with-weights", help="Also the weights that lie in a file here (safetensors)")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent; ask no server")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Keep the prepared folder here")] = None,
) -> None:
    """Send a folder with a model card. Tables, pictures and folders' names are left out, and a path, picture or id of
    the run's cells that is still found stops it; an adapter or method does not say its cells, so that no id is found.
    """
    from cellfeat.console import console, say
    from cellfeat.hub import endpoint
    from cellfeat.hub import push as send
    from cellfeat.newcomers import bound_to
    from cellfeat.registry import installed
    from cellfeat.sharing import Wishes

    wishes = Wishes(source, licence, tuple(dataset or ()), base_model, with_weights)
    done = send(what, repo, wishes, installed(), private=private, revision=revision, dry_run=dry_run, out=out)
    for name, size in done.files:
        console.print(f"{size:>12,}  {name}", markup=False, soft_wrap=True)
    for name, reason in done.kept_back:
        say(f"stays here: {name} ({reason})")
    if done.names:
        say(f"names that can be read in it: {', '.join(done.names)}")
    if done.not_searched:
        say(f"not searched: {done.not_searched}")
    alone = bound_to(done.about)
    if alone:
        say(f"warning: {alone}")
    if licence is None:
        say("no licence is named, so that nobody may use it: --licence Apache-2.0, say")
    if dry_run:
        say(f"nothing was sent; without --dry-run it goes to {endpoint()}/{repo}")
    else:
        console.print(str(done.url), markup=False, soft_wrap=True)


@app.command()
def pull(
    repo: Repo,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make, which must not exist")],
    revision: Revision = None,
    offline: Offline = False,
) -> None:
    """Fetch what `push` sent: every file is checked by its SHA-256, and none may be a pickle."""
    from cellfeat.console import TerminalReporter, console, say
    from cellfeat.hub import pull as fetch
    from cellfeat.newcomers import bound_to
    from cellfeat.next_use import of_shared

    done = fetch(repo, out, revision, TerminalReporter())
    say(f"{out}: {done.about['kind']} of {repo}, commit {done.commit[:8]}, {len(done.about['files'])} files checked")
    alone = bound_to(done.about)
    if alone:
        say(f"note: {alone}")
    console.print(f"Next: {of_shared(done.about, out)}", markup=False, soft_wrap=True)
