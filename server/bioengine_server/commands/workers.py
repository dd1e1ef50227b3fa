"""`worker`, and `workers` with `drain`: run a worker, and look after those of a server."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer
from bioengine_contract.lean_import import lean_import
from rich.table import Column, Table

from bioengine_server.commands.server import announce, run
from bioengine_server.commands.shared import (
    HomeOption,
    configure_logging,
    console,
    fail,
    load_home_settings,
    load_settings,
    safe,
    told,
)
from bioengine_server.control.client import ControlClient
from bioengine_server.settings import Settings

app = typer.Typer(help="The workers of a running server: list them, or drain one.", invoke_without_command=True)


def worker(
    server_url: Annotated[
        Optional[str], typer.Argument(envvar="BIOENGINE_SERVER_URL", help="URL of the server, such as https://bioengine.lab.")
    ] = None,
    token_file: Annotated[
        Optional[Path],
        typer.Option(
            envvar="BIOENGINE_WORKER_TOKEN_FILE", help="File with the token that `token create NAME --worker` has printed."
        ),
    ] = None,
    name: Annotated[
        Optional[str], typer.Option(envvar="BIOENGINE_WORKER_NAME", help="The worker's name. \\[the machine's]")
    ] = None,
    places: Annotated[
        Optional[int],
        typer.Option(envvar="BIOENGINE_PLACES", help="Requests at once before others go to another worker. [4]"),
    ] = None,
    home: HomeOption = None,
) -> None:
    """Run models for a server, on this machine. Ctrl-C or SIGTERM finishes what it has in hand, and ends it.

    The worker only opens connections to the server; it needs no open port, no shared disk and no internet. It copies models from
    the server into its home.
    """
    settings = load_settings(server_url=server_url, worker_token_file=token_file, worker_name=name, places=places, home=home)
    if not settings.server_url:
        fail("The URL of the server is missing: ./bioengine worker https://bioengine.lab --token-file worker.token")
    token = _token(settings)
    configure_logging(settings)
    with lean_import():
        from bioengine_server.worker_side.run import run_worker

    if run(run_worker(settings, token, _lack_of_card(settings), on_start=announce)):
        print("Restarting.", flush=True)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it has ended well; a late one would say otherwise
    console.print("The worker has ended.")


@app.callback()
def workers(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: all of it, as JSON.")] = False,
    home: HomeOption = None,
) -> None:
    """List the workers of the running server."""
    if context.invoked_subcommand is not None:
        return
    with told():
        found = ControlClient(load_home_settings(home=home)).workers()
    if as_json:
        print(json.dumps(found, indent=2))
        return
    if not found["workers"]:
        console.print("No worker has joined. On another machine: ./bioengine worker URL --token-file FILE")
    else:
        columns = ("machine", "state", "in flight", "models", "GPUs", "memory of models", "last seen")
        table = Table(Column("worker", no_wrap=True), *columns, box=None, pad_edge=False)
        for each in found["workers"]:
            reason = f": {each['reason']}" if each["reason"] else ""
            memory = each["memory"]
            table.add_row(
                safe(each["name"]) or "(the server's own)",
                safe(each["host"]),
                safe(f"{each['state']}{reason}"),
                f"{each['in_flight']} of {each['places']}",
                safe(", ".join(each["models"]), 300),
                safe(", ".join(card["name"] for card in each["cards"]), 300),
                f"{memory['held'] / 1e9:.1f} of {memory['limit'] / 1e9:.1f} GB",
                "now" if each["last_seen"] < 2 else f"{each['last_seen']:.0f} s ago",
            )
        console.print(table)
    console.print(f"\nrequests: {found['running']} running, {found['waiting']} waiting")


@app.command()
def drain(name: Annotated[str, typer.Argument(help="Of the worker, as `workers` lists it.")], home: HomeOption = None) -> None:
    """Have a worker finish what it has in hand, leave, and end; its models' requests go to others at once."""
    with told():
        ControlClient(load_home_settings(home=home)).drain(name)
    console.print(f"{name} takes nothing new. It ends when it has finished what it has in hand.", markup=False)


def _token(settings: Settings) -> str:
    file = settings.worker_token_file
    if file is None:
        fail(
            "The file with the token is missing: --token-file FILE. On the server's machine, "
            "`./bioengine token create NAME --worker > worker.token` makes it."
        )
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        fail(f"The token in {file} cannot be read: {reason}. Copy the file from the server's machine.")
    if not token or any(character.isspace() or not character.isprintable() for character in token):
        fail(f"{file} has no token in it. On the server's machine: ./bioengine token create NAME --worker > worker.token")
    return token


def _lack_of_card(settings: Settings) -> str:
    """Why this machine has not the GPU that the settings ask for; empty: it has, or they ask for none."""
    if settings.accelerator != "cuda":
        return ""
    from bioengine_server.doctor.gpu import driver
    from bioengine_server.doctor.setup import Setup

    problems = [finding for finding in driver(Setup(settings, {})) if finding.verdict == "problem"]
    return f"BIOENGINE_ACCELERATOR=cuda, but {problems[0].found}. {problems[0].advice}" if problems else ""
