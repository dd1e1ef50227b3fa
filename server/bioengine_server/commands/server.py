"""`up`, `register`, `triton`: the commands that run servers."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from typing import Annotated, Any, Optional

import typer

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

TritonOption = Annotated[
    Optional[str], typer.Option(envvar="BIOENGINE_TRITON", help="embedded, none, or the URL of another Triton. [embedded]")
]


def up(
    host: Annotated[Optional[str], typer.Option(envvar="BIOENGINE_HOST", help="Address to listen on. [127.0.0.1]")] = None,
    port: Annotated[Optional[int], typer.Option(envvar="BIOENGINE_PORT", help="Port for all clients. [9520]")] = None,
    home: HomeOption = None,
    offline: OfflineOption = None,
    triton: TritonOption = None,
    access: Annotated[
        Optional[str], typer.Option(envvar="BIOENGINE_ACCESS", help="Who may run models: auto, open or token. [auto]")
    ] = None,
) -> None:
    """Start the server in the foreground. Ctrl-C stops it and everything that it has started."""
    settings = load_settings(host=host, port=port, home=home, offline=offline, triton=triton, access=access)
    configure_logging(settings)
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


def register(
    server_url: Annotated[str, typer.Argument(help="URL of the Hypha server, such as http://gateway:9520.")],
    home: HomeOption = None,
    triton: TritonOption = None,
) -> None:
    """Offer a Triton on another machine in a Hypha server, from a separate process.

    BIOENGINE_TOKEN is the token (`./bioengine token create NAME --registration` on the Hypha server's machine),
    BIOENGINE_TRITON_SECRET is Triton's secret. The home has to be that of Triton: requested models are downloaded into it.
    """
    settings = load_settings(home=home, triton=triton)
    configure_logging(settings)
    from bioengine_server.stack import run_registration

    token = os.environ.get("BIOENGINE_TOKEN", "")
    if not token:
        fail(
            "BIOENGINE_TOKEN is not set. Create a token with `./bioengine token create NAME --registration` on the machine of "
            "the Hypha server."
        )
    run(run_registration(settings, server_url.rstrip("/"), token))


def triton(home: HomeOption = None) -> None:
    """Start only Triton, for a `register` command that uses the printed address. Needs BIOENGINE_TRITON_SECRET.

    Triton listens on a Unix socket, or with BIOENGINE_TRITON_PORT on that port of loopback.
    """
    settings = load_settings(home=home)
    configure_logging(settings)
    warn_of_other_users(settings)
    from bioengine_server.stack import run_triton

    run(run_triton(settings, on_start=announce))


def warn_of_other_users(settings: Settings) -> None:
    """Warn if other users of this machine can reach Triton's port and read its secret."""
    if not settings.triton_port or settings.triton_is_elsewhere or settings.triton == "none":
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
