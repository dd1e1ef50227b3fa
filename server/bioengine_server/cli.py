"""The command line, `./bioengine`. Each flag has an environment twin, so every command sees the same settings."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn, Optional

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Column, Table

from bioengine_server.errors import BioEngineError
from bioengine_server.settings import Settings

app = typer.Typer(
    help="A BioEngine of your own: bioimage.io models by id, on your own machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
models_app = typer.Typer(help="The models of this BioEngine.", no_args_is_help=True)
app.add_typer(models_app, name="models")

console = Console(highlight=False)

HomeOption = Annotated[Optional[Path], typer.Option(envvar="BIOENGINE_HOME", help="Folder of models and secrets. [~/.bioengine]")]
TritonOption = Annotated[
    Optional[str], typer.Option(envvar="BIOENGINE_TRITON", help="embedded, none, or the URL of another Triton. [embedded]")
]


@app.command()
def up(
    host: Annotated[Optional[str], typer.Option(envvar="BIOENGINE_HOST", help="Address to listen on. [127.0.0.1]")] = None,
    port: Annotated[Optional[int], typer.Option(envvar="BIOENGINE_PORT", help="Port for all clients. [9520]")] = None,
    home: HomeOption = None,
    offline: Annotated[
        Optional[bool], typer.Option("--offline", envvar="BIOENGINE_OFFLINE", help="Never go to the internet.")
    ] = None,
    triton: TritonOption = None,
) -> None:
    """Start the server and stay in the foreground; Ctrl-C ends all of it."""
    settings = load_settings(host=host, port=port, home=home, offline=offline, triton=triton)
    configure_logging(settings)
    from bioengine_server.snippet import first_call
    from bioengine_server.stack import run_stack

    print(f"BioEngine, home {settings.home}", flush=True)

    def ready() -> None:
        console.print(f"\n[bold green]Ready:[/] {settings.url}")
        console.print(f"Health: {settings.url}/health/readiness\n\nTry it:\n")
        print(first_call(settings), flush=True)

    run(run_stack(settings, on_start=announce, on_ready=ready))
    console.print("Stopped.")


@app.command()
def register(
    server_url: Annotated[str, typer.Argument(help="URL of the Hypha server, such as http://gateway:9520.")],
    triton: TritonOption = None,
) -> None:
    """Offer a Triton elsewhere in a Hypha server, as a process of its own.

    The token (`./bioengine token` on the Hypha server's machine) is taken from BIOENGINE_TOKEN, the Triton's secret from
    BIOENGINE_TRITON_SECRET.
    """
    settings = load_settings(triton=triton)
    configure_logging(settings)
    from bioengine_server.stack import run_registration

    token = os.environ.get("BIOENGINE_TOKEN", "")
    if not token:
        fail("BIOENGINE_TOKEN is not set. Make a token with `./bioengine token` on the machine of the Hypha server.")
    run(run_registration(settings, server_url.rstrip("/"), token))


@app.command()
def triton(home: HomeOption = None) -> None:
    """Start Triton alone, on loopback, for a `register` elsewhere. Needs BIOENGINE_TRITON_SECRET and BIOENGINE_TRITON_PORT."""
    settings = load_settings(home=home)
    configure_logging(settings)
    from bioengine_server.stack import run_triton

    run(run_triton(settings, on_start=announce))


@app.command()
def token(
    home: HomeOption = None,
    days: Annotated[float, typer.Option(help="How long the token is valid.")] = 365.0,
) -> None:
    """Print a token for `./bioengine register`."""
    from bioengine_server.hub.tokens import registration_token

    settings = load_settings(home=home)
    try:
        print(registration_token(settings, days))
    except BioEngineError as error:
        fail(str(error))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(
    context: typer.Context,
    all: Annotated[bool, typer.Option("--all", help="All tiers, not the core only.")] = False,
) -> None:
    """Run the project's checks and tests. Further arguments go to pytest."""
    from bioengine_server.testing import run_tests

    raise typer.Exit(run_tests(load_settings(), all_tiers=all, pytest_arguments=context.args))


@models_app.command("import")
def import_model(
    package: Annotated[Path, typer.Argument(help="A package folder, or a .zip.")],
    id: Annotated[Optional[str], typer.Option(help="The id to store it under, instead of its own.")] = None,
    home: HomeOption = None,
) -> None:
    """Import a bioimage.io package."""
    from bioengine_server.store.model_store import ModelStore

    settings = load_settings(home=home)
    try:
        with console.status(f"Importing {package} ..."):
            model = ModelStore(settings.store).import_package(package, id)
    except BioEngineError as error:
        fail(str(error))
    manifest = model.manifest
    console.print(f"Imported [bold]{manifest.id}[/] {manifest.version} ({manifest.size / 1e6:.1f} MB): {manifest.name}")
    if manifest.code:
        console.print(f"  It will not be run: {'; '.join(manifest.code)}.", style="yellow")
    elif not manifest.weights:
        console.print(f"  It will not be run: it has {', '.join(manifest.unsupported_weights)} weights only.", style="yellow")
    else:
        console.print(f"  Weights: {', '.join(manifest.weights)}")
        for spec in manifest.inputs:
            axes = ", ".join(f"{axis.id}" for axis in spec.axes)
            console.print(f"  Input '{spec.id}': {spec.dtype} ({axes})")


@models_app.command("list")
def list_models(home: HomeOption = None) -> None:
    """List the stored models."""
    from bioengine_server.store.model_store import ModelStore

    models = ModelStore(load_settings(home=home).store).models()
    if not models:
        console.print("No models yet. Import one with: ./bioengine models import FOLDER_OR_ZIP")
        return
    table = Table(Column("id", no_wrap=True), "version", "weights", "size", "name", box=None, pad_edge=False)
    for model in models:
        manifest = model.manifest
        weights = "not run (own code)" if manifest.code else ", ".join(manifest.weights) or "not run (no onnx or torchscript)"
        version = manifest.version if model.is_default else f"{manifest.version} (older)"
        table.add_row(manifest.id, version, weights, f"{manifest.size / 1e6:.1f} MB", manifest.name)
    console.print(table)


@models_app.command("remove")
def remove_model(
    id: Annotated[str, typer.Argument(help="A model's id, or id/version for one of its versions.")],
    home: HomeOption = None,
) -> None:
    """Remove a model from the store."""
    from bioengine_server.store.model_store import ModelStore

    try:
        removed = ModelStore(load_settings(home=home).store).remove(id)
    except BioEngineError as error:
        fail(str(error))
    console.print(f"Removed {', '.join(removed)}.")


def load_settings(**flags: Any) -> Settings:
    """The settings from the environment, with the flags that were given on top."""
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, item['loc']))}: {item['msg']} (it is {item['input']!r})" for item in error.errors()]
        fail("A setting cannot be used:\n  " + "\n  ".join(problems))


def configure_logging(settings: Settings) -> None:
    level = logging.DEBUG if settings.debug else logging.INFO
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    logging.getLogger("bioengine_server").setLevel(level)
    # Hypha's modules set their loggers' levels from here when they are imported.
    os.environ.setdefault("HYPHA_LOGLEVEL", "DEBUG" if settings.debug else "ERROR")


def announce(what: str) -> None:
    print(f"  starting {what}", flush=True)


def run(work: Any) -> None:
    try:
        asyncio.run(work)
    except BioEngineError as error:
        fail(str(error))


def fail(text: str) -> NoReturn:
    print(f"bioengine: {text}", file=sys.stderr)
    raise SystemExit(1)
