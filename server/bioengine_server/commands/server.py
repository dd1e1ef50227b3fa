"""`up`: the command that runs the server; and what has become of `register` and `triton`."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from typing import Annotated, Any, Optional

import typer
from bioengine_contract.lean_import import lean_import

from bioengine_server.commands.shared import (
    HomeOption,
    OfflineOption,
    configure_logging,
    console,
    fail,
    keep_files_private,
    load_settings,
    told,
)
from bioengine_server.memory import keeping_memory
from bioengine_server.settings import Settings

_REPLACED = (
    "`register` and `triton` were replaced by `bioengine worker`, which does the work of both. On the server's machine: "
    "`./bioengine token create NAME --worker > worker.token`, and start it with `./bioengine up --workers-only` unless it has a "
    "Triton of its own. On this machine: `./bioengine worker URL --token-file worker.token`."
)

TritonOption = Annotated[
    Optional[str],
    typer.Option(envvar="BIOENGINE_TRITON", help="embedded, workers, or the URL of a Triton. \\[embedded]"),
]


def up(
    host: Annotated[Optional[str], typer.Option(envvar="BIOENGINE_HOST", help="Address to listen on. [127.0.0.1]")] = None,
    port: Annotated[Optional[int], typer.Option(envvar="BIOENGINE_PORT", help="Port for all clients. [9520]")] = None,
    home: HomeOption = None,
    offline: OfflineOption = None,
    triton: TritonOption = None,
    access: Annotated[
        Optional[str], typer.Option(envvar="BIOENGINE_ACCESS", help="Who may run models: auto, open or token. \\[auto]")
    ] = None,
    workers_only: Annotated[
        bool, typer.Option("--workers-only", help="Without a Triton here: models run on workers that join. [--triton workers]")
    ] = False,
) -> None:
    """Start the server in the foreground. Ctrl-C stops it and everything that it has started."""
    triton = "workers" if workers_only else triton
    settings = load_settings(host=host, port=port, home=home, offline=offline, triton=triton, access=access)
    configure_logging(settings)
    with lean_import():
        from bioengine_server.access.rules import access_of
        from bioengine_server.snippet import first_call
        from bioengine_server.stack import run_stack

    print(f"BioEngine, home {settings.home}", flush=True)
    warn_of_other_users(settings)

    def ready() -> None:
        console.print(f"\n[bold green]Ready:[/] {settings.advertised_url}")
        console.print(f"Health: {settings.advertised_url}/health/readiness")
        console.print(f"Access: {access_of(settings)}")
        if settings.tells_others_loopback:
            console.print(
                f"Clients on other machines get {settings.advertised_url} as the address of models' samples and covers, which is "
                f"not this machine for them: BIOENGINE_PUBLIC_URL=http://{socket.gethostname()}:{settings.port}, or another name "
                "of this machine, corrects that."
            )
        console.print("\nTry it:\n")
        print(first_call(settings), flush=True)

    if run(run_stack(settings, on_start=announce, on_ready=ready)):
        print("Restarting.", flush=True)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    console.print("Stopped.")


def register() -> None:
    """Replaced by `bioengine worker`."""
    fail(_REPLACED)


def triton() -> None:
    """Replaced by `bioengine worker`."""
    fail(_REPLACED)


def warn_of_other_users(settings: Settings) -> None:
    """Warn if other users of this machine can reach Triton's port and read its secret."""
    if not settings.triton_port or settings.triton_is_elsewhere or settings.triton == "workers":
        return
    from bioengine_server.other_users import other_users

    if others := other_users():
        print(
            f"  note: this machine has other users ({others}), who can reach Triton on port {settings.triton_port} and can read "
            "its secret from its command line. Without BIOENGINE_TRITON_PORT Triton listens on a socket that they cannot open.",
            flush=True,
        )


def announce(what: str) -> None:
    print(f"  starting {what}", flush=True)


def run(work: Any) -> Any:
    """Run `work` and return its result; a BioEngineError ends the command with its message."""
    keep_files_private()
    with told():
        return asyncio.run(keeping_memory(work))
