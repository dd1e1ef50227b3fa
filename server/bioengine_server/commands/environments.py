"""`./bioengine environments`: optional environments, which the admin adds and removes."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Column, Table

from bioengine_server.commands.shared import console, fail, load_settings
from bioengine_server.environments import OPTIONAL, build_environments, can_build, is_there, remove_environment
from bioengine_server.store.conversion import ENVIRONMENTS as CONVERTING

app = typer.Typer(help="Add and remove optional environments.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help=f"One of: {', '.join(OPTIONAL)}.")]


@app.command("list")
def list_environments() -> None:
    """List the optional environments."""
    folder = load_settings().environments
    table = Table(Column("name", no_wrap=True), "here", "what for", box=None, pad_edge=False)
    for name, purpose in OPTIONAL.items():
        table.add_row(name, "yes" if is_there(folder, name) else "no", purpose)
    console.print(table)


@app.command()
def add(name: NameArgument) -> None:
    """Build an optional environment. From then on, `./bioengine up` and `setup` keep it up to date."""
    _check(name)
    if not build_environments("runner", name, renew=True):
        raise typer.Exit(1)
    console.print(f"The environment {name} is there: it {OPTIONAL[name]}.")
    if name in CONVERTING:
        console.print("Models that are already stored are converted by: ./bioengine models convert ID, or --all")
    else:
        console.print("A running server uses it after its next start.")


@app.command()
def remove(name: NameArgument) -> None:
    """Remove an optional environment. Models that were converted with it stay."""
    _check(name)
    if not remove_environment(name):
        raise typer.Exit(1)
    console.print(f"Removed {name}.")


def _check(name: str) -> None:
    if name not in OPTIONAL:
        fail(f"There is no optional environment {name!r}. Expected: {', '.join(OPTIONAL)}.")
    if not can_build():
        fail("The environments of a container are in its image (docs/containers.md).")
