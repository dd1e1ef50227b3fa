"""The command line, `./bioengine`. Each flag has an environment twin, so every command sees the same settings."""

from __future__ import annotations

from typing import Annotated

import typer

from bioengine_server.commands import bench, doctor, images, models, server
from bioengine_server.commands.shared import load_settings

app = typer.Typer(
    help="A BioEngine of your own: bioimage.io models by id, on your own machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(server.up)
app.command()(images.demo)
app.command()(images.run)
app.command()(bench.bench)
app.command()(doctor.doctor)
app.add_typer(models.app, name="models")
app.command()(server.register)
app.command()(server.triton)
app.command()(server.token)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(
    context: typer.Context,
    all: Annotated[bool, typer.Option("--all", help="All tiers, not the core only.")] = False,
) -> None:
    """Run the project's checks and tests. Further arguments go to pytest."""
    from bioengine_server.testing import run_tests

    raise typer.Exit(run_tests(load_settings(), all_tiers=all, pytest_arguments=context.args))
