"""The command line, `./bioengine`. Each flag has an environment twin, so every command sees the same settings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from bioengine_contract.version import VERSION

from bioengine_server.commands import (
    apps,
    bench,
    conversion,
    doctor,
    environments,
    images,
    models,
    operations,
    server,
    setup,
    slurm,
    soak,
    tokens,
    workers,
    zoo_report,
)
from bioengine_server.commands.shared import fail, load_settings
from bioengine_server.environments import environment

app = typer.Typer(
    help="Run bioimage.io models on your own hardware, as a self-hosted BioEngine server.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(setup.setup)
app.command()(server.up)
app.command()(images.demo)
app.command()(images.run)
app.command()(bench.bench)
app.command()(soak.soak)
app.command()(doctor.doctor)
models.app.command("convert")(conversion.convert_models)
app.add_typer(models.app, name="models")
app.command("zoo-report")(zoo_report.zoo_report)
app.add_typer(apps.app, name="apps")
app.add_typer(environments.app, name="environments")
app.command()(operations.status)
app.command()(operations.ps)
app.command()(operations.unload)
app.command()(operations.cancel)
app.command()(operations.logs)
app.command()(workers.worker)
app.add_typer(workers.app, name="workers")
app.command()(slurm.slurm)
for replaced in (server.register, server.triton):
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(replaced)
app.add_typer(tokens.app, name="token")


def tell_version(wanted: bool) -> None:
    if wanted:
        print(f"bioengine {VERSION}")
        raise typer.Exit


@app.callback()
def before_each_command(
    version: Annotated[bool, typer.Option("--version", callback=tell_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    prefix = Path(sys.prefix)
    environment(prefix.parent, prefix.name)  # no `setup` removes it while we run in it


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(
    context: typer.Context,
    all: Annotated[bool, typer.Option("--all", help="All tests, not only the core tier.")] = False,
    changed: Annotated[
        bool, typer.Option("--changed", help="The checks, and the tests that the changes since the last commit may affect.")
    ] = False,
    checks: Annotated[bool, typer.Option("--checks", help="Only the linter and the type checker.")] = False,
) -> None:
    """Run the project's checks and tests. Further arguments are passed to pytest."""
    from bioengine_server.project import IS_INSTALLED
    from bioengine_server.testing.run import run_checks, run_tests

    if IS_INSTALLED:
        fail("The tests are not in the installed package. Run them in a checkout of the sources: ./bioengine test")
    settings = load_settings()
    if checks:
        raise typer.Exit(run_checks(settings))
    raise typer.Exit(run_tests(settings, all_tiers=all, only_changed=changed, pytest_arguments=context.args))
